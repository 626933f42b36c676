"""The supervisor: verifies the active release, starts workers, replaces dead ones, stops them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twotower_server.config import Address, Config, ConfigError, flag
from twotower_server.errors import ReleaseRefused, TwoTowerError
from twotower_server.release.active import active_release, release_names
from twotower_server.release.format import MANIFEST
from twotower_server.release.stamp import is_stamped
from twotower_server.supervisor.errors import NoRelease, WorkerFailed
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.port import Port
from twotower_server.supervisor.process import Process
from twotower_server.supervisor.verifier_limit import killed_by

log = logging.getLogger(__name__)

WORKER = "twotower_server.app:run_worker"
VERIFIER = "twotower_server.supervisor.verifier:run"

# A worker that served this long had a sound start: what ends it later is no crash loop.
_SOUND_S = 30.0
_MAX_FAILURES = 5
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 5.0
# Beyond the grace that calls in flight get: for closing files and threads.
_CLOSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, once all workers are ready."""

    release: str
    address: Address
    workers: int


def serve(config: Config, on_serving: Callable[[Serving], None], *, worker: str = WORKER) -> bool:
    """Serves until SIGTERM or SIGINT. True when all workers then ended in order, False when one was killed.

    on_serving: called once, when all workers are ready. worker: entry of the worker processes.
    Raises NoRelease, ReleaseRefused, PortTaken, ConfigError or WorkerFailed with the reason.
    """
    _check_tls(config)
    release = _release_to_serve(config.releases)
    with Port(config.listen) as port:
        return asyncio.run(Supervisor(config, release, port.address, worker).run(on_serving))


def _release_to_serve(releases: Path) -> str:
    if not releases.is_dir():
        raise NoRelease(f"{releases} is no folder; name the folder of releases by --releases")
    try:
        release = active_release(releases)
    except ReleaseRefused as error:
        raise NoRelease(str(error)) from None
    if not (releases / release / MANIFEST).is_file():
        names = ", ".join(release_names(releases)) or "none"
        raise NoRelease(f"the active release {release} is not in {releases}, which has {names}; activate one of these")
    return release


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
    """Keeps `config.workers` workers on one release and one port.

    The release is chosen once: a worker that is replaced must serve what the others serve.
    """

    def __init__(self, config: Config, release: str, address: Address, worker: str) -> None:
        self._config = config
        self._release = release
        self._address = address
        self._worker = worker
        self._processes: set[Process] = set()
        self._ready: set[int] = set()
        self._announced = False
        self._stopping = False
        self._verifying = asyncio.Lock()

    async def run(self, on_serving: Callable[[Serving], None]) -> bool:
        """As `serve`."""
        slots = [asyncio.create_task(self._keep(slot, on_serving)) for slot in range(self._config.workers)]
        serving = asyncio.gather(*slots)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number, serving)
        try:
            await serving
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        finally:
            for slot in slots:
                slot.cancel()
            await asyncio.wait(slots)
            drained = await self._drain()
        log.info("stopped")
        return drained

    def _stop(self, number: signal.Signals, serving: asyncio.Future[list[None]]) -> None:
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
        """Keeps one worker running. Raises when the release is refused, or workers end in a loop."""
        failures = 0
        while True:
            await self._verify()
            worker = await self._start(self._worker, f"worker {slot}")
            report = await worker.report()
            served_s = 0.0
            if report is not None and report.event is Event.DONE:
                ready_at = time.monotonic()
                self._is_ready(slot, worker, on_serving)
                why = await worker.ended()
                served_s = time.monotonic() - ready_at
            else:
                why = await worker.ended()
                if report is not None:
                    why = self._cannot_start(report)
            self._processes.discard(worker)
            self._ready.discard(slot)
            failures = 1 if served_s >= _SOUND_S else failures + 1
            if failures == _MAX_FAILURES:
                raise WorkerFailed(f"{worker.name} failed {failures} times in a row; at last: {why}")
            backoff_s = min(_FIRST_BACKOFF_S * 2 ** (failures - 1), _MAX_BACKOFF_S)
            log.warning("%s: %s; another starts in %.1f s", worker.name, why, backoff_s)
            await asyncio.sleep(backoff_s)

    def _is_ready(self, slot: int, worker: Process, on_serving: Callable[[Serving], None]) -> None:
        self._ready.add(slot)
        log.info("%s is ready (process %d)", worker.name, worker.pid)
        if len(self._ready) == self._config.workers and not self._announced:
            self._announced = True
            log.info("serving %s on %s", self._release, self._address)
            on_serving(Serving(self._release, self._address, self._config.workers))

    def _cannot_start(self, report: Report) -> str:
        """Why a worker did not start. Raised while the server itself starts: another try would not help."""
        if not self._announced and report.event is Event.REFUSED:
            raise ReleaseRefused(f"release {self._release}: {report.reason}")
        if not self._announced:
            raise WorkerFailed(report.reason)
        return report.reason

    async def _verify(self) -> None:
        """Has the release verified, unless this machine did so before and no file has changed since."""
        async with self._verifying:
            if is_stamped(self._config.releases / self._release, self._config.data):
                return
            log.info("verifying release %s, once for this machine", self._release)
            verifier = await self._start(VERIFIER, "verifier")
            report = await verifier.report()
            end = await verifier.ended()
            self._processes.discard(verifier)
        if report is None:
            number = verifier.signal
            why = f"the verifier {end}" if number is None else killed_by(number, self._config)
            raise ReleaseRefused(f"release {self._release}: {why}")
        if report.event is Event.REFUSED:
            raise ReleaseRefused(f"release {self._release}: {report.reason}")
        if report.event is Event.FAILED:
            raise TwoTowerError(report.reason)

    async def _start(self, entry: str, name: str) -> Process:
        process = await Process.start(entry, Job(name, self._config, self._release, self._address))
        self._processes.add(process)
        return process
