"""What `import twotower` offers, and that it needs none of the server's dependencies."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import twotower

ALLOWED = ("twotower", "grpc", "google", "numpy", "typing_extensions")  # the last is grpcio's own

IMPORT_IN_A_BARE_PROCESS = """
import sys

class OnlyTheClientsOwn:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in allowed:
            raise ImportError(f"{name} is not a dependency of the client")

allowed = set(sys.argv[1].split(","))
sys.meta_path.insert(0, OnlyTheClientsOwn())
import twotower
twotower.Client("localhost:1").close()
"""


def test_the_import_needs_only_its_own_dependencies() -> None:
    command = [sys.executable, "-W", "error", "-c", IMPORT_IN_A_BARE_PROCESS, ",".join(ALLOWED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_check_itself_refuses_others() -> None:
    command = [sys.executable, "-c", IMPORT_IN_A_BARE_PROCESS, ",".join(set(ALLOWED) - {"numpy"})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "numpy is not a dependency of the client" in done.stderr


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
        (twotower.CacheMode, twotower.v1.CacheMode, "CACHE_MODE_"),
    ):
        names = {f"{prefix}{one.name}".replace("_DEFAULT", "_UNSPECIFIED"): one.value for one in mine}
        assert names == dict(theirs.items())
