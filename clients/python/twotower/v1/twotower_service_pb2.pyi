from twotower.v1 import embedding_pb2 as _embedding_pb2
from twotower.v1 import error_pb2 as _error_pb2
from twotower.v1 import feature_pb2 as _feature_pb2
from twotower.v1 import filter_pb2 as _filter_pb2
from twotower.v1 import serving_pb2 as _serving_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetUserEmbeddingRequest(_message.Message):
    __slots__ = ("user", "release", "cache_mode")
    USER_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CACHE_MODE_FIELD_NUMBER: _ClassVar[int]
    user: _feature_pb2.User
    release: str
    cache_mode: _embedding_pb2.CacheMode
    def __init__(self, user: _Optional[_Union[_feature_pb2.User, _Mapping]] = ..., release: _Optional[str] = ..., cache_mode: _Optional[_Union[_embedding_pb2.CacheMode, str]] = ...) -> None: ...

class GetUserEmbeddingResponse(_message.Message):
    __slots__ = ("embedding", "release", "source", "age_ms", "feature_use")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_USE_FIELD_NUMBER: _ClassVar[int]
    embedding: _embedding_pb2.Embedding
    release: str
    source: _embedding_pb2.Source
    age_ms: int
    feature_use: _feature_pb2.FeatureUse
    def __init__(self, embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., release: _Optional[str] = ..., source: _Optional[_Union[_embedding_pb2.Source, str]] = ..., age_ms: _Optional[int] = ..., feature_use: _Optional[_Union[_feature_pb2.FeatureUse, _Mapping]] = ...) -> None: ...

class BatchGetUserEmbeddingsRequest(_message.Message):
    __slots__ = ("users", "release", "cache_mode", "encoding")
    USERS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CACHE_MODE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[_feature_pb2.User]
    release: str
    cache_mode: _embedding_pb2.CacheMode
    encoding: _embedding_pb2.EmbeddingEncoding
    def __init__(self, users: _Optional[_Iterable[_Union[_feature_pb2.User, _Mapping]]] = ..., release: _Optional[str] = ..., cache_mode: _Optional[_Union[_embedding_pb2.CacheMode, str]] = ..., encoding: _Optional[_Union[_embedding_pb2.EmbeddingEncoding, str]] = ...) -> None: ...

class BatchGetUserEmbeddingsResponse(_message.Message):
    __slots__ = ("embeddings", "matrix", "releases", "release_indices", "sources", "ages_ms", "problems")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    RELEASE_INDICES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    AGES_MS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[_embedding_pb2.Embedding]
    matrix: _embedding_pb2.EmbeddingMatrix
    releases: _containers.RepeatedScalarFieldContainer[str]
    release_indices: _containers.RepeatedScalarFieldContainer[int]
    sources: _containers.RepeatedScalarFieldContainer[_embedding_pb2.Source]
    ages_ms: _containers.RepeatedScalarFieldContainer[int]
    problems: _containers.RepeatedCompositeFieldContainer[_error_pb2.Problem]
    def __init__(self, embeddings: _Optional[_Iterable[_Union[_embedding_pb2.Embedding, _Mapping]]] = ..., matrix: _Optional[_Union[_embedding_pb2.EmbeddingMatrix, _Mapping]] = ..., releases: _Optional[_Iterable[str]] = ..., release_indices: _Optional[_Iterable[int]] = ..., sources: _Optional[_Iterable[_Union[_embedding_pb2.Source, str]]] = ..., ages_ms: _Optional[_Iterable[int]] = ..., problems: _Optional[_Iterable[_Union[_error_pb2.Problem, _Mapping]]] = ...) -> None: ...

class GetItemEmbeddingRequest(_message.Message):
    __slots__ = ("item_id", "item", "release")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    item: _feature_pb2.Item
    release: str
    def __init__(self, item_id: _Optional[str] = ..., item: _Optional[_Union[_feature_pb2.Item, _Mapping]] = ..., release: _Optional[str] = ...) -> None: ...

class GetItemEmbeddingResponse(_message.Message):
    __slots__ = ("embedding", "release", "source")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    embedding: _embedding_pb2.Embedding
    release: str
    source: _embedding_pb2.Source
    def __init__(self, embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., release: _Optional[str] = ..., source: _Optional[_Union[_embedding_pb2.Source, str]] = ...) -> None: ...

class BatchGetItemEmbeddingsRequest(_message.Message):
    __slots__ = ("item_ids", "item_keys", "items", "release", "encoding")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    ITEM_KEYS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    item_keys: _containers.RepeatedScalarFieldContainer[int]
    items: _containers.RepeatedCompositeFieldContainer[_feature_pb2.Item]
    release: str
    encoding: _embedding_pb2.EmbeddingEncoding
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., item_keys: _Optional[_Iterable[int]] = ..., items: _Optional[_Iterable[_Union[_feature_pb2.Item, _Mapping]]] = ..., release: _Optional[str] = ..., encoding: _Optional[_Union[_embedding_pb2.EmbeddingEncoding, str]] = ...) -> None: ...

class BatchGetItemEmbeddingsResponse(_message.Message):
    __slots__ = ("embeddings", "matrix", "release", "missing_indices", "problems")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MATRIX_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    MISSING_INDICES_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[_embedding_pb2.Embedding]
    matrix: _embedding_pb2.EmbeddingMatrix
    release: str
    missing_indices: _containers.RepeatedScalarFieldContainer[int]
    problems: _containers.RepeatedCompositeFieldContainer[_error_pb2.Problem]
    def __init__(self, embeddings: _Optional[_Iterable[_Union[_embedding_pb2.Embedding, _Mapping]]] = ..., matrix: _Optional[_Union[_embedding_pb2.EmbeddingMatrix, _Mapping]] = ..., release: _Optional[str] = ..., missing_indices: _Optional[_Iterable[int]] = ..., problems: _Optional[_Iterable[_Union[_error_pb2.Problem, _Mapping]]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("user", "embedding", "item_ids", "item_keys", "items", "release", "cache_mode", "require_all")
    USER_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    ITEM_KEYS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CACHE_MODE_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_ALL_FIELD_NUMBER: _ClassVar[int]
    user: _feature_pb2.User
    embedding: _embedding_pb2.Embedding
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    item_keys: _containers.RepeatedScalarFieldContainer[int]
    items: _containers.RepeatedCompositeFieldContainer[_feature_pb2.Item]
    release: str
    cache_mode: _embedding_pb2.CacheMode
    require_all: bool
    def __init__(self, user: _Optional[_Union[_feature_pb2.User, _Mapping]] = ..., embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., item_ids: _Optional[_Iterable[str]] = ..., item_keys: _Optional[_Iterable[int]] = ..., items: _Optional[_Iterable[_Union[_feature_pb2.Item, _Mapping]]] = ..., release: _Optional[str] = ..., cache_mode: _Optional[_Union[_embedding_pb2.CacheMode, str]] = ..., require_all: _Optional[bool] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("scores", "similarities", "missing_indices", "release", "source", "age_ms", "feature_use", "problems")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SIMILARITIES_FIELD_NUMBER: _ClassVar[int]
    MISSING_INDICES_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_USE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    similarities: _containers.RepeatedScalarFieldContainer[float]
    missing_indices: _containers.RepeatedScalarFieldContainer[int]
    release: str
    source: _embedding_pb2.Source
    age_ms: int
    feature_use: _feature_pb2.FeatureUse
    problems: _containers.RepeatedCompositeFieldContainer[_error_pb2.Problem]
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., similarities: _Optional[_Iterable[float]] = ..., missing_indices: _Optional[_Iterable[int]] = ..., release: _Optional[str] = ..., source: _Optional[_Union[_embedding_pb2.Source, str]] = ..., age_ms: _Optional[int] = ..., feature_use: _Optional[_Union[_feature_pb2.FeatureUse, _Mapping]] = ..., problems: _Optional[_Iterable[_Union[_error_pb2.Problem, _Mapping]]] = ...) -> None: ...

class BatchScoreRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ScoreRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ScoreRequest, _Mapping]]] = ...) -> None: ...

class BatchScoreResponse(_message.Message):
    __slots__ = ("responses", "problems")
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[ScoreResponse]
    problems: _containers.RepeatedCompositeFieldContainer[_error_pb2.Problem]
    def __init__(self, responses: _Optional[_Iterable[_Union[ScoreResponse, _Mapping]]] = ..., problems: _Optional[_Iterable[_Union[_error_pb2.Problem, _Mapping]]] = ...) -> None: ...

class ScoredItem(_message.Message):
    __slots__ = ("item_id", "score", "similarity", "embedding", "attributes")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _filter_pb2.AttributeValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_filter_pb2.AttributeValue, _Mapping]] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    similarity: float
    embedding: _embedding_pb2.Embedding
    attributes: _containers.MessageMap[str, _filter_pb2.AttributeValue]
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., similarity: _Optional[float] = ..., embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., attributes: _Optional[_Mapping[str, _filter_pb2.AttributeValue]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user", "embedding", "k", "filter", "exclude_item_ids", "exclude_item_keys", "release", "cache_mode", "include_embeddings", "return_attributes")
    USER_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_KEYS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    CACHE_MODE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    RETURN_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    user: _feature_pb2.User
    embedding: _embedding_pb2.Embedding
    k: int
    filter: _filter_pb2.Filter
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_item_keys: _containers.RepeatedScalarFieldContainer[int]
    release: str
    cache_mode: _embedding_pb2.CacheMode
    include_embeddings: bool
    return_attributes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user: _Optional[_Union[_feature_pb2.User, _Mapping]] = ..., embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., k: _Optional[int] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_item_keys: _Optional[_Iterable[int]] = ..., release: _Optional[str] = ..., cache_mode: _Optional[_Union[_embedding_pb2.CacheMode, str]] = ..., include_embeddings: _Optional[bool] = ..., return_attributes: _Optional[_Iterable[str]] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("items", "release", "source", "age_ms", "user_embedding", "feature_use")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    USER_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    FEATURE_USE_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoredItem]
    release: str
    source: _embedding_pb2.Source
    age_ms: int
    user_embedding: _embedding_pb2.Embedding
    feature_use: _feature_pb2.FeatureUse
    def __init__(self, items: _Optional[_Iterable[_Union[ScoredItem, _Mapping]]] = ..., release: _Optional[str] = ..., source: _Optional[_Union[_embedding_pb2.Source, str]] = ..., age_ms: _Optional[int] = ..., user_embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., feature_use: _Optional[_Union[_feature_pb2.FeatureUse, _Mapping]] = ...) -> None: ...

class SearchItemsRequest(_message.Message):
    __slots__ = ("item_id", "embedding", "item", "k", "filter", "exclude_item_ids", "exclude_item_keys", "release", "include_embeddings", "return_attributes")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_KEYS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    RETURN_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    embedding: _embedding_pb2.Embedding
    item: _feature_pb2.Item
    k: int
    filter: _filter_pb2.Filter
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    exclude_item_keys: _containers.RepeatedScalarFieldContainer[int]
    release: str
    include_embeddings: bool
    return_attributes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_id: _Optional[str] = ..., embedding: _Optional[_Union[_embedding_pb2.Embedding, _Mapping]] = ..., item: _Optional[_Union[_feature_pb2.Item, _Mapping]] = ..., k: _Optional[int] = ..., filter: _Optional[_Union[_filter_pb2.Filter, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., exclude_item_keys: _Optional[_Iterable[int]] = ..., release: _Optional[str] = ..., include_embeddings: _Optional[bool] = ..., return_attributes: _Optional[_Iterable[str]] = ...) -> None: ...

class SearchItemsResponse(_message.Message):
    __slots__ = ("items", "release")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoredItem]
    release: str
    def __init__(self, items: _Optional[_Iterable[_Union[ScoredItem, _Mapping]]] = ..., release: _Optional[str] = ...) -> None: ...

class GetServingInfoRequest(_message.Message):
    __slots__ = ("release",)
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    release: str
    def __init__(self, release: _Optional[str] = ...) -> None: ...

class GetServingInfoResponse(_message.Message):
    __slots__ = ("active_release", "releases", "limits", "server_version", "capabilities", "degraded")
    ACTIVE_RELEASE_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    active_release: str
    releases: _containers.RepeatedCompositeFieldContainer[_serving_pb2.ReleaseInfo]
    limits: _serving_pb2.Limits
    server_version: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    degraded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, active_release: _Optional[str] = ..., releases: _Optional[_Iterable[_Union[_serving_pb2.ReleaseInfo, _Mapping]]] = ..., limits: _Optional[_Union[_serving_pb2.Limits, _Mapping]] = ..., server_version: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ..., degraded: _Optional[_Iterable[str]] = ...) -> None: ...
