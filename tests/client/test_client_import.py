"""What `import twotower` offers, and that it needs none of the server's dependencies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib import resources

import pytest

import twotower
from tests.conftest import Running

ALLOWED = ("twotower", "grpc", "google", "numpy", "typing_extensions")  # the last is grpcio's own

# Stands for an environment that has the client's own dependencies alone: no server, faiss, pyarrow, rich …
BARE_PROCESS = """
import asyncio
import sys

class OnlyTheClientsOwn:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in allowed:
            raise ImportError(f"{name} is not a dependency of the client")

allowed = set(sys.argv[1].split(","))
sys.meta_path.insert(0, OnlyTheClientsOwn())
import twotower

target = sys.argv[2]
user = twotower.user(age=34, gender="f")
with twotower.Client(target, timeout_s=30, dense=True) as client:
    best = client.recommend(user, 3, filter=twotower.where("price").less_than(20), include_embeddings=True)
    print(len(best.items), client.score(best.user_embedding, best.item_ids).release)
    try:
        client.get_item_embedding("nope")
    except twotower.NotFound as error:
        print(error.reason.name)

async def call():
    async with twotower.AsyncClient(target, timeout_s=30) as client:
        print((await client.batch_get_user_embeddings([user])).matrix.shape)

asyncio.run(call())
"""


def bare_process(allowed: Iterable[str], target: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", BARE_PROCESS, ",".join(allowed), target]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_client_works_with_its_own_dependencies_alone(server: Running) -> None:
    done = bare_process(ALLOWED, server.target)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == ["3 dot", "ITEM_NOT_FOUND", "(1, 8)"]


@pytest.mark.parametrize("missing", ["numpy", "grpc"])
def test_the_check_itself_refuses_others(missing: str) -> None:
    done = bare_process(set(ALLOWED) - {missing}, "localhost:1")
    assert done.returncode != 0 and f"{missing} is not a dependency of the client" in done.stderr


def test_exported_members() -> None:
    """Every public name is meant: it is in `__all__`."""
    public = {name for name in vars(twotower) if not name.startswith("_")} | {"__version__"}
    assert sorted(public) == sorted(twotower.__all__)


def test_the_members_are_frozen() -> None:
    """A name that goes away, or comes, is a change of the interface: change this list with it."""
    assert sorted(twotower.__all__) == [
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


def test_the_package_is_typed() -> None:
    assert resources.files("twotower").joinpath("py.typed").is_file()


def test_the_numbers_of_the_enums_are_those_of_the_contract() -> None:
    for mine, theirs, prefix in (
        (twotower.Source, twotower.v1.Source, "SOURCE_"),
        (twotower.Similarity, twotower.v1.Similarity, "SIMILARITY_"),
        (twotower.ReleaseState, twotower.v1.ReleaseState, "RELEASE_STATE_"),
        (twotower.CacheMode, twotower.v1.CacheMode, "CACHE_MODE_"),
    ):
        names = {f"{prefix}{one.name}".replace("_DEFAULT", "_UNSPECIFIED"): one.value for one in mine}
        assert names == dict(theirs.items())
