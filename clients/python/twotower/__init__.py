"""Python client of twotower, a gRPC service for two-tower recommendation models.

    import twotower

    with twotower.Client("localhost:50051") as client:
        user = twotower.user("u1", age=34, gender="f", interest={"sport": 0.8})
        best = client.recommend(user, k=10, filter=twotower.where("price").less_than(20))
        scores = client.score(user, ["i1", "i2"])

`AsyncClient` has the same methods for asyncio. `twotower.v1` holds the messages and stubs of the protocol
itself.
"""

from twotower import v1
from twotower._async_client import AsyncClient, AsyncPinnedClient
from twotower._channel import Tls
from twotower._client import Client, PinnedClient
from twotower._errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    ErrorReason,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ReleaseMismatch,
    ReleaseNotLoaded,
    ResourceExhausted,
    SchemaMismatch,
    TwoTowerError,
    Unavailable,
    Unimplemented,
)
from twotower._feature import FeatureValue, item, user
from twotower._filter import Attribute, all_of, any_of, not_, where
from twotower._releases import AsyncReleases, Releases
from twotower._request import score_request
from twotower._result import (
    BatchScores,
    CacheMode,
    Embedding,
    FeatureSpec,
    FeatureUse,
    ItemEmbedding,
    ItemEmbeddings,
    Limits,
    Problem,
    Recommendations,
    ReleaseInfo,
    ReleaseState,
    ReleaseStatus,
    ScoredItem,
    Scores,
    SearchResults,
    ServingInfo,
    Similarity,
    Source,
    TowerSchema,
    UserEmbedding,
    UserEmbeddings,
)
from twotower._retry import RetryPolicy
from twotower._version import __version__

__all__ = [
    "AccessDenied",
    "AsyncClient",
    "AsyncPinnedClient",
    "AsyncReleases",
    "Attribute",
    "BatchScores",
    "CacheMode",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "Embedding",
    "ErrorReason",
    "FeatureSpec",
    "FeatureUse",
    "FeatureValue",
    "InternalError",
    "InvalidRequest",
    "ItemEmbedding",
    "ItemEmbeddings",
    "Limits",
    "NotFound",
    "Overloaded",
    "PinnedClient",
    "Problem",
    "Recommendations",
    "ReleaseInfo",
    "ReleaseMismatch",
    "ReleaseNotLoaded",
    "ReleaseState",
    "ReleaseStatus",
    "Releases",
    "ResourceExhausted",
    "RetryPolicy",
    "SchemaMismatch",
    "ScoredItem",
    "Scores",
    "SearchResults",
    "ServingInfo",
    "Similarity",
    "Source",
    "Tls",
    "TowerSchema",
    "TwoTowerError",
    "Unavailable",
    "Unimplemented",
    "UserEmbedding",
    "UserEmbeddings",
    "__version__",
    "all_of",
    "any_of",
    "item",
    "not_",
    "score_request",
    "user",
    "v1",
    "where",
]
