"""The verifier process: reads a whole release once, so that workers can open it without doing so.

What a release was copied without is loaded or built first.

It runs niced and in bounded memory, and is what the kernel ends first when memory runs out: a release that is
too large or broken ends this process, not one that serves.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

from twotower_server.config import ConfigError
from twotower_server.errors import ReleaseRefused, StoreRefused, StoreUnavailable, TwoTowerError
from twotower_server.release.complete import read_stored
from twotower_server.release.completion import Completion
from twotower_server.release.stamp import write_stamp
from twotower_server.release.verify import Check, verify_release
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.verifier_limit import memory_bytes, out_of_memory

log = logging.getLogger(__name__)

_NICENESS = 10


def run(job: Job, parent: Parent) -> None:
    """Entry of the process: verifies, leaves a stamp, reports."""
    be_modest(memory_bytes(job.config))
    parent.report(_verify(job))


def be_modest(memory: int) -> None:
    """Gives way to the processes that serve. memory: bytes that this process may allocate."""
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Not RLIMIT_AS: that would count the release's mapped files, too.
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        try:
            Path("/proc/self/oom_score_adj").write_text("1000")
        except OSError:
            log.debug("/proc is not writable: the kernel may end another process first when memory runs out")


def _verify(job: Job) -> Report:
    start = time.perf_counter()
    assert job.release is not None
    try:
        folder = Completion(job.config).whole(job.release, _Stages())
        stored = partial(read_stored, job.config) if job.config.item_store == "redis" else None
        verify_release(folder, _passed, read_stored=stored)
    except ReleaseRefused as error:
        return Report(Event.REFUSED, str(error))
    except (StoreUnavailable, StoreRefused, ConfigError) as error:
        log.error("the vectors of release %s cannot be loaded: %s", job.release.name, error)
        why = "does not answer" if isinstance(error, StoreUnavailable) else "cannot be used"
        return Report(Event.FAILED, f"its vectors cannot be loaded: Redis {why}; the server's log says more")
    except OSError as error:
        log.error("release %s cannot be completed: %s", job.release.name, error)
        return Report(Event.FAILED, f"it cannot be completed: {error.strerror}; the server's log says more")
    except MemoryError:
        return Report(Event.REFUSED, out_of_memory(job.config))
    try:
        write_stamp(folder, job.config.data)
    except TwoTowerError as error:
        return Report(Event.FAILED, str(error))
    log.info("release %s is sound (%.1f s)", folder.name, time.perf_counter() - start)
    return Report(Event.DONE)


class _Stages:
    """Tells the log how the completion goes."""

    def start(self, stage: str, total: int | None) -> None:
        log.info("completing: %s", stage)

    def advance(self, units: int) -> None:
        pass


def _passed(check: Check) -> None:
    log.debug("verified: %s (%.2f s)", check.name, check.seconds)
