"""What the counters of a worker are, and where they stand among its words of the board."""

from __future__ import annotations

from enum import IntEnum

from twotower_server.errors import Reason

# Every call that is counted apart. New ones go to the end of their line; all workers of a server agree, for they run
# the same code.
RPCS = (
    # TwoTowerService
    *("GetUserEmbedding", "BatchGetUserEmbeddings", "GetItemEmbedding", "BatchGetItemEmbeddings"),
    *("Score", "BatchScore", "Recommend", "SearchItems", "GetServingInfo"),
    # CatalogService and ReleaseService
    *("UpsertItems", "DeleteItems"),
    *("ListReleases", "LoadRelease", "ActivateRelease", "RollbackRelease", "SetTrafficSplit"),
    # inference.GRPCInferenceService
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"),
    # the HTTP port: KServe V2, KServe V1 and TensorFlow Serving, TorchServe, and questions that run no model
    *("http_infer", "http_predict", "http_predictions", "http_other"),
)


class Code(IntEnum):
    """The codes of gRPC, by their numbers. https://grpc.io/docs/guides/status-codes/"""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Stage(IntEnum):
    """Where the time of a call goes."""

    QUEUE = 0  # waiting for its turn
    FEATURES = 1  # raw features into arrays
    TOWER = 2  # running a tower
    STORE = 3  # reading vectors of items, or the cache of users
    INDEX = 4  # searching the catalog


# Where the vector of an entry came from, by the number of `engine.model.Source`.
SOURCES = ("given", "computed", "cache", "stored")

# What may be degraded, by its bit: the workers' parts, then the supervisor's.
PARTS = ("user_cache", "item_store", "releases", "change_log", "compaction")

# Upper ends of the buckets, in seconds; one more bucket has no end.
CALL_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGE_BUCKETS_S = (
    *(0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)

# An outcome is a code without a reason, or a reason, which always has the same code (`rpc.status`).
OUTCOMES = len(Code) + len(Reason)


def outcome_of(code: int, reason: Reason) -> int:
    return len(Code) + reason if reason else code


# Releases that are counted apart. One more takes the counters that have rested longest.
COLUMNS = 1024

CALL_WORDS = len(CALL_BUCKETS_S) + 2  # the buckets, and the sum in nanoseconds
STAGE_WORDS = len(STAGE_BUCKETS_S) + 2
IN_FLIGHT, WAITING = 0, 1
OUTCOMES_AT = 2
CALLS_AT = OUTCOMES_AT + len(RPCS) * OUTCOMES
STAGES_AT = CALLS_AT + len(RPCS) * CALL_WORDS
SERVED_AT = STAGES_AT + len(Stage) * STAGE_WORDS
ITEMS_AT = SERVED_AT + COLUMNS * len(SOURCES)
WORDS = ITEMS_AT + COLUMNS
