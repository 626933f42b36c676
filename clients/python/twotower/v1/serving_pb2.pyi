from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Similarity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIMILARITY_UNSPECIFIED: _ClassVar[Similarity]
    SIMILARITY_DOT: _ClassVar[Similarity]
    SIMILARITY_COSINE: _ClassVar[Similarity]
SIMILARITY_UNSPECIFIED: Similarity
SIMILARITY_DOT: Similarity
SIMILARITY_COSINE: Similarity

class Limits(_message.Message):
    __slots__ = ("users", "items", "k", "exclusions", "features", "id_bytes", "request_bytes", "response_bytes")
    USERS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ID_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    users: int
    items: int
    k: int
    exclusions: int
    features: int
    id_bytes: int
    request_bytes: int
    response_bytes: int
    def __init__(self, users: _Optional[int] = ..., items: _Optional[int] = ..., k: _Optional[int] = ..., exclusions: _Optional[int] = ..., features: _Optional[int] = ..., id_bytes: _Optional[int] = ..., request_bytes: _Optional[int] = ..., response_bytes: _Optional[int] = ...) -> None: ...

class FeatureSpec(_message.Message):
    __slots__ = ("name", "kind", "wildcard")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    WILDCARD_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    wildcard: bool
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., wildcard: _Optional[bool] = ...) -> None: ...

class TowerSchema(_message.Message):
    __slots__ = ("fingerprint", "features", "dense_order")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    DENSE_ORDER_FIELD_NUMBER: _ClassVar[int]
    fingerprint: int
    features: _containers.RepeatedCompositeFieldContainer[FeatureSpec]
    dense_order: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, fingerprint: _Optional[int] = ..., features: _Optional[_Iterable[_Union[FeatureSpec, _Mapping]]] = ..., dense_order: _Optional[_Iterable[str]] = ...) -> None: ...

class ReleaseInfo(_message.Message):
    __slots__ = ("release", "dimension", "similarity", "scale", "bias", "user_schema", "item_schema", "items", "index_kind", "index_recall", "traffic_share", "active")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    USER_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    ITEM_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    INDEX_KIND_FIELD_NUMBER: _ClassVar[int]
    INDEX_RECALL_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_SHARE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    release: str
    dimension: int
    similarity: Similarity
    scale: float
    bias: float
    user_schema: TowerSchema
    item_schema: TowerSchema
    items: int
    index_kind: str
    index_recall: float
    traffic_share: float
    active: bool
    def __init__(self, release: _Optional[str] = ..., dimension: _Optional[int] = ..., similarity: _Optional[_Union[Similarity, str]] = ..., scale: _Optional[float] = ..., bias: _Optional[float] = ..., user_schema: _Optional[_Union[TowerSchema, _Mapping]] = ..., item_schema: _Optional[_Union[TowerSchema, _Mapping]] = ..., items: _Optional[int] = ..., index_kind: _Optional[str] = ..., index_recall: _Optional[float] = ..., traffic_share: _Optional[float] = ..., active: _Optional[bool] = ...) -> None: ...
