"""Releases that must not serve: the one that runs goes on, and the reason is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.orthogonal import build_orthogonal
from tests.reliability.load import caller
from tests.reliability.serving import StartOwn
from tests.rpc.refusal import refused
from tests.supervisor.running import until
from twotower import v1

REQUEST = v1.GetUserEmbeddingRequest(user=caller(1))


@pytest.fixture
def corrupt(folder: Path) -> Path:
    """A release that has lost a bit of a vector on its way."""
    release = build_orthogonal("corrupt", 1, folder)
    vectors = release / "vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-5] ^= 1
    vectors.write_bytes(content)
    return release


def test_a_corrupt_release_is_refused_until_it_is_copied_again(
    start: StartOwn, folder: Path, corrupt: Path, tmp_path: Path
) -> None:
    own = start("--workers", "2", "--follow-s", "0.1")
    assert own.load("corrupt") == "REFUSED"
    reason = own.status("corrupt").reason
    assert "vectors.npy" in reason and str(tmp_path) not in reason
    message = refused(
        own.releases.ActivateRelease,
        v1.ActivateReleaseRequest(release="corrupt"),
        "RELEASE_NOT_LOADED",
        "release",
    )
    assert message.startswith("RELEASE_NOT_LOADED: release 'corrupt' is not loaded; loaded are left")
    pinned = v1.GetUserEmbeddingRequest(user=caller(1), release="corrupt")
    refused(own.serving.GetUserEmbedding, pinned, "RELEASE_NOT_LOADED", "release")
    assert own.serving.GetUserEmbedding(REQUEST).release == own.active() == "left"
    assert own.degraded() == []
    # Named by the folder, it is something that is wrong with the server.
    (folder / "active").write_text("corrupt\n")
    until(lambda: any("corrupt" in sentence and "vectors.npy" in sentence for sentence in own.degraded()))
    assert own.serving.GetUserEmbedding(REQUEST).release == "left"
    shutil.rmtree(corrupt)
    shutil.rmtree(folder.parent / "source-corrupt")
    build_orthogonal("corrupt", 1, folder)
    assert own.load("corrupt") in ("LOADED", "ACTIVE")
    until(lambda: own.active() == "corrupt")
    until(lambda: own.degraded() == [])


def test_a_verifier_that_runs_out_of_memory_ends_alone(start: StartOwn, folder: Path) -> None:
    build_orthogonal("large", 1, folder)
    own = start("--verifier-memory-mib", "1")
    assert own.load("large") == "REFUSED"
    assert "allow more by --verifier-memory-mib" in own.status("large").reason
    assert own.serving.GetUserEmbedding(REQUEST).release == "left"
    assert own.load("right") == "LOADED", "which this machine has verified before"


def test_a_verifier_that_is_killed_ends_alone_and_can_be_tried_again(start: StartOwn, folder: Path) -> None:
    build_orthogonal("new", 1, folder)
    own = start(verifier="tests.reliability.killed:verify_killed_once")
    assert own.load("new") == "REFUSED"
    assert "the verifier was killed" in own.status("new").reason
    assert own.serving.GetUserEmbedding(REQUEST).release == "left"
    assert own.load("new") == "LOADED"
    assert own.activate("new") == "left"
    assert own.serving.GetUserEmbedding(REQUEST).release == "new"


def test_a_release_that_one_worker_cannot_open_is_refused(start: StartOwn, folder: Path) -> None:
    own = start("--workers", "2", worker="tests.reliability.killed:work_but_open_right_badly")
    workers = set(own.server.children())
    assert own.load("right") == "REFUSED"
    assert own.status("right").reason == "a worker cannot open it: MemoryError; the server's log says more"
    assert own.serving.GetUserEmbedding(REQUEST).release == "left"
    assert set(own.server.children()) == workers, "it did not cost a worker"
