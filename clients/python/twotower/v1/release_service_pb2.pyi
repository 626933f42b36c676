from twotower.v1 import serving_pb2 as _serving_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReleaseState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RELEASE_STATE_UNSPECIFIED: _ClassVar[ReleaseState]
    RELEASE_STATE_AVAILABLE: _ClassVar[ReleaseState]
    RELEASE_STATE_VERIFYING: _ClassVar[ReleaseState]
    RELEASE_STATE_LOADED: _ClassVar[ReleaseState]
    RELEASE_STATE_ACTIVE: _ClassVar[ReleaseState]
    RELEASE_STATE_REFUSED: _ClassVar[ReleaseState]
RELEASE_STATE_UNSPECIFIED: ReleaseState
RELEASE_STATE_AVAILABLE: ReleaseState
RELEASE_STATE_VERIFYING: ReleaseState
RELEASE_STATE_LOADED: ReleaseState
RELEASE_STATE_ACTIVE: ReleaseState
RELEASE_STATE_REFUSED: ReleaseState

class ReleaseStatus(_message.Message):
    __slots__ = ("info", "state", "reason", "served", "servers")
    INFO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    info: _serving_pb2.ReleaseInfo
    state: ReleaseState
    reason: str
    served: int
    servers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, info: _Optional[_Union[_serving_pb2.ReleaseInfo, _Mapping]] = ..., state: _Optional[_Union[ReleaseState, str]] = ..., reason: _Optional[str] = ..., served: _Optional[int] = ..., servers: _Optional[_Iterable[str]] = ...) -> None: ...

class ListReleasesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReleasesResponse(_message.Message):
    __slots__ = ("releases", "next_page_token")
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    releases: _containers.RepeatedCompositeFieldContainer[ReleaseStatus]
    next_page_token: str
    def __init__(self, releases: _Optional[_Iterable[_Union[ReleaseStatus, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class LoadReleaseRequest(_message.Message):
    __slots__ = ("release",)
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    release: str
    def __init__(self, release: _Optional[str] = ...) -> None: ...

class LoadReleaseResponse(_message.Message):
    __slots__ = ("status",)
    STATUS_FIELD_NUMBER: _ClassVar[int]
    status: ReleaseStatus
    def __init__(self, status: _Optional[_Union[ReleaseStatus, _Mapping]] = ...) -> None: ...

class ActivateReleaseRequest(_message.Message):
    __slots__ = ("release", "expected_active")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    release: str
    expected_active: str
    def __init__(self, release: _Optional[str] = ..., expected_active: _Optional[str] = ...) -> None: ...

class ActivateReleaseResponse(_message.Message):
    __slots__ = ("previous",)
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    previous: str
    def __init__(self, previous: _Optional[str] = ...) -> None: ...

class RollbackReleaseRequest(_message.Message):
    __slots__ = ("from_release",)
    FROM_RELEASE_FIELD_NUMBER: _ClassVar[int]
    from_release: str
    def __init__(self, from_release: _Optional[str] = ...) -> None: ...

class RollbackReleaseResponse(_message.Message):
    __slots__ = ("active",)
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    active: str
    def __init__(self, active: _Optional[str] = ...) -> None: ...

class SetTrafficSplitRequest(_message.Message):
    __slots__ = ("shares",)
    class SharesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.ScalarMap[str, float]
    def __init__(self, shares: _Optional[_Mapping[str, float]] = ...) -> None: ...

class SetTrafficSplitResponse(_message.Message):
    __slots__ = ("shares",)
    class SharesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SHARES_FIELD_NUMBER: _ClassVar[int]
    shares: _containers.ScalarMap[str, float]
    def __init__(self, shares: _Optional[_Mapping[str, float]] = ...) -> None: ...
