"""Servers that read the vectors of items from the real Redis, call by call (`--item-store redis`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.catalog.live import by_features, by_vector
from tests.conftest import Command
from tests.redis.conftest import LARGE_ITEMS, Items, Start, vectors_of
from tests.redis.fixtures import StartRedis, StartRedisCluster
from tests.redis.running import APPEND_ALWAYS, RedisCluster, RedisServer
from tests.reliability.serving import Own
from tests.rpc.messages import ITEM, USER, item, user
from tests.supervisor.running import until
from twotower import v1
from twotower_server.cli.exit_code import ExitCode
from twotower_server.config import Config, ConfigError
from twotower_server.items.ids import item_keys
from twotower_server.release.format import VECTORS

# A busy machine may take longer than the default.
PATIENT = ("--item-store", "redis", "--item-store-budget-ms", "5000")
HASTY = ("--item-store", "redis", "--item-store-budget-ms", "50")
K = 100


@pytest.fixture
def light(walked: Path, tmp_path: Path) -> Path:
    """A folder with the release `walked` without its vectors."""
    folder = tmp_path / "light"
    shutil.copytree(walked, folder)
    (folder / "walked" / VECTORS).unlink()
    return folder


@pytest.fixture
def push(items: Items, walked: Path) -> Callable[[str], None]:
    def run(url: str) -> None:
        code, _, err = items("push", "walked", "--releases", str(walked), "--redis", url)
        assert code == ExitCode.OK, err

    return run


def refusal(call: Callable[[], object]) -> str:
    """What a call says that needs vectors of which there are none."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    details = str(caught.value.details())
    assert details.startswith("STORE_UNAVAILABLE: the store of item vectors cannot be used: ")
    return details.removeprefix("STORE_UNAVAILABLE: the store of item vectors cannot be used: ")


def limited(*nodes: RedisServer, rights: str) -> None:
    """Adds a user `low` with the password `pw` that may do no more."""
    for node in nodes:
        node.client.execute_command("ACL", "SETUSER", "low", "reset", "on", ">pw", "%R~twotower:*", *rights.split())


def score(own: Own, *item_ids: str) -> v1.ScoreResponse:
    answer: v1.ScoreResponse = own.serving.Score(v1.ScoreRequest(user=user(USER), item_ids=item_ids))
    return answer


def ids(count: int = LARGE_ITEMS) -> list[str]:
    return [f"i{i}" for i in range(count)]


def recommend(own: Own, k: int, **fields: object) -> v1.RecommendResponse:
    request = v1.RecommendRequest(user=user(USER), k=k, **fields)  # type: ignore[arg-type]
    answer: v1.RecommendResponse = own.serving.Recommend(request)
    return answer


def filtered(attribute: str, **value: object) -> v1.Filter:
    built = v1.Filter()
    condition = v1.Condition(attribute=attribute, **value)  # type: ignore[arg-type]
    built.all_of.add().conditions.append(condition)
    return built


def assert_best(found: Sequence[v1.ScoredItem], truth: Sequence[v1.ScoredItem], k: int) -> None:
    """Asserts that a search found k of the best: each as similar as it is, in the order of the contract.

    truth: all eligible items, by a server that has the vectors.
    """
    similar = {one.item_id: one.similarity for one in truth}
    assert len({one.item_id for one in found}) == len(found) == min(k, len(truth))
    for one in found:
        assert one.similarity == pytest.approx(similar[one.item_id], abs=1e-6)
    order = [(-one.similarity, one.item_id) for one in found]
    assert order == sorted(order)
    kth = truth[len(found) - 1].similarity
    assert sum(one.similarity >= kth - 1e-6 for one in found) >= 0.95 * len(found)


@dataclass(slots=True)
class Pair:
    """A server that reads vectors from Redis, and one of the same release that has them in files."""

    stored: Own
    files: Own
    stubs: list[v1.CatalogServiceStub] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stubs = [v1.CatalogServiceStub(own.channel) for own in (self.stored, self.files)]

    def upsert(self, *changes: v1.ItemChange) -> None:
        for stub in self.stubs:
            assert not stub.UpsertItems(v1.UpsertItemsRequest(changes=changes)).problems

    def delete(self, *item_ids: str) -> None:
        for stub in self.stubs:
            stub.DeleteItems(v1.DeleteItemsRequest(item_ids=item_ids))

    def assert_same(self) -> None:
        """Asserts that both say the same of everything that needs vectors."""
        by_id = v1.ScoreRequest(user=user(USER), item_ids=["nobody", *ids(500), "new"])
        by_key = v1.ScoreRequest(user=user(USER), item_keys=item_keys(["nobody", *ids(500), "new"]).tolist())
        for request in (by_id, by_key):
            stored, files = (own.serving.Score(request) for own in (self.stored, self.files))
            assert stored.missing_indices == files.missing_indices
            assert list(stored.scores) == pytest.approx(list(files.scores), abs=1e-6)
            assert list(stored.similarities) == pytest.approx(list(files.similarities), abs=1e-6)
        for item_id in ("i3", "i4999"):
            request_ = v1.GetItemEmbeddingRequest(item_id=item_id)
            assert self.stored.serving.GetItemEmbedding(request_) == self.files.serving.GetItemEmbedding(request_)
        batch = v1.BatchGetItemEmbeddingsRequest(item_ids=["nobody", *ids(50), "new"])
        assert self.stored.serving.BatchGetItemEmbeddings(batch) == self.files.serving.BatchGetItemEmbeddings(batch)
        for fields in (
            {},
            {"filter": filtered("category", any_text=["music"])},
            {"filter": filtered("price", range=v1.Range(max=10.0))},
            {"exclude_item_ids": ids(300)},
            {"exclude_item_keys": item_keys(ids(20)).tolist(), "filter": filtered("in_stock", flag=True)},
        ):
            truth = recommend(self.files, LARGE_ITEMS, **fields)
            for k in (1, K, LARGE_ITEMS):
                assert_best(recommend(self.stored, k, **fields).items, truth.items, k)
        near, far = (
            own.serving.SearchItems(v1.SearchItemsRequest(item_id="i7", k=k))
            for own, k in ((self.stored, 20), (self.files, LARGE_ITEMS))
        )
        assert_best(near.items, far.items, 20)


@pytest.fixture
def pair(walked: Path, light: Path, start: Start, redis_server: RedisServer, push: Callable[[str], None]) -> Pair:
    push(redis_server.url)
    stored = start(light, "--redis", redis_server.url, *PATIENT, name="stored")
    return Pair(stored, start(walked, name="files"))


# ---- what is served


def test_it_answers_as_a_server_that_has_the_vectors(pair: Pair, tmp_path: Path, walked: Path) -> None:
    assert not list((tmp_path / "stored").glob("**/vectors.npy"))
    pair.assert_same()
    found = recommend(pair.stored, 10, include_embeddings=True, return_attributes=["title"]).items
    vectors = vectors_of(walked / "walked")
    for one in found:
        assert np.array(one.embedding.values, "<f4").tobytes() == vectors[one.item_id.encode()].tobytes()
        assert one.attributes["title"].text == f"Title {one.item_id[1:]}"
    assert pair.stored.degraded() == []


def test_live_changes_need_no_redis(pair: Pair, redis_server: RedisServer) -> None:
    first = recommend(pair.files, 2).items
    vector = [float(i) for i in range(8)]
    pair.upsert(by_features("new", ITEM), by_vector("i3", "walked", vector), by_vector("near", "walked", [9.0] * 8))
    pair.delete(first[0].item_id, "i11")
    pair.assert_same()
    redis_server.kill()
    assert not score(pair.stored, "new", "i3", "near", "i11").missing_indices[1:]
    assert refusal(lambda: score(pair.stored, "new", "i4"))


def test_a_batch_fails_where_vectors_are_lacking_and_nowhere_else(pair: Pair, redis_server: RedisServer) -> None:
    redis_server.client.delete("twotower:item_emb:walked:i5")
    redis_server.client.set("twotower:item_emb:walked:i6", b"odd")
    lacks = "it lacks {} of {} vectors of release walked; twotower items push writes them again"
    assert refusal(lambda: score(pair.stored, "i4", "i5", "i6", "nobody")) == lacks.format(2, 3)
    assert refusal(lambda: pair.stored.serving.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id="i5"))) == (
        lacks.format(1, 1)
    )
    requests = [v1.ScoreRequest(user=user(USER), item_ids=[item_id]) for item_id in ("i4", "i5", "i7")]
    batch = pair.stored.serving.BatchScore(v1.BatchScoreRequest(requests=requests))
    assert [(problem.index, problem.reason) for problem in batch.problems] == [(1, v1.ERROR_REASON_STORE_UNAVAILABLE)]
    assert score(pair.stored, "i4", "nobody").missing_indices == [1]
    assert pair.stored.degraded() == [], "Redis answers"
    assert "lacks 2 of 3 vectors of release walked" in pair.stored.server.log()


def test_a_cluster_is_read(
    light: Path, start: Start, redis_cluster: RedisCluster, walked: Path, push: Callable[[str], None]
) -> None:
    push(redis_cluster.url)
    limited(*redis_cluster.nodes, rights="+info +mget +get +command +cluster|slots")
    url = redis_cluster.url.replace("//", "//low:pw@")
    Pair(start(light, "--redis", url, *PATIENT, name="stored"), start(walked, name="files")).assert_same()


def test_the_rights_that_the_docs_name_are_enough(
    light: Path, start: Start, redis_server: RedisServer, push: Callable[[str], None]
) -> None:
    document = (Path(__file__).parents[2] / "docs/redis.md").read_text()
    assert "call by call `%R~twotower:* +info +mget`, in a Cluster also `+get`" in document
    push(redis_server.url)
    limited(redis_server, rights="+info +mget")
    own = start(light, "--redis", redis_server.url.replace("//", "//low:pw@"), *PATIENT)
    assert score(own, "i3", "i4").scores[1] > 0


def test_a_small_catalog_is_loaded_and_a_whole_release_is_served_from_its_files(
    items: Items, own: Path, walked: Path, start: Start, redis_server: RedisServer, tmp_path: Path
) -> None:
    items("push", "dot", "--redis", redis_server.url)
    (own / "dot" / VECTORS).unlink()  # its index is exact
    shutil.copytree(walked / "walked", own / "walked")
    serving = start(own, "--redis", redis_server.url, *PATIENT)
    assert len(list((tmp_path / "server").glob("loaded/*/dot/vectors.npy"))) == 1
    redis_server.kill()
    assert score(serving, "i3").scores[0] > 0
    assert serving.load("walked") == "LOADED"
    assert serving.activate("walked") == "dot"
    assert score(serving, "i3").release == "walked"


# ---- what is verified


def test_a_sample_is_verified(
    items: Items,
    walked: Path,
    light: Path,
    redis_server: RedisServer,
    push: Callable[[str], None],
    run_twotower: Command,
    tmp_path: Path,
) -> None:
    def verify() -> tuple[int, str, str]:
        store = ("--redis", redis_server.url, "--item-store", "redis")
        return run_twotower("release", "verify", "--releases", light, "--data", tmp_path / "data", *store)

    code, out, _ = verify()
    assert code == ExitCode.RELEASE_REFUSED
    assert "of a sample of 964 vectors Redis lacks 964, or they are of another size; write them again" in out
    push(redis_server.url)
    code, out, err = verify()
    assert code == ExitCode.OK, err
    assert "sample of vectors in Redis" in out and "walked is sound" in out
    vectors = vectors_of(walked / "walked")
    mixed = dict(zip(vectors, reversed(list(vectors.values())), strict=True))
    redis_server.client.mset({b"twotower:item_emb:walked:" + id: vector.tobytes() for id, vector in mixed.items()})
    code, out, _ = verify()
    assert code == ExitCode.RELEASE_REFUSED
    assert "Redis holds other vectors than the item tower gives" in out
    redis_server.client.mset({key: np.full(8, np.nan, "<f4").tobytes() for key in redis_server.client.keys("*_emb:*")})
    code, out, _ = verify()
    assert code == ExitCode.RELEASE_REFUSED
    assert "Redis: of a sample, vector 0 is not finite" in out


def test_a_redis_must_be_named() -> None:
    with pytest.raises(ConfigError, match="item_store is redis without redis: --redis URL names it"):
        Config(Path("r"), item_store="redis")


# ---- what goes wrong


def test_without_redis_only_what_needs_vectors_fails(
    light: Path, start: Start, start_redis: StartRedis, push: Callable[[str], None]
) -> None:
    redis_server = start_redis(*APPEND_ALWAYS)
    push(redis_server.url)
    own = start(light, "--redis", redis_server.url, *HASTY)
    until(lambda: answers(own))
    redis_server.kill()
    needing = (
        lambda: score(own, "i3"),
        lambda: recommend(own, 5),
        lambda: own.serving.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id="i3")),
        lambda: own.serving.BatchGetItemEmbeddings(v1.BatchGetItemEmbeddingsRequest(item_ids=["i3"])),
        lambda: own.serving.SearchItems(v1.SearchItemsRequest(item_id="i3", k=3)),
    )
    for call in needing * 3:
        assert "127.0.0.1" not in refusal(call)
        assert len(own.serving.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).embedding.values) == 8
    assert refusal(needing[0]) == "Redis cannot be reached"
    assert own.degraded() == [
        "item store: Redis cannot be reached; vectors of items cannot be read, and nothing can be scored"
    ]
    assert own.serving.GetItemEmbedding(v1.GetItemEmbeddingRequest(item=item(ITEM))).release == "walked"
    redis_server.start()
    until(lambda: own.degraded() == [])
    until(lambda: answers(own))


def test_a_redis_that_hangs_is_not_waited_for(
    light: Path, start: Start, redis_server: RedisServer, push: Callable[[str], None]
) -> None:
    push(redis_server.url)
    own = start(light, "--redis", redis_server.url, *HASTY)
    until(lambda: answers(own))
    redis_server.pause()
    # Not the time-outs of connections: the budget ends it. Then it is left alone, and calls do not wait at all.
    assert refusal(lambda: score(own, "i3")) == "Redis does not answer within 50 ms"
    until(lambda: refusal(lambda: score(own, "i3")) == "Redis does not answer in time")
    assert own.serving.GetUserEmbedding(v1.GetUserEmbeddingRequest(user=user(USER))).release == "walked"
    redis_server.resume()
    until(lambda: answers(own))
    until(lambda: own.degraded() == [])


def test_a_server_starts_while_redis_is_away_once_it_has_verified(
    light: Path, start: Start, start_redis: StartRedis, push: Callable[[str], None]
) -> None:
    redis_server = start_redis(*APPEND_ALWAYS)
    push(redis_server.url)
    first = start(light, "--redis", redis_server.url, *HASTY)
    until(lambda: answers(first))
    first.server.close()
    redis_server.kill()
    again = start(light, "--redis", redis_server.url, *HASTY)
    assert refusal(lambda: score(again, "i3")) == "Redis cannot be reached"
    redis_server.start()
    until(lambda: answers(again))


def test_a_replica_takes_over(
    light: Path, start: Start, start_redis_cluster: StartRedisCluster, push: Callable[[str], None]
) -> None:
    cluster = start_redis_cluster()
    push(cluster.url)
    own = start(light, "--redis", cluster.url, *PATIENT)
    assert answers(own, *ids(200))
    cluster.nodes[1].kill()
    until(lambda: answers(own, *ids(200)))
    until(lambda: own.degraded() == [])


def test_commands_that_need_all_vectors_load_them(
    light: Path,
    redis_server: RedisServer,
    push: Callable[[str], None],
    run_twotower: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(redis_server.url)
    monkeypatch.setenv("TWOTOWER_REDIS", redis_server.url)
    monkeypatch.setenv("TWOTOWER_ITEM_STORE", "redis")
    code, _, err = run_twotower("release", "diff", "walked", "walked", "--releases", light, "--data", tmp_path / "data")
    assert code == ExitCode.OK, err
    assert len(list((tmp_path / "data").glob("loaded/*/walked/vectors.npy"))) == 1


def answers(own: Own, *item_ids: str) -> bool:
    """Whether a call gets its vectors; a busy machine may be late."""
    try:
        return score(own, *(item_ids or ("i3",))).scores[0] > 0
    except grpc.RpcError:
        return False
