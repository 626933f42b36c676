"""Releases that were copied without their large files, and are completed from the real Redis."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ITEMS, Command, Running
from tests.redis.conftest import Items, Start, vectors_of
from tests.redis.running import RedisCluster, RedisServer
from tests.redis.stalling import Stalling
from tests.reliability.serving import Own
from tests.rpc.messages import USER, user
from tests.supervisor.running import PATIENCE_S, Server
from twotower import v1
from twotower_server.cli.exit_code import ExitCode
from twotower_server.index.faiss import build_index
from twotower_server.release.format import FILES, INDEX, MANIFEST, VECTORS, Manifest
from twotower_server.release.golden import Golden

Release = Callable[..., tuple[int, str, str]]


@pytest.fixture
def light(tmp_path: Path) -> Path:
    """The folder that releases are copied to without their vectors."""
    folder = tmp_path / "light"
    folder.mkdir()
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a machine of its own."""
    monkeypatch.setenv("TWOTOWER_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def release(items: Items, data: Path, run_twotower: Command) -> Release:
    """Runs `twotower release` on `own`, unless told otherwise, with a data folder of its own."""
    return lambda *arguments: run_twotower("release", *arguments)


def copied(release: Release, source: Path, name: str, target: Path | str, *options: str) -> None:
    """Copies a release without its vectors, and makes it active there."""
    code, _, err = release("copy", name, str(target), "--without-vectors", *options, "--releases", str(source))
    assert code == ExitCode.OK, err
    code, _, err = release("activate", name, "--releases", str(target))
    assert code == ExitCode.OK, err


def copies(data: Path) -> list[Path]:
    """The whole copies of a data folder."""
    return sorted(path.parent for path in data.glob("loaded/*/[!~]*/release.json"))


def answers(own: Own | Running) -> list[object]:
    """What a server of `dot` says to calls that need vectors."""
    serving = own.serving if isinstance(own, Own) else own.stub
    ids = [f"i{i}" for i in range(ITEMS)]
    scored = serving.Score(v1.ScoreRequest(user=user(USER), item_ids=[*ids, "nobody"]))
    found = serving.Recommend(v1.RecommendRequest(user=user(USER), k=ITEMS, include_embeddings=True))
    near = serving.SearchItems(v1.SearchItemsRequest(item_id="i7", k=20))
    batch = serving.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_ids=ids))
    return [scored, found, near, batch]


# ---- what is loaded


@pytest.mark.parametrize("kind", ["standalone", "Cluster"])
def test_a_whole_copy_is_the_release_bit_for_bit(
    items: Items, release: Release, large: Path, light: Path, data: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    redis = request.getfixturevalue("redis_server" if kind == "standalone" else "redis_cluster")
    assert items("push", "large", "--releases", str(large), "--redis", redis.url)[0] == ExitCode.OK
    copied(release, large, "large", light)
    assert not (light / "large" / VECTORS).exists()
    code, out, err = release("verify", "--releases", str(light), "--redis", redis.url)
    assert code == ExitCode.OK, err
    assert "large is sound" in out and "loading vectors" in err
    (copy,) = copies(data)
    for name in (MANIFEST, *FILES):
        assert (copy / name).read_bytes() == (large / "large" / name).read_bytes(), name
    assert sorted(path.name for path in copy.iterdir()) == sorted((MANIFEST, *FILES))
    # It is verified now, for the servers of this machine, too.
    code, out, err = release("list", "--releases", str(light), "--json")
    assert [one["verified"] for one in json.loads(out)["releases"]] == [True]


@pytest.mark.parametrize("place", ["folder", "URL"])
def test_a_server_answers_as_one_of_the_whole_release(
    items: Items,
    release: Release,
    own: Path,
    light: Path,
    redis_server: RedisServer,
    start: Start,
    server: Running,
    place: str,
) -> None:
    items("push", "dot", "--redis", redis_server.url)
    target = str(light) if place == "folder" else f"file://{light}"
    copied(release, own, "dot", target)
    loading = start(target, "--redis", redis_server.url)
    redis_server.kill()
    assert answers(loading) == answers(server)
    assert loading.degraded() == []


def test_an_index_is_built_where_it_is_left_out(
    items: Items, release: Release, walked: Path, light: Path, data: Path, redis_server: RedisServer, start: Start
) -> None:
    items("push", "walked", "--releases", str(walked), "--redis", redis_server.url)
    copied(release, walked, "walked", light, "--without-index")
    assert not (light / "walked" / INDEX).exists()
    loading = start(light, "--redis", redis_server.url)
    found = loading.serving.Recommend(v1.RecommendRequest(user=user(USER), k=10))
    assert found.release == "walked" and len(found.items) == 10
    assert release("verify", "--releases", str(light), "--redis", redis_server.url)[0] == ExitCode.OK
    (copy,) = copies(data)
    before, after = Manifest.load(walked / "walked"), Manifest.load(copy)
    assert (after.release, after.index.kind) == ("walked", "ivf_sq8")
    assert after.index.recall is not None and before.index.recall is not None
    assert after.index.recall >= before.index.recall - 0.02
    assert {name for name in FILES if after.files[name] != before.files[name]} <= {INDEX}
    assert (copy / VECTORS).read_bytes() == (walked / "walked" / VECTORS).read_bytes()


def test_an_index_alone_may_be_left_out(release: Release, walked: Path, light: Path, data: Path) -> None:
    code, _, err = release("copy", "walked", str(light), "--without-index", "--releases", str(walked))
    assert code == ExitCode.OK, err
    assert (light / "walked" / VECTORS).exists() and not (light / "walked" / INDEX).exists()
    assert release("verify", "walked", "--releases", str(light))[0] == ExitCode.OK, "no Redis is needed"
    (copy,) = copies(data)
    golden = Golden.load(copy / "golden.json")
    vectors = np.load(copy / VECTORS)
    wanted = Manifest.load(walked / "walked").index.recall or 0.0
    again = build_index(vectors, data / "again", kind="ivf_sq8", queries=golden.user_vectors, wanted_recall=wanted)
    assert Manifest.load(copy).index == again


def test_copies_that_nobody_uses_are_removed(
    items: Items,
    release: Release,
    own: Path,
    light: Path,
    data: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWOTOWER_KEEP_FETCHED", "0")
    monkeypatch.setenv("TWOTOWER_REDIS", redis_server.url)
    for name in ("dot", "cosine"):
        items("push", name)
        copied(release, own, name, light)
        assert release("verify", name, "--releases", str(light))[0] == ExitCode.OK
        assert [copy.name for copy in copies(data)] == [name]


def test_commands_that_need_vectors_load_them_and_others_do_not(
    items: Items,
    release: Release,
    own: Path,
    light: Path,
    data: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWOTOWER_REDIS", redis_server.url)
    for name in ("dot", "cosine"):
        items("push", name)
        copied(release, own, name, light)
    shutil.rmtree(data, ignore_errors=True)
    code, out, err = release("inspect", "dot", "--releases", str(light))
    assert code == ExitCode.OK, err
    assert f"{ITEMS}" in out and not data.exists()
    code, out, err = release("diff", "dot", "dot", "--releases", str(light))
    assert code == ExitCode.OK, err
    # A copy of a copy lacks the same.
    (light.parent / "further").mkdir()
    code, out, err = release("copy", "dot", str(light.parent / "further"), "--releases", str(light))
    assert code == ExitCode.OK, err
    there = {path.name for path in (light.parent / "further" / "dot").iterdir()}
    assert there == {MANIFEST, *FILES} - {VECTORS}


# ---- what is refused


def test_what_redis_lacks_or_has_otherwise_is_told(
    items: Items, release: Release, own: Path, light: Path, data: Path, redis_server: RedisServer
) -> None:
    copied(release, own, "dot", light)
    verify = ("verify", "--releases", str(light), "--redis", redis_server.url)

    def refusal() -> str:
        code, out, _ = release(*verify)
        assert code == ExitCode.RELEASE_REFUSED
        assert copies(data) == []
        return out

    assert f"Redis lacks {ITEMS} of the {ITEMS} vectors of dot; write them again: twotower items push dot" in refusal()
    items("push", "dot", "--redis", redis_server.url)
    first, second, third, *_ = [b"twotower:item_emb:dot:" + item_id for item_id in vectors_of(own / "dot")]
    value = redis_server.client.get(first)
    redis_server.client.delete(first)
    redis_server.client.set(second, value + b"more")
    assert f"Redis lacks 1 of the {ITEMS} vectors of dot, and 1 are of another size; write them again" in refusal()
    redis_server.client.set(first, value)
    redis_server.client.set(second, redis_server.client.get(third))
    assert "Redis holds other vectors than dot was built with; write them again" in refusal()
    items("push", "dot", "--redis", redis_server.url)
    assert release(*verify)[0] == ExitCode.OK


def test_without_a_redis_it_is_refused(
    release: Release, own: Path, light: Path, tmp_path: Path, data: Path, redis_server: RedisServer
) -> None:
    copied(release, own, "dot", light)
    missing = "vectors.npy is missing: the release was copied without it; name the Redis that has it by --redis URL"
    code, out, _ = release("verify", "--releases", str(light))
    assert code == ExitCode.RELEASE_REFUSED
    assert missing in out
    command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(light), "--listen", "localhost:0"]
    server = Server([*command, "--data", str(tmp_path / "server")], tmp_path / "log", {})
    try:
        assert server.ended() == ExitCode.RELEASE_REFUSED
        assert missing in server.log()
    finally:
        server.close()


def test_a_server_that_does_not_reach_redis_loads_later(
    items: Items, release: Release, own: Path, light: Path, redis_server: RedisServer, start: Start
) -> None:
    items("push", "dot", "--redis", redis_server.url)
    for name in ("cosine", "dot"):
        shutil.copytree(own / name, light / name)
    (light / "dot" / VECTORS).unlink()
    (light / "active").write_text("cosine\n")
    server = start(light, "--redis", redis_server.url)
    vectors = dict(vectors_of(own / "dot"))
    keep = {b"twotower:item_emb:dot:" + item_id: vector.tobytes() for item_id, vector in vectors.items()}
    redis_server.kill()
    assert server.load("dot") == "REFUSED"
    reason = server.status("dot").reason
    assert reason == "release dot: its vectors cannot be loaded: Redis does not answer; the server's log says more"
    assert f"no answer from Redis at 127.0.0.1:{redis_server.port}" in server.server.log()
    redis_server.start()
    redis_server.client.mset(keep)
    assert server.load("dot") == "LOADED"
    assert server.activate("dot") == "cosine"
    got = server.serving.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id="i3"))
    assert np.array(got.embedding.values, "<f4").tobytes() == vectors[b"i3"].tobytes()


def test_a_loading_that_is_killed_leaves_nothing_in_the_way(
    items: Items, release: Release, large: Path, light: Path, data: Path, redis_server: RedisServer
) -> None:
    items("push", "large", "--releases", str(large), "--redis", redis_server.url)
    copied(release, large, "large", light)
    verify = ("verify", "--releases", str(light), "--redis")
    # Time stands still in the middle of a batch, whatever the machine is busy with.
    with Stalling(redis_server.port, after_bytes=100_000) as proxy:
        process = subprocess.Popen([sys.executable, "-m", "twotower_server.cli.main", "release", *verify, proxy.url])
        proxy.wait_stalled()
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert any(path.name.startswith("~building-") for path in data.glob("loaded/*/*"))
    assert release(*verify, redis_server.url)[0] == ExitCode.OK
    (copy,) = copies(data)
    assert (copy / VECTORS).read_bytes() == (large / "large" / VECTORS).read_bytes()
    assert {path.name for path in copy.parent.iterdir()} == {"large", "lock"}


def test_the_rights_that_the_docs_name_are_enough(
    items: Items, release: Release, own: Path, light: Path, data: Path, redis_cluster: RedisCluster
) -> None:
    document = (Path(__file__).parents[2] / "docs/redis.md").read_text()
    rights, more = "+info +mget", "+command +cluster|slots"
    assert f"`%R~twotower:* {rights}`" in document and more in document
    items("push", "dot", "--redis", redis_cluster.url)
    for node in redis_cluster.nodes:
        node.client.execute_command(
            "ACL", "SETUSER", "load", "reset", "on", ">pw", "%R~twotower:*", *rights.split(), *more.split()
        )
    copied(release, own, "dot", light)
    url = redis_cluster.url.replace("//", "//load:pw@")
    code, out, err = release("verify", "--releases", str(light), "--redis", url)
    assert code == ExitCode.OK, out + err
