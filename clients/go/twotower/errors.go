package twotower

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

// Reason says why the server refused; UNSPECIFIED where gRPC itself failed, or where the server is newer than this
// client and knows more reasons.
type Reason = twotowerv1.ErrorReason

// What errors.Is asks of an error, by the server's reason.
var (
	ErrFieldRequired     error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_FIELD_REQUIRED)
	ErrFieldConflict     error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_FIELD_CONFLICT)
	ErrValueNotFinite    error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_VALUE_NOT_FINITE)
	ErrFeatureType       error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_FEATURE_TYPE)
	ErrFeatureUnknown    error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_FEATURE_UNKNOWN)
	ErrNoKnownFeature    error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_NO_KNOWN_FEATURE)
	ErrSchemaMismatch    error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_SCHEMA_MISMATCH)
	ErrDimensionMismatch error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_DIMENSION_MISMATCH)
	ErrLimitExceeded     error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_LIMIT_EXCEEDED)
	ErrFilterInvalid     error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_FILTER_INVALID)
	ErrItemNotFound      error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_ITEM_NOT_FOUND)
	ErrReleaseNotFound   error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_FOUND)
	ErrReleaseNotLoaded  error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_LOADED)
	ErrReleaseMismatch   error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_RELEASE_MISMATCH)
	ErrItemKeyCollision  error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_ITEM_KEY_COLLISION)
	ErrOverloaded        error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_OVERLOADED)
	ErrNotReady          error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_NOT_READY)
	ErrStoreUnavailable  error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE)
	ErrDeadline          error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_DEADLINE)
	ErrInternal          error = reasonError(twotowerv1.ErrorReason_ERROR_REASON_INTERNAL)
)

// What errors.Is asks of an error, whatever its reason. A call that ran out of time is context.DeadlineExceeded, one
// whose context was cancelled context.Canceled.
var (
	// ErrUnavailable: no server answers, or none that is ready.
	ErrUnavailable = errors.New("twotower: UNAVAILABLE")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("twotower: the client is closed")
)

// errorDomain is that of the server's google.rpc.ErrorInfo.
const errorDomain = "twotower"

// reasonError is a sentinel: it equals every Error of its reason.
type reasonError Reason

func (r reasonError) Error() string { return "twotower: " + reasonName(Reason(r)) }

// Error is a call, or one entry of a batch, that failed. Every error of this package is one, or a mistake in options.
//
// It also is a gRPC status: status.Code and status.FromError read it.
type Error struct {
	// Code is the status code; that of an entry is what it would have had as a call of its own.
	Code codes.Code
	// Reason is the server's.
	Reason Reason
	// Message is one sentence for people, without the reason.
	Message string
	// Field is the path of the field at fault, such as "user.features[user_age]"; "" when it is not a single one.
	Field string
	// RetryAfter is how long the server asks to wait before another try; 0 when it does not say.
	RetryAfter time.Duration

	cause error
}

// Error begins with the reason, else the code.
func (e *Error) Error() string {
	name := reasonName(e.Reason)
	if e.Reason == twotowerv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		name = e.Code.String()
	}
	if e.Field != "" {
		return fmt.Sprintf("twotower: %s: %s: %s", name, e.Field, e.Message)
	}
	return fmt.Sprintf("twotower: %s: %s", name, e.Message)
}

// Unwrap returns the gRPC status error that the call ended with, or what stopped it on this side.
func (e *Error) Unwrap() error { return e.cause }

// Is compares with the sentinels of this package and with the errors of contexts.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrUnavailable:
		return e.Code == codes.Unavailable
	case context.DeadlineExceeded:
		return e.Code == codes.DeadlineExceeded
	case context.Canceled:
		return e.Code == codes.Canceled
	}
	reason, ok := target.(reasonError)
	return ok && e.Reason == Reason(reason)
}

// GRPCStatus returns the same as a gRPC status.
func (e *Error) GRPCStatus() *status.Status {
	var wire interface{ GRPCStatus() *status.Status }
	if errors.As(e.cause, &wire) {
		return wire.GRPCStatus()
	}
	return status.New(e.Code, strings.TrimPrefix(e.Error(), "twotower: "))
}

// mayPass says whether the same call may succeed a little later (CONTRACT rule 9): gRPC itself says RESOURCE_EXHAUSTED
// of messages that are too large, for ever.
func (e *Error) mayPass() bool {
	return e.Code == codes.Unavailable || e.Reason == twotowerv1.ErrorReason_ERROR_REASON_OVERLOADED
}

// EntryErrors holds the entries of a batch that failed alone, by their index.
type EntryErrors map[int]*Error

// Err returns nil when all were served, else the errors of all that failed, joined, in the order of the batch.
func (e EntryErrors) Err() error {
	indices := make([]int, 0, len(e))
	for index := range e {
		indices = append(indices, index)
	}
	slices.Sort(indices)
	all := make([]error, 0, len(e))
	for _, index := range indices {
		all = append(all, fmt.Errorf("entry %d: %w", index, e[index]))
	}
	return errors.Join(all...)
}

// errorOf reads what gRPC returned. nil stays nil.
func errorOf(err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	wire := status.Convert(err)
	found := &Error{Code: wire.Code(), Message: wire.Message(), cause: err}
	for _, detail := range wire.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				found.Reason = reasonOf(detail.GetReason())
				found.Field = detail.GetMetadata()["field"]
			}
		case *errdetails.RetryInfo:
			found.RetryAfter = max(0, detail.GetRetryDelay().AsDuration())
		}
	}
	if found.Reason == 0 { // where a proxy has dropped the details, the message still begins with the reason
		if leading, _, ok := strings.Cut(found.Message, ": "); ok {
			found.Reason = reasonOf(leading)
		}
	}
	found.Message = withoutReason(found.Message, found.Reason)
	return found
}

// problemError is an entry of a batch that failed.
func problemError(problem *twotowerv1.Problem) *Error {
	return &Error{
		Code:    codes.Code(problem.GetCode()),
		Reason:  knownReason(problem.GetReason()),
		Message: withoutReason(problem.GetMessage(), problem.GetReason()),
		Field:   problem.GetField(),
	}
}

func entryErrors(problems []*twotowerv1.Problem) EntryErrors {
	if len(problems) == 0 {
		return nil
	}
	found := make(EntryErrors, len(problems))
	for _, problem := range problems {
		found[int(problem.GetIndex())] = problemError(problem)
	}
	return found
}

// contextError is the end of a call whose context ended on this side.
func contextError(ctx context.Context) *Error {
	cause := context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Code: codes.DeadlineExceeded, Message: "the answer did not come within the call's time", cause: cause}
	}
	return &Error{Code: codes.Canceled, Message: "the call was cancelled before its answer", cause: cause}
}

func reasonName(reason Reason) string {
	return strings.TrimPrefix(reason.String(), "ERROR_REASON_")
}

func reasonOf(name string) Reason {
	return Reason(twotowerv1.ErrorReason_value["ERROR_REASON_"+name])
}

// knownReason is UNSPECIFIED for one that only a newer server knows.
func knownReason(reason Reason) Reason {
	if _, ok := twotowerv1.ErrorReason_name[int32(reason)]; !ok {
		return twotowerv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	return reason
}

func withoutReason(message string, reason Reason) string {
	return strings.TrimPrefix(message, reasonName(reason)+": ")
}

// required is what the server would say of a field that is not set.
func required(field string) *Error {
	return &Error{
		Code:    codes.InvalidArgument,
		Reason:  twotowerv1.ErrorReason_ERROR_REASON_FIELD_REQUIRED,
		Field:   field,
		Message: "set " + field,
	}
}

// unreadable is an answer that does not keep the contract.
func unreadable(message string) *Error { return &Error{Code: codes.Internal, Message: message} }

func entryField(list string, index int) string { return fmt.Sprintf("%s[%d]", list, index) }

// within is the same error, its field seen from outside: within("user") makes user.features[age].
func within(err error, prefix string) error {
	var inner *Error
	if !errors.As(err, &inner) {
		return err
	}
	outer := *inner
	outer.Field = prefix
	if inner.Field != "" {
		outer.Field += "." + inner.Field
	}
	return &outer
}
