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

from twotower_server.access.access import Access
from twotower_server.cache.memory import MemoryTier
from twotower_server.cache.policy import CachePolicy
from twotower_server.cache.user_cache import UserCache
from twotower_server.catalog.log import Log
from twotower_server.catalog.open import open_shared_log
from twotower_server.config import Address, Config, ConfigError
from twotower_server.engine.change import CatalogEngine
from twotower_server.engine.engine import Engine
from twotower_server.engine.limits import Limits
from twotower_server.engine.stored import StoredVectors
from twotower_server.engine.whole import WholeCalls
from twotower_server.errors import ReleaseRefused
from twotower_server.observe.observer import Observer
from twotower_server.release.format import GOLDEN
from twotower_server.release.golden import Golden
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.stamp import is_stamped
from twotower_server.rpc.access import Gate
from twotower_server.rpc.catalog_servicer import CatalogServicer
from twotower_server.rpc.credentials import Certificate
from twotower_server.rpc.inference_servicer import InferenceServicer
from twotower_server.rpc.release_servicer import ReleaseServicer
from twotower_server.rpc.server import RpcServer, Servicer
from twotower_server.rpc.servers import RpcServers
from twotower_server.rpc.servicer import TwoTowerServicer
from twotower_server.supervisor.board import Board, Phase, Row
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.follower import Follower
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.port import shared_sockets
from twotower_server.supervisor.state import read_state

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

    def is_ready() -> bool:
        return board.is_ready and row.phase is Phase.SERVING

    cache = open_user_cache(config)
    closed = None if cache is None else cache.forget
    follower = Follower(job.folder, job.catalog, page, row, partial(open_release, config), closed)
    async with AsyncExitStack() as started:
        # From now on it hangs if it does not move; opening a large release may take its time, in a thread.
        beating = asyncio.create_task(follower.beat())
        started.callback(beating.cancel)
        try:
            await follower.prepare_current()
            follower.join()
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
            access = Access(config.tokens, is_encrypted=config.tls_certificate is not None)
            certificate = open_certificate(config)
            observer = Observer(row.counters)
            calls = WholeCalls(follower, engine.limits, cache, stored)
            servicers: dict[str, Servicer] = {
                "TwoTowerService": TwoTowerServicer(engine, partial(parent.ask, "degraded")),
                "CatalogService": CatalogServicer(catalog),
                "ReleaseService": ReleaseServicer(engine, parent.ask),
                "GRPCInferenceService": InferenceServicer(calls, is_ready),
            }
            serve = partial(
                RpcServer,
                limits=engine.limits,
                credentials=None if certificate is None else certificate.credentials(),
                reflect=config.reflection,
                gate=Gate(access, certificates=config.tls_client_ca is not None),
                is_ready=is_ready,
                observer=observer,
            )
            admin = None if job.admin is None else _bindable(job.admin)
            server = RpcServers(servicers, serve, _bindable(job.address), admin)
            http = open_http(config, calls, partial(read_state, job.folder, page, board), is_ready, access)
            # What is there now stays: collections look at the garbage of calls alone, not at every imported module.
            gc.collect()
            gc.freeze()
            # Calls come as soon as a port is bound. Until then SIGTERM ends this process at once.
            stop = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            await server.start()
            if http is not None and job.http is not None:
                await http.start(shared_sockets(job.http))
        except (ConfigError, OSError, RuntimeError, ValueError) as error:
            where = " and ".join(str(address) for address in (job.address, job.http, job.admin) if address)
            parent.report(Report(Event.FAILED, f"cannot serve on {where}: {error}"))
            return
        # Reverse order: first no new calls and a drain, then the engine that serves them.
        started.push_async_callback(_stop, row, server, http, config.grace_s)
        row.phase = Phase.SERVING
        parent.report(Report(Event.DONE))
        listening = asyncio.create_task(parent.listen(partial(_reload, access, certificate, http)))
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


def _reload(*held: Access | Certificate | HttpServer | None) -> None:
    """Reads the files of tokens and certificates again; one that cannot be used changes nothing."""
    for one in held:
        try:
            if one is not None:
                one.reload()
        except (ConfigError, OSError, ValueError) as error:
            log.error("not reloaded, what was read before stays: %s", error)


def _bindable(address: Address) -> str:
    """As gRPC wants it."""
    return str(address) if address.host else f"[::]:{address.port}"


async def _stop(row: Row, server: RpcServers, http: HttpServer | None, grace_s: float) -> None:
    """Both ports drain at the same time, so that together they take no longer than the grace."""
    row.phase = Phase.DRAINING
    await asyncio.gather(server.stop(grace_s), *(() if http is None else (http.stop(),)))


def open_certificate(config: Config) -> Certificate | None:
    """The certificate of the gRPC ports; None = plaintext. Raises OSError."""
    if config.tls_certificate is None or config.tls_key is None:
        return None
    return Certificate(config.tls_certificate, config.tls_key, config.tls_client_ca)


def open_http(
    config: Config, calls: WholeCalls, state: Callable[[], ServerState], is_ready: Callable[[], bool], access: Access
) -> HttpServer | None:
    """The server of the HTTP port; None when there is none. Raises OSError."""
    if config.http_listen is None:
        return None
    from twotower_server.http.access import Gate  # aiohttp takes 15 MB and 0.3 s: only where it is used
    from twotower_server.http.server import HttpServer
    from twotower_server.http.tls import Certificate

    certificate = None
    if config.tls_certificate is not None and config.tls_key is not None:
        certificate = Certificate(config.tls_certificate, config.tls_key, config.tls_client_ca)
    gate = Gate(access, certificates=config.tls_client_ca is not None)
    return HttpServer(calls, state, is_ready, grace_s=config.grace_s, certificate=certificate, gate=gate)


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
