from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StringList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class FloatList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("user_id", "features", "string_features", "vector_features", "feature_version", "dense_features", "schema_fingerprint", "routing_key")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class StringFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: StringList
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[StringList, _Mapping]] = ...) -> None: ...
    class VectorFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FloatList
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FloatList, _Mapping]] = ...) -> None: ...
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    STRING_FEATURES_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FEATURES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DENSE_FEATURES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    features: _containers.ScalarMap[str, float]
    string_features: _containers.MessageMap[str, StringList]
    vector_features: _containers.MessageMap[str, FloatList]
    feature_version: str
    dense_features: _containers.RepeatedScalarFieldContainer[float]
    schema_fingerprint: int
    routing_key: str
    def __init__(self, user_id: _Optional[str] = ..., features: _Optional[_Mapping[str, float]] = ..., string_features: _Optional[_Mapping[str, StringList]] = ..., vector_features: _Optional[_Mapping[str, FloatList]] = ..., feature_version: _Optional[str] = ..., dense_features: _Optional[_Iterable[float]] = ..., schema_fingerprint: _Optional[int] = ..., routing_key: _Optional[str] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "features", "string_features", "vector_features", "dense_features", "schema_fingerprint")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class StringFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: StringList
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[StringList, _Mapping]] = ...) -> None: ...
    class VectorFeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: FloatList
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[FloatList, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    STRING_FEATURES_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FEATURES_FIELD_NUMBER: _ClassVar[int]
    DENSE_FEATURES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    features: _containers.ScalarMap[str, float]
    string_features: _containers.MessageMap[str, StringList]
    vector_features: _containers.MessageMap[str, FloatList]
    dense_features: _containers.RepeatedScalarFieldContainer[float]
    schema_fingerprint: int
    def __init__(self, item_id: _Optional[str] = ..., features: _Optional[_Mapping[str, float]] = ..., string_features: _Optional[_Mapping[str, StringList]] = ..., vector_features: _Optional[_Mapping[str, FloatList]] = ..., dense_features: _Optional[_Iterable[float]] = ..., schema_fingerprint: _Optional[int] = ...) -> None: ...

class FeatureUse(_message.Message):
    __slots__ = ("used", "missing", "unknown")
    USED_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    used: int
    missing: int
    unknown: int
    def __init__(self, used: _Optional[int] = ..., missing: _Optional[int] = ..., unknown: _Optional[int] = ...) -> None: ...
