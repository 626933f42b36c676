from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_FIELD_REQUIRED: _ClassVar[ErrorReason]
    ERROR_REASON_FIELD_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_VALUE_NOT_FINITE: _ClassVar[ErrorReason]
    ERROR_REASON_FEATURE_TYPE: _ClassVar[ErrorReason]
    ERROR_REASON_FEATURE_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_NO_KNOWN_FEATURE: _ClassVar[ErrorReason]
    ERROR_REASON_SCHEMA_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_DIMENSION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_FILTER_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_ITEM_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_RELEASE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_RELEASE_NOT_LOADED: _ClassVar[ErrorReason]
    ERROR_REASON_RELEASE_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_ITEM_KEY_COLLISION: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_FIELD_REQUIRED: ErrorReason
ERROR_REASON_FIELD_CONFLICT: ErrorReason
ERROR_REASON_VALUE_NOT_FINITE: ErrorReason
ERROR_REASON_FEATURE_TYPE: ErrorReason
ERROR_REASON_FEATURE_UNKNOWN: ErrorReason
ERROR_REASON_NO_KNOWN_FEATURE: ErrorReason
ERROR_REASON_SCHEMA_MISMATCH: ErrorReason
ERROR_REASON_DIMENSION_MISMATCH: ErrorReason
ERROR_REASON_LIMIT_EXCEEDED: ErrorReason
ERROR_REASON_FILTER_INVALID: ErrorReason
ERROR_REASON_ITEM_NOT_FOUND: ErrorReason
ERROR_REASON_RELEASE_NOT_FOUND: ErrorReason
ERROR_REASON_RELEASE_NOT_LOADED: ErrorReason
ERROR_REASON_RELEASE_MISMATCH: ErrorReason
ERROR_REASON_ITEM_KEY_COLLISION: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_NOT_READY: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_DEADLINE: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason

class Problem(_message.Message):
    __slots__ = ("index", "code", "reason", "message", "field")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: int
    reason: ErrorReason
    message: str
    field: str
    def __init__(self, index: _Optional[int] = ..., code: _Optional[int] = ..., reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ..., field: _Optional[str] = ...) -> None: ...
