package twotower

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	twotowerv1 "github.com/twotower/twotower/clients/go/gen/twotower/v1"
)

func TestEveryReasonHasASentinelThatEqualsItAlone(t *testing.T) {
	sentinels := []error{
		ErrFieldRequired, ErrFieldConflict, ErrValueNotFinite, ErrFeatureType, ErrFeatureUnknown, ErrNoKnownFeature,
		ErrSchemaMismatch, ErrDimensionMismatch, ErrLimitExceeded, ErrFilterInvalid, ErrItemNotFound, ErrReleaseNotFound,
		ErrReleaseNotLoaded, ErrReleaseMismatch, ErrItemKeyCollision, ErrOverloaded, ErrNotReady, ErrStoreUnavailable,
		ErrDeadline, ErrInternal,
	}
	if want := len(twotowerv1.ErrorReason_name) - 1; len(sentinels) != want {
		t.Fatalf("%d sentinels, the contract has %d reasons", len(sentinels), want)
	}
	for number := range twotowerv1.ErrorReason_name {
		err := errorOf(refusal(codes.Aborted, Reason(number)))
		for i, sentinel := range sentinels {
			if is := errors.Is(err, sentinel); is != (int32(i+1) == number) {
				t.Errorf("%v is %v: %t", err, sentinel, is)
			}
		}
	}
}

func TestErrorTellsWhatTheServerSaid(t *testing.T) {
	wire := refusal(codes.FailedPrecondition, twotowerv1.ErrorReason_ERROR_REASON_RELEASE_NOT_LOADED, retryAfter(time.Second))
	var err *Error
	if !errors.As(errorOf(wire), &err) {
		t.Fatal("it is no *Error")
	}
	if err.Code != codes.FailedPrecondition || err.Message != "no" || err.Field != "user" || err.RetryAfter != time.Second {
		t.Errorf("%+v", err)
	}
	if got, want := err.Error(), "twotower: RELEASE_NOT_LOADED: user: no"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if status.Code(err) != codes.FailedPrecondition || !errors.Is(err, wire) {
		t.Error("the gRPC status is lost")
	}
	if details := status.Convert(err).Details(); len(details) != 2 {
		t.Errorf("details: %v", details)
	}
}

func TestErrorWithoutDetailsIsReadFromItsMessage(t *testing.T) {
	err := errorOf(status.Error(codes.InvalidArgument, "NO_KNOWN_FEATURE: not one"))
	if !errors.Is(err, ErrNoKnownFeature) || err.Error() != "twotower: NO_KNOWN_FEATURE: not one" {
		t.Error(err)
	}
}

func TestErrorInfoOfAnotherDomainIsNotOurs(t *testing.T) {
	info := &errdetails.ErrorInfo{Reason: "OVERLOADED", Domain: "proxy"}
	wire, _ := status.New(codes.ResourceExhausted, "busy").WithDetails(info)
	if err := errorOf(wire.Err()); errors.Is(err, ErrOverloaded) {
		t.Error(err)
	}
}

func TestErrorOfGRPCItselfHasNoReason(t *testing.T) {
	err := errorOf(status.Error(codes.Unavailable, "connection refused"))
	if !errors.Is(err, ErrUnavailable) || err.Error() != "twotower: Unavailable: connection refused" {
		t.Error(err)
	}
	for code, want := range map[codes.Code]error{
		codes.DeadlineExceeded: context.DeadlineExceeded, codes.Canceled: context.Canceled,
	} {
		if err := errorOf(status.Error(code, "")); !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
}

func TestAReasonOfANewerServerIsUnspecified(t *testing.T) {
	problem := &twotowerv1.Problem{Code: int32(codes.InvalidArgument), Reason: 999, Message: "NEW: no"}
	if err := problemError(problem); err.Reason != 0 || err.Error() != "twotower: InvalidArgument: NEW: no" {
		t.Error(err)
	}
}

func TestErrorsOfEntriesAreJoinedInTheirOrder(t *testing.T) {
	if err := (EntryErrors)(nil).Err(); err != nil {
		t.Error(err)
	}
	entries := EntryErrors{
		7: {Code: codes.NotFound, Reason: twotowerv1.ErrorReason_ERROR_REASON_ITEM_NOT_FOUND, Message: "gone"},
		2: {Code: codes.InvalidArgument, Reason: twotowerv1.ErrorReason_ERROR_REASON_FEATURE_TYPE, Message: "text"},
	}
	err := entries.Err()
	if !errors.Is(err, ErrItemNotFound) || !errors.Is(err, ErrFeatureType) || errors.Is(err, ErrOverloaded) {
		t.Error(err)
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[0], "entry 2: ") {
		t.Error(err)
	}
}
