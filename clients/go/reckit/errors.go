package reckit

import (
	"errors"

	"github.com/rushteam/reckit/core"
	"google.golang.org/grpc/codes"

	"github.com/twotower/twotower/clients/go/twotower"
)

// domainError turns an error of the client into one of Reckit's. It is returned bare: core.GetDomainError does not
// unwrap. nil stays nil.
func domainError(module string, err error) error {
	if err == nil {
		return nil
	}
	return core.NewDomainError(module, errorCode(err), err.Error())
}

func errorCode(err error) string {
	if errors.Is(err, twotower.ErrItemNotFound) || errors.Is(err, twotower.ErrReleaseNotFound) ||
		errors.Is(err, twotower.ErrReleaseNotLoaded) {
		return core.ErrorCodeNotFound
	}
	if errors.Is(err, twotower.ErrOverloaded) || errors.Is(err, twotower.ErrClosed) {
		return core.ErrorCodeUnavailable
	}
	var refused *twotower.Error
	if !errors.As(err, &refused) {
		return core.ErrorCodeInternalError
	}
	switch refused.Code {
	case codes.NotFound:
		return core.ErrorCodeNotFound
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return core.ErrorCodeUnavailable
	case codes.Unimplemented:
		return core.ErrorCodeNotSupported
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return core.ErrorCodeInternalError
	default:
		return core.ErrorCodeInvalidInput
	}
}

func invalid(module, message string) error {
	return core.NewDomainError(module, core.ErrorCodeInvalidInput, "twotower: "+message)
}

func notSupported(module, message string) error {
	return core.NewDomainError(module, core.ErrorCodeNotSupported, "twotower: "+message)
}

func notFound(module, message string) error {
	return core.NewDomainError(module, core.ErrorCodeNotFound, "twotower: "+message)
}

// short is an answer that lacks entries. Reckit's nodes would index past its end, so the call fails instead.
func short(module string) error {
	return core.NewDomainError(module, core.ErrorCodeInternalError, "twotower: the answer has not one entry for each that was asked for")
}
