"""The tier in a worker's memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from twotower_server.cache.memory import ENTRY_BYTES, Entry, MemoryTier
from twotower_server.cache.policy import CacheKey

VALUES = bytes(256)
ONE = ENTRY_BYTES + len(VALUES) + len("-") + len("u0")


@dataclass(slots=True)
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tier(clock: Clock) -> MemoryTier:
    """Has room for three users."""
    return MemoryTier(3 * ONE, 60.0, clock)


def key(user_id: str, release: str = "r1") -> CacheKey:
    return CacheKey(release, "-", user_id)


def fill(tier: MemoryTier, *user_ids: str) -> None:
    for user_id in user_ids:
        tier.put(key(user_id), Entry(VALUES, tier.clock()))


def kept(tier: MemoryTier, *user_ids: str) -> Iterator[str]:
    return (user_id for user_id in user_ids if tier.get(key(user_id)) is not None)


def test_the_least_recently_used_goes_first(tier: MemoryTier) -> None:
    fill(tier, "u0", "u1", "u2")
    assert tier.get(key("u0")) is not None
    fill(tier, "u3")
    assert list(kept(tier, "u0", "u1", "u2", "u3")) == ["u0", "u2", "u3"]


def test_a_vector_grows_old(tier: MemoryTier, clock: Clock) -> None:
    fill(tier, "u0")
    clock.now += 59.9
    assert tier.get(key("u0")) is not None
    clock.now += 0.1
    assert tier.get(key("u0")) is None
    assert len(tier) == 0


def test_what_is_replaced_or_dropped_frees_its_room(tier: MemoryTier, clock: Clock) -> None:
    for _ in range(5):
        fill(tier, "u0")
    fill(tier, "u1", "u2")
    assert list(kept(tier, "u0", "u1", "u2")) == ["u0", "u1", "u2"]
    clock.now += 60.0
    assert list(kept(tier, "u0", "u1", "u2")) == []
    fill(tier, "u3", "u4", "u5")
    assert list(kept(tier, "u3", "u4", "u5")) == ["u3", "u4", "u5"]


def test_a_younger_vector_stays(tier: MemoryTier, clock: Clock) -> None:
    tier.put(key("u0"), Entry(b"young", clock.now))
    tier.put(key("u0"), Entry(b"old", clock.now - 1.0))
    assert tier.get(key("u0")) == (b"young", clock.now)


def test_a_vector_that_is_larger_than_the_tier_is_not_kept(tier: MemoryTier, clock: Clock) -> None:
    fill(tier, "u0")
    tier.put(key("u1"), Entry(bytes(10_000), clock.now))
    assert len(tier) == 0
    fill(tier, "u2", "u3", "u4")
    assert len(tier) == 3


def test_a_release_is_forgotten_alone(tier: MemoryTier, clock: Clock) -> None:
    fill(tier, "u0", "u1")
    tier.put(key("u0", "r2"), Entry(VALUES, clock.now))
    tier.forget("r1")
    assert list(kept(tier, "u0", "u1")) == []
    assert tier.get(key("u0", "r2")) is not None


@pytest.mark.parametrize("letter", ["u", "é", "Ж", "𝄞"])
def test_the_bound_is_that_of_memory(letter: str) -> None:
    size_bytes = 4 << 20
    tier = MemoryTier(size_bytes, 60.0)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(20_000):
        user_id = f"{letter}{i:015}" * 4
        tier.put(CacheKey("r1", f"v{i}", user_id), Entry(bytes(128), tier.clock()))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < len(tier) < 20_000
    assert 0.5 * size_bytes < after - before < 1.15 * size_bytes
