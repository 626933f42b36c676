from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EmbeddingEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBEDDING_ENCODING_UNSPECIFIED: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_LIST: _ClassVar[EmbeddingEncoding]
    EMBEDDING_ENCODING_MATRIX: _ClassVar[EmbeddingEncoding]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_COMPUTED: _ClassVar[Source]
    SOURCE_CACHE: _ClassVar[Source]
    SOURCE_STORED: _ClassVar[Source]

class CacheMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_MODE_UNSPECIFIED: _ClassVar[CacheMode]
    CACHE_MODE_BYPASS: _ClassVar[CacheMode]
    CACHE_MODE_REFRESH: _ClassVar[CacheMode]
EMBEDDING_ENCODING_UNSPECIFIED: EmbeddingEncoding
EMBEDDING_ENCODING_LIST: EmbeddingEncoding
EMBEDDING_ENCODING_MATRIX: EmbeddingEncoding
SOURCE_UNSPECIFIED: Source
SOURCE_COMPUTED: Source
SOURCE_CACHE: Source
SOURCE_STORED: Source
CACHE_MODE_UNSPECIFIED: CacheMode
CACHE_MODE_BYPASS: CacheMode
CACHE_MODE_REFRESH: CacheMode

class Embedding(_message.Message):
    __slots__ = ("values", "release")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    release: str
    def __init__(self, values: _Optional[_Iterable[float]] = ..., release: _Optional[str] = ...) -> None: ...

class EmbeddingMatrix(_message.Message):
    __slots__ = ("values", "rows", "dimension")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    rows: int
    dimension: int
    def __init__(self, values: _Optional[bytes] = ..., rows: _Optional[int] = ..., dimension: _Optional[int] = ...) -> None: ...
