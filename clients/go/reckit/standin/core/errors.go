package core

// DomainError is the one error of the domain.
type DomainError struct {
	Code    string
	Message string
	Module  string
}

func (e *DomainError) Error() string { return e.Message }

// GetDomainError does not unwrap.
func GetDomainError(err error) *DomainError {
	domainErr, _ := err.(*DomainError)
	return domainErr
}

// NewDomainError makes one.
func NewDomainError(module, code, message string) *DomainError {
	return &DomainError{Module: module, Code: code, Message: message}
}

// Codes and modules.
const (
	ErrorCodeNotFound      = "NOT_FOUND"
	ErrorCodeNotSupported  = "NOT_SUPPORTED"
	ErrorCodeUnavailable   = "UNAVAILABLE"
	ErrorCodeInvalidInput  = "INVALID_INPUT"
	ErrorCodeInternalError = "INTERNAL_ERROR"

	ModuleVector  = "vector"
	ModuleService = "service"
)

// IsNotFound asks for NOT_FOUND.
func IsNotFound(err error) bool { return hasCode(err, ErrorCodeNotFound) }

// IsNotSupported asks for NOT_SUPPORTED.
func IsNotSupported(err error) bool { return hasCode(err, ErrorCodeNotSupported) }

// IsUnavailable asks for UNAVAILABLE.
func IsUnavailable(err error) bool { return hasCode(err, ErrorCodeUnavailable) }

func hasCode(err error, code string) bool {
	domainErr := GetDomainError(err)
	return domainErr != nil && domainErr.Code == code
}
