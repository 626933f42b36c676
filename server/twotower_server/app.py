"""The composition root of a worker: what it is made of, in the order of its start; it stops in reverse."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from twotower_server.cache.memory import MemoryTier
from twotower_server.cache.policy import CachePolicy
from twotower_server.cache.user_cache import UserCache
from twotower_server.catalog.log import Log
from twotower_server.catalog.open import open_shared_log
from twotower_server.config import Config
from twotower_server.engine.change import CatalogEngine
from twotower_server.engine.engine import Engine
from twotower_server.engine.limits import Limits
from twotower_server.engine.stored import StoredVectors
from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import ReleaseRefused
from twotower_server.release.format import GOLDEN
from twotower_server.release.golden import Golden
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.stamp import is_stamped
from twotower_server.rpc.catalog_servicer import CatalogServicer
from twotower_server.rpc.credentials import server_credentials
from twotower_server.rpc.release_servicer import ReleaseServicer
from twotower_server.rpc.server import RpcServer, Servicer
from twotower_server.rpc.servicer import TwoTowerServicer
from twotower_server.supervisor.board import Board
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.follower import Follower
from twotower_server.supervisor.generation import Generation
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.port import shared_sockets

if TYPE_CHECKING:  # redis-py takes 9 MB of each worker, aiohttp 15 MB
    from twotower_server.http.metrics import ServerState
    from twotower_server.http.server import HttpServer
    from twotower_server.items.redis_vectors import RedisVectors

log = logging.getLogger(__name__)

_WARM_UP_K = 100


def run_worker(job: Job, parent: Parent) -> None:
    """Entry of a worker process: serves until SIGTERM."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(job, parent))


async def _serve(job: Job, parent: Parent) -> None:
    config = job.config
    board = Board(job.folder / "board", config.workers)
    row = board.rows[job.slot]
    page = Page(job.folder / "page")
    cache = open_user_cache(config)
    closed = None if cache is None else cache.forget
    follower = Follower(job.folder, job.catalog, page, row, partial(open_release, config), closed)
    async with AsyncExitStack() as started:
        try:
            await follower.prepare_current()
            follower.join()
            beating = asyncio.create_task(follower.beat())
            started.callback(beating.cancel)
            await follower.look()  # a switch that began before this worker could be waited for
        except ReleaseRefused as error:
            parent.report(Report(Event.REFUSED, str(error)))
            return
        if cache is not None:
            await cache.start()
            started.push_async_callback(cache.close)
        vectors = open_item_store(config)
        if vectors is not None:
            await vectors.start()
            started.push_async_callback(vectors.close)
        own = Log(job.catalog, page)
        changes = open_shared_log(config, own) or own
        stored = None if vectors is None else StoredVectors(vectors)
        engine = Engine(follower, limits(config), cache, stored)
        started.callback(engine.close)
        catalog = CatalogEngine(follower, changes.append, engine.limits)
        started.callback(catalog.close)
        try:
            credentials = server_credentials(config.tls_certificate, config.tls_key)
            servicers: dict[str, Servicer] = {
                "TwoTowerService": TwoTowerServicer(engine, partial(parent.ask, "degraded")),
                "CatalogService": CatalogServicer(catalog),
                "ReleaseService": ReleaseServicer(engine, parent.ask),
            }
            server = RpcServer(servicers, engine.limits, credentials=credentials, reflect=config.reflection)
            calls = WholeCalls(follower, engine.limits, cache, stored)
            http = open_http(config, calls, partial(observe, job.folder, page, board))
            # What is there now stays: collections look at the garbage of calls alone, not at every imported module.
            gc.collect()
            gc.freeze()
            await server.start(str(job.address) if job.address.host else f"[::]:{job.address.port}")
            if http is not None and job.http is not None:
                await http.start(shared_sockets(job.http))
        except (OSError, RuntimeError, ValueError) as error:
            where = job.address if job.http is None else f"{job.address} and {job.http}"
            parent.report(Report(Event.FAILED, f"cannot serve on {where}: {error}"))
            return
        # Reverse order: first no new calls and a drain, then the engine that serves them.
        started.push_async_callback(_stop, server, http, config.grace_s)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await server.set_serving(True)
        if http is not None:
            http.set_serving(True)
        parent.report(Report(Event.DONE))
        listening = asyncio.create_task(parent.listen())
        listening.add_done_callback(lambda _: os._exit(1))  # the supervisor is gone
        tasks = [asyncio.create_task(coroutine) for coroutine in (stop.wait(), follower.follow())]
        ended, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for task in ended:
            try:
                task.result()
            except ReleaseRefused as error:
                parent.report(Report(Event.REFUSED, str(error)))


async def _stop(server: RpcServer, http: HttpServer | None, grace_s: float) -> None:
    """Both ports drain at the same time, so that together they take no longer than the grace."""
    await asyncio.gather(server.stop(grace_s), *(() if http is None else (http.stop(),)))


def open_http(config: Config, calls: WholeCalls, state: Callable[[], ServerState]) -> HttpServer | None:
    """The server of the HTTP port; None when there is none."""
    if config.http_listen is None:
        return None
    from twotower_server.http.server import HttpServer  # aiohttp takes 15 MB and 0.3 s: only where it is used

    return HttpServer(calls, state, grace_s=config.grace_s, certificate=config.tls_certificate, key=config.tls_key)


def observe(folder: Path, page: Page, board: Board) -> ServerState:
    """What the processes of a server share, for /metrics. folder: of the server."""
    from twotower_server.http.metrics import ServerState  # as above

    while True:
        number = page.current
        try:
            generation = Generation.read(folder, number)
        except FileNotFoundError:
            if number == page.current:
                raise
            continue  # a switch has just retired it
        served = {release: board.counted(loaded.column) for release, loaded in generation.loaded.items()}
        return ServerState(generation.active, served, [row.healthy for row in board.rows])


def open_user_cache(config: Config) -> UserCache | None:
    """The cache of user vectors; None when its policy is `off`."""
    if config.user_cache == "off":
        return None
    policy = CachePolicy(config.user_cache_ttl_s, config.user_cache_by_version, config.user_cache_real_time)
    memory = MemoryTier(config.user_cache_mib << 20, policy.ttl_s)
    if config.redis is None or not config.user_cache_redis:
        return UserCache(policy, memory)
    from twotower_server.cache.redis import RedisTier  # redis-py takes 9 MB and 0.2 s: only where it is used

    redis = RedisTier(config.redis, config.redis_ca, config.redis_prefix, policy.ttl_s, config.user_cache_budget_ms)
    return UserCache(policy, memory, redis)


def open_item_store(config: Config) -> RedisVectors | None:
    """What reads vectors of items from Redis; None when they are in files."""
    if config.item_store == "files":
        return None
    from twotower_server.items.redis_vectors import RedisVectors  # as above

    assert config.redis is not None, "Config does not take an item store in Redis without"
    return RedisVectors(config.redis, config.redis_ca, config.redis_prefix, config.item_store_budget_ms)


def open_release(config: Config, folder: Path) -> Snapshot:
    """Opens and warms up a release that this machine has verified. Raises ReleaseRefused."""
    start = time.perf_counter()
    if not is_stamped(folder, config.data):
        raise ReleaseRefused("its files have changed since they were verified")
    stored = config.item_store == "redis"
    snapshot = Snapshot.open(folder, strict_features=config.strict_features, stored=stored)
    warm_up(snapshot, Golden.load(folder / GOLDEN))
    elapsed_s = time.perf_counter() - start
    log.info("opened release %s: %d items (%.2f s)", snapshot.release, snapshot.manifest.items, elapsed_s)
    return snapshot


def warm_up(snapshot: Snapshot, golden: Golden) -> None:
    """Embeds a user and an item and searches once: the first call of each takes far longer than others."""
    user = snapshot.embed_users(snapshot.user_encoder.encode(golden.users[:1]))[0]
    snapshot.embed_items(snapshot.item_encoder.encode(golden.items[:1]))
    snapshot.index.search(user, min(_WARM_UP_K, len(snapshot.catalog)))


def limits(config: Config) -> Limits:
    """The limits of one call, as configured."""
    return Limits(
        users=config.limit_users,
        items=config.limit_items,
        k=config.limit_k,
        exclusions=config.limit_exclusions,
        features=config.limit_features,
        id_bytes=config.limit_id_bytes,
        request_bytes=config.limit_request_bytes,
        response_bytes=config.limit_response_bytes,
    )
