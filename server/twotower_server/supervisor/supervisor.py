"""The supervisor: holds what the processes of a server share, starts them, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower_server.access.access import Access
from twotower_server.catalog.log import End, Log
from twotower_server.catalog.open import open_shared_log
from twotower_server.config import Address, Config, ConfigError, flag
from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.completion import Completion
from twotower_server.release.fleet import Fleet
from twotower_server.release.repository import Repository, open_repository
from twotower_server.supervisor.answers import Answers
from twotower_server.supervisor.board import Board, Phase
from twotower_server.supervisor.certificate import check_certificate
from twotower_server.supervisor.compaction import Compaction
from twotower_server.supervisor.errors import NoRelease
from twotower_server.supervisor.folder import catalog_folder, server_folder
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.port import Port, shared_sockets
from twotower_server.supervisor.processes import Processes
from twotower_server.supervisor.state import read_state
from twotower_server.supervisor.switch import Switch
from twotower_server.supervisor.verification import Verification
from twotower_server.supervisor.workers import Workers

if TYPE_CHECKING:
    from twotower_server.supervisor.sharing import Sharing

log = logging.getLogger(__name__)

WORKER = "twotower_server.app:run_worker"
VERIFIER = "twotower_server.supervisor.verifier:run"
COMPACTOR = "twotower_server.supervisor.compactor:run"

# Beyond the grace that calls in flight get: for closing files and threads.
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, once all workers are ready.

    http: where by HTTP; None = not. admin: where CatalogService and ReleaseService; None = with the others.
    metrics: where the supervisor shows metrics; None = nowhere.
    """

    release: str
    address: Address
    workers: int
    http: Address | None = None
    admin: Address | None = None
    metrics: Address | None = None


def serve(config: Config, on_serving: Callable[[Serving], None], *, worker: str = WORKER) -> bool:
    """Serves until SIGTERM or SIGINT. True when all workers then ended in order, False when one was killed.

    on_serving: called once, when all workers are ready. worker: entry of the worker processes.
    Raises NoRelease, ReleaseRefused, PortTaken, ConfigError or WorkerFailed with the reason.
    """
    check_files(config)
    repository, release = _release_to_serve(config)
    shared = config.redis_prefix if config.change_log == "redis" else ""
    with (
        _ports(config) as (address, http, admin, metrics),
        server_folder(config.data) as folder,
        catalog_folder(config.data, str(repository), shared) as catalog,
    ):
        job = Job("", config, address, folder, catalog, http=http, admin=admin)
        return asyncio.run(Supervisor(job, metrics, repository, release, worker, on_serving).run())


def check_files(config: Config) -> int:
    """Finds what is wrong with certificates and tokens before workers read them. Raises ConfigError.

    Returns when the certificate expires: Unix seconds, 0 when there is none.
    """
    Access(config.tokens)
    return check_certificate(config)


@contextmanager
def _ports(config: Config) -> Iterator[tuple[Address, Address | None, Address | None, Address | None]]:
    """Holds the ports: of gRPC, and those that are wanted of HTTP, of what changes something, and of metrics."""
    with ExitStack() as held:

        def hold(option: str) -> Address | None:
            wanted: Address | None = getattr(config, option)
            return None if wanted is None else held.enter_context(Port(wanted, flag(option))).address

        address = held.enter_context(Port(config.listen)).address
        yield address, hold("http_listen"), hold("admin_listen"), hold("metrics_listen")


def _release_to_serve(config: Config) -> tuple[Repository, str]:
    try:
        repository = open_repository(config.releases, config.data, config.keep_fetched)
        release, names = Fleet(repository).active(), repository.names()
    except ReleaseRefused as error:
        raise NoRelease(str(error)) from None
    except OSError as error:
        raise TwoTowerError(f"the releases cannot be read: {error}") from None
    if release not in names:
        raise NoRelease(
            f"the active release {release} is not in {repository}, which has {', '.join(names) or 'none'}; "
            "activate one of these"
        )
    return repository, release


class Supervisor:
    """Keeps `config.workers` workers on one port, all of them on what the switch says."""

    def __init__(
        self,
        job: Job,
        metrics: Address | None,
        repository: Repository,
        release: str,
        worker: str,
        on_serving: Callable[[Serving], None],
    ) -> None:
        """job: what all processes are told. metrics: where to show them. release: to serve first.

        worker: entry of the workers.
        """
        self._job = job
        self._metrics = metrics
        self._config = job.config
        self._release = release
        self._on_serving = on_serving
        self._stopping = False
        self._fleet = Fleet(repository, f"{socket.gethostname()}-{job.address.port}", job.config.follow_s)
        self._page = page = Page(job.folder / "page", create=True)
        changes = Log(job.catalog, page)
        changes.recover()
        self._board = Board(job.folder / "board", job.config.workers, create=True)
        self._processes = Processes()
        completion = Completion(job.config)
        verification = Verification(job, VERIFIER, self._processes, completion)
        self._switch = Switch(
            job.config, self._fleet, job.folder, page, changes, self._board, verification.verify, completion
        )
        answers = Answers(self._switch)
        self._workers = Workers(job, worker, release, self._processes, self._board, answers, self._all_serve)
        moving = asyncio.Lock()
        shared = open_shared_log(job.config, changes)
        self._compaction = Compaction(job.config, changes, self._switch, self._compact, moving, shared)
        self._sharing: Sharing | None = None
        if shared is not None:
            from twotower_server.supervisor.sharing import Sharing  # needs redis-py

            self._sharing = Sharing(shared, self._switch, moving)

    async def run(self) -> bool:
        """As `serve`."""
        self._board.certificate_expiry = check_certificate(self._config)
        async with self._probes():
            return await self._run()

    async def _run(self) -> bool:
        serving = asyncio.create_task(self._serve())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number, serving)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            await serving
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            self._board.phase = Phase.DRAINING
            in_order = await self._processes.stop(self._config.grace_s + _CLOSE_S)
            with suppress(OSError):
                self._fleet.leave()
        log.info("stopped")
        return in_order

    @asynccontextmanager
    async def _probes(self) -> AsyncIterator[None]:
        """Answers probes and Prometheus here, if that is wanted."""
        if self._metrics is None:
            yield
            return
        from twotower_server.http.probe import Probes, ProbeServer  # aiohttp takes 15 MB: only where it is used

        state = partial(read_state, self._job.folder, self._page, self._board)
        server = ProbeServer(Probes(state, lambda: self._board.is_ready))
        await server.start(shared_sockets(self._metrics))
        try:
            yield
        finally:
            await server.stop()

    async def _serve(self) -> None:
        """Runs until it is cancelled, or something cannot go on."""
        if self._sharing is not None:
            await self._sharing.start()
        await self._switch.start(self._release)
        keeping: list[Coroutine[Any, Any, None]] = [self._workers.keep(slot) for slot in range(self._config.workers)]
        running = [*keeping, self._switch.follow(), self._switch.report(), self._compaction.run()]
        if self._sharing is not None:
            running.append(self._sharing.run())
        tasks = [asyncio.create_task(coroutine) for coroutine in running]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _all_serve(self) -> None:
        job, active = self._job, self._switch.generation.active
        if not self._stopping:
            self._board.phase = Phase.SERVING
        log.info("serving %s on %s%s", active, job.address, "" if job.http is None else f", by HTTP on {job.http}")
        self._on_serving(Serving(active, job.address, job.config.workers, job.http, job.admin, self._metrics))

    def _stop(self, number: signal.Signals, serving: asyncio.Task[None]) -> None:
        if self._stopping:
            log.warning("%s again: ending calls in flight", number.name)
            self._processes.kill()
            serving.cancel()
            return
        self._stopping = True
        # Before it serves nobody has been told to send calls.
        delay_s = self._config.drain_delay_s if self._board.phase is Phase.SERVING else 0.0
        self._board.phase = Phase.DRAINING
        taking = f"calls are taken for another {delay_s:g} s, then " if delay_s else ""
        log.info("%s: %scalls in flight may finish within %g s", number.name, taking, self._config.grace_s)
        asyncio.get_running_loop().call_later(delay_s, serving.cancel)

    def _reload(self) -> None:
        """Has workers read certificates and tokens again, if they are sound; else those that they have stay."""
        try:
            expiry = check_files(self._config)
        except ConfigError as error:
            log.error("SIGHUP: nothing is read again: %s", error)
            return
        self._board.certificate_expiry = expiry
        log.info("SIGHUP: workers read certificates and tokens again")
        self._workers.reload()

    async def _compact(self, end: End, folders: Sequence[Path]) -> None:
        """As `Compaction` wants it."""
        job = replace(self._job, name="compactor", bases=folders, log_end=end.word)
        compactor = await self._processes.start(COMPACTOR, job)
        report = await compactor.says()
        why = await self._processes.ended(compactor)
        if not isinstance(report, Report) or report.event is not Event.DONE:
            raise TwoTowerError(report.reason if isinstance(report, Report) else f"the compactor {why}")
