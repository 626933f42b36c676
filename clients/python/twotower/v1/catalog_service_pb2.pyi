from twotower.v1 import embedding_pb2 as _embedding_pb2
from twotower.v1 import error_pb2 as _error_pb2
from twotower.v1 import feature_pb2 as _feature_pb2
from twotower.v1 import filter_pb2 as _filter_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ItemChange(_message.Message):
    __slots__ = ("item", "embedding", "attributes", "sequence")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _filter_pb2.AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_filter_pb2.AttributeValue, _Mapping]] = ...) -> None: ...
    ITEM_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    item: _feature_pb2.Item
    embedding: _embedding_pb2.Embedding
    attributes: _containers.MessageMap[str, _filter_pb2.AttributeValue]
    sequence: int
    def __init__(self, item: _Optional[_Union[_feature_pb2.Item, _Mapping]] = ..., embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., attributes: _Optional[_Mapping[str, _filter_pb2.AttributeValue]] = ..., sequence: _Optional[int] = ...) -> None: ...

class UpsertItemsRequest(_message.Message):
    __slots__ = ("changes",)
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[ItemChange]
    def __init__(self, changes: _Optional[_Iterable[_Union[ItemChange, _Mapping]]] = ...) -> None: ...

class UpsertItemsResponse(_message.Message):
    __slots__ = ("log_position", "problems")
    LOG_POSITION_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    log_position: int
    problems: _containers.RepeatedCompositeFieldContainer[_error_pb2.Problem]
    def __init__(self, log_position: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[_error_pb2.Problem, _Mapping]]] = ...) -> None: ...

class DeleteItemsRequest(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteItemsResponse(_message.Message):
    __slots__ = ("log_position", "missing_indices")
    LOG_POSITION_FIELD_NUMBER: _ClassVar[int]
    MISSING_INDICES_FIELD_NUMBER: _ClassVar[int]
    log_position: int
    missing_indices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, log_position: _Optional[int] = ..., missing_indices: _Optional[_Iterable[int]] = ...) -> None: ...
