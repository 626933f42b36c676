"""The supervisor: starts workers, replaces dead ones, passes on what callers ask of releases, stops in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twotower_server.catalog.log import End, Log
from twotower_server.catalog.open import open_shared_log
from twotower_server.config import Address, Config, ConfigError, flag
from twotower_server.errors import Reason, Refused, ReleaseRefused, TwoTowerError
from twotower_server.release.completion import Completion
from twotower_server.release.fleet import Fleet
from twotower_server.release.repository import Repository, open_repository
from twotower_server.release.stamp import is_stamped
from twotower_server.supervisor.board import Board
from twotower_server.supervisor.compaction import Compaction
from twotower_server.supervisor.errors import NoRelease, WorkerFailed
from twotower_server.supervisor.folder import catalog_folder, server_folder
from twotower_server.supervisor.job import Answer, Event, Job, Question, Report
from twotower_server.supervisor.page import Page
from twotower_server.supervisor.port import Port
from twotower_server.supervisor.process import Process
from twotower_server.supervisor.switch import State, Switch
from twotower_server.supervisor.verifier_limit import killed_by

if TYPE_CHECKING:
    from twotower_server.supervisor.sharing import Sharing

log = logging.getLogger(__name__)

WORKER = "twotower_server.app:run_worker"
VERIFIER = "twotower_server.supervisor.verifier:run"
COMPACTOR = "twotower_server.supervisor.compactor:run"

# A worker that served this long had a sound start: what ends it later is no crash loop.
_SOUND_S = 30.0
_MAX_FAILURES = 5
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
# Beyond the grace that calls in flight get: for closing files and threads.
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, once all workers are ready. http: where by HTTP; None = not."""

    release: str
    address: Address
    workers: int
    http: Address | None = None


def serve(config: Config, on_serving: Callable[[Serving], None], *, worker: str = WORKER) -> bool:
    """Serves until SIGTERM or SIGINT. True when all workers then ended in order, False when one was killed.

    on_serving: called once, when all workers are ready. worker: entry of the worker processes.
    Raises NoRelease, ReleaseRefused, PortTaken, ConfigError or WorkerFailed with the reason.
    """
    _check_tls(config)
    repository, release = _release_to_serve(config)
    shared = config.redis_prefix if config.change_log == "redis" else ""
    with (
        _ports(config) as (address, http),
        server_folder(config.data) as folder,
        catalog_folder(config.data, str(repository), shared) as catalog,
    ):
        job = Job("", config, address, folder, catalog, http=http)
        return asyncio.run(Supervisor(job, repository, release, worker).run(on_serving))


@contextmanager
def _ports(config: Config) -> Iterator[tuple[Address, Address | None]]:
    """Holds the ports of the server: that of gRPC, and that of HTTP if it is wanted."""
    with Port(config.listen) as port:
        if config.http_listen is None:
            yield port.address, None
            return
        with Port(config.http_listen, flag("http_listen")) as http:
            yield port.address, http.address


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


def _check_tls(config: Config) -> None:
    """Finds here what a worker could only say when it starts: a file that is missing or no certificate."""
    certificate, key = config.tls_certificate, config.tls_key
    if certificate is None or key is None:
        return
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{flag(name)}: {path} cannot be read: {error.strerror}") from None
    try:
        # The empty password keeps OpenSSL from asking for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise ConfigError(
            f"--tls-certificate and --tls-key: {certificate} and {key} are no PEM certificate chain with its "
            "unencrypted key"
        ) from None


class Supervisor:
    """Keeps `config.workers` workers on one port, all of them on what the switch says."""

    def __init__(self, job: Job, repository: Repository, release: str, worker: str) -> None:
        """job: what all processes are told. release: to serve first. worker: entry of the workers."""
        self._job = job
        self._config = job.config
        self._address = job.address
        self._release = release
        self._worker = worker
        self._processes: set[Process] = set()
        self._ready: set[int] = set()
        self._announced = False
        self._stopping = False
        self._verifying = asyncio.Lock()
        self._answering: set[asyncio.Task[None]] = set()
        self._completion = Completion(job.config)
        self._fleet = Fleet(repository, f"{socket.gethostname()}-{job.address.port}", job.config.follow_s)
        page = Page(job.folder / "page", create=True)
        changes = Log(job.catalog, page)
        changes.recover()
        self._board = Board(job.folder / "board", job.config.workers, create=True)
        self._switch = Switch(
            job.config, self._fleet, job.folder, page, changes, self._board, self._verify, self._completion
        )
        moving = asyncio.Lock()
        shared = open_shared_log(job.config, changes)
        self._compaction = Compaction(job.config, changes, self._switch, self._compact, moving, shared)
        self._sharing: Sharing | None = None
        if shared is not None:
            from twotower_server.supervisor.sharing import Sharing  # needs redis-py

            self._sharing = Sharing(shared, self._switch, moving)

    async def run(self, on_serving: Callable[[Serving], None]) -> bool:
        """As `serve`."""
        serving = asyncio.create_task(self._serve(on_serving))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number, serving)
        try:
            await serving
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            drained = await self._drain()
            with suppress(OSError):
                self._fleet.leave()
        log.info("stopped")
        return drained

    async def _serve(self, on_serving: Callable[[Serving], None]) -> None:
        """Runs until it is cancelled, or something cannot go on."""
        if self._sharing is not None:
            await self._sharing.start()
        await self._switch.start(self._release)
        keeping: list[Coroutine[Any, Any, None]] = [
            self._keep(slot, on_serving) for slot in range(self._config.workers)
        ]
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

    def _stop(self, number: signal.Signals, serving: asyncio.Task[None]) -> None:
        if self._stopping:
            log.warning("%s again: ending calls in flight", number.name)
            for process in self._processes:
                process.send(signal.SIGKILL)
            return
        self._stopping = True
        log.info("%s: calls in flight may finish within %g s", number.name, self._config.grace_s)
        serving.cancel()

    async def _drain(self) -> bool:
        """Ends all processes: those that serve drain first. False when one had to be killed."""
        ends = {asyncio.create_task(process.ended()): process for process in self._processes}
        for process in self._processes:
            process.send(signal.SIGTERM)
        if not ends:
            return True
        _, late = await asyncio.wait(ends, timeout=self._config.grace_s + _CLOSE_S)
        for end in late:
            log.warning("%s does not end; killing it", ends[end].name)
            ends[end].send(signal.SIGKILL)
        await asyncio.wait(ends)
        return not any(process.signal == signal.SIGKILL for process in ends.values())

    async def _keep(self, slot: int, on_serving: Callable[[Serving], None]) -> None:
        """Keeps one worker running. Raises when workers end in a loop and none is left."""
        failures = 0
        while True:
            worker = await self._start(self._worker, replace(self._job, name=f"worker {slot}", slot=slot))
            served_s = 0.0
            report = await worker.says()
            if isinstance(report, Report) and report.event is Event.DONE:
                ready_at = time.monotonic()
                self._is_ready(slot, worker, on_serving)
                report = await self._attend(worker)
                served_s = time.monotonic() - ready_at
            self._board.rows[slot].pid = 0
            why = await worker.ended()
            self._processes.discard(worker)
            self._ready.discard(slot)
            if isinstance(report, Report):
                why = self._cannot_serve(report)
            failures = 1 if served_s >= _SOUND_S else failures + 1
            if failures >= _MAX_FAILURES and not self._ready:
                raise WorkerFailed(f"{worker.name} failed {failures} times in a row; at last: {why}")
            backoff_s = min(_FIRST_BACKOFF_S * 2 ** (failures - 1), _MAX_BACKOFF_S)
            log.warning("%s: %s; another starts in %.1f s", worker.name, why, backoff_s)
            await asyncio.sleep(backoff_s)

    def _is_ready(self, slot: int, worker: Process, on_serving: Callable[[Serving], None]) -> None:
        self._ready.add(slot)
        log.info("%s is ready (process %d)", worker.name, worker.pid)
        if len(self._ready) == self._config.workers and not self._announced:
            self._announced = True
            active = self._switch.generation.active
            http = self._job.http
            log.info("serving %s on %s%s", active, self._address, "" if http is None else f", by HTTP on {http}")
            on_serving(Serving(active, self._address, self._config.workers, http))

    async def _attend(self, worker: Process) -> Report | None:
        """Answers a worker's questions until it ends, or reports why it will."""
        while isinstance(said := await worker.says(), Question):
            task = asyncio.create_task(self._answer(worker, said))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        return said

    async def _answer(self, worker: Process, question: Question) -> None:
        switch = self._switch
        methods: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            method.__name__: method
            for method in (switch.states, switch.degraded, switch.load, switch.activate, switch.rollback, switch.split)
        }
        try:
            value = await methods[question.method](**question.arguments)
        except Refused as error:
            worker.answer(Answer(question.number, refused=error))
        except (OSError, ReleaseRefused) as error:
            log.error("%s: the releases folder failed: %s", question.method, error)
            refused = Refused(
                Reason.STORE_UNAVAILABLE, "the releases folder cannot be used; the server's log says more"
            )
            worker.answer(Answer(question.number, refused=refused))
        except Exception:
            log.exception("%s failed", question.method)
            refused = Refused(Reason.INTERNAL, "this is a bug of the server; its log has the details")
            worker.answer(Answer(question.number, refused=refused))
        else:
            worker.answer(Answer(question.number, _plain(value)))

    def _cannot_serve(self, report: Report) -> str:
        """Why a worker ended. Raised while the server itself starts: another try would not help."""
        if not self._announced and report.event is Event.REFUSED:
            raise ReleaseRefused(f"release {self._release}: {report.reason}")
        if not self._announced:
            raise WorkerFailed(report.reason)
        return report.reason

    async def _verify(self, folder: Path) -> Path:
        """Has a release verified, unless this machine did so before and no file has changed since.

        Returns what to open: its folder, or that of its copy when it lacks large files. Raises ReleaseRefused with the
        reason, and TwoTowerError.
        """
        async with self._verifying:
            try:
                place = await asyncio.to_thread(self._completion.keep, folder)
            except ReleaseRefused as error:
                raise ReleaseRefused(f"release {folder.name}: {error}") from None
            if await asyncio.to_thread(is_stamped, place, self._config.data):
                return place
            log.info("verifying release %s, once for this machine", folder.name)
            job = replace(self._job, name="verifier", release=folder)
            verifier = await self._start(VERIFIER, job)
            report = await verifier.says()
            end = await verifier.ended()
            self._processes.discard(verifier)
        if not isinstance(report, Report):
            number = verifier.signal
            why = f"the verifier {end}" if number is None else killed_by(number, self._config)
            raise ReleaseRefused(f"release {folder.name}: {why}")
        if report.event is Event.REFUSED:
            raise ReleaseRefused(f"release {folder.name}: {report.reason}")
        if report.event is Event.FAILED:
            raise TwoTowerError(f"release {folder.name}: {report.reason}")
        return place

    async def _compact(self, end: End, folders: Sequence[Path]) -> None:
        """As `Compaction` wants it."""
        job = replace(self._job, name="compactor", bases=folders, log_end=end.word)
        compactor = await self._start(COMPACTOR, job)
        report = await compactor.says()
        why = await compactor.ended()
        self._processes.discard(compactor)
        if not isinstance(report, Report) or report.event is not Event.DONE:
            raise TwoTowerError(report.reason if isinstance(report, Report) else f"the compactor {why}")

    async def _start(self, entry: str, job: Job) -> Process:
        process = await Process.start(entry, job)
        self._processes.add(process)
        return process


def _plain(value: Any) -> Any:
    """What a method of the switch returned, as JSON has it."""
    if isinstance(value, State):
        return asdict(value)
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
