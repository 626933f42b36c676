"""The compactor process: writes the log anew, and the loaded releases with its changes, beside what serves.

Like the verifier it runs niced and in bounded memory, and what it has written is verified before anybody opens it.
"""

from __future__ import annotations

import logging
import shutil
import time

from twotower_server.catalog.compact import compact_log
from twotower_server.catalog.log import End
from twotower_server.catalog.reader import Reader
from twotower_server.errors import TwoTowerError
from twotower_server.release.base import base_folder, write_base
from twotower_server.release.format import VECTORS, lacking
from twotower_server.release.snapshot import Snapshot
from twotower_server.release.stamp import write_stamp
from twotower_server.release.verify import verify_release
from twotower_server.supervisor.child import Parent
from twotower_server.supervisor.history import replayed
from twotower_server.supervisor.job import Event, Job, Report
from twotower_server.supervisor.verifier import be_modest
from twotower_server.supervisor.verifier_limit import memory_bytes

log = logging.getLogger(__name__)


def run(job: Job, parent: Parent) -> None:
    """Entry of the process: compacts, leaves stamps, reports."""
    be_modest(memory_bytes(job.config))
    try:
        _compact(job)
    except (TwoTowerError, OSError, MemoryError) as error:
        parent.report(Report(Event.FAILED, f"{type(error).__name__}: {error}"))
    else:
        parent.report(Report(Event.DONE))


def _compact(job: Job) -> None:
    start = time.perf_counter()
    end = End.of(job.log_end)
    number = end.number + 1
    remains = job.catalog / str(number)
    shutil.rmtree(remains, ignore_errors=True)
    remains.mkdir()
    prefix = compact_log(job.catalog, end, number)
    for folder in job.bases:
        if VECTORS in lacking(folder):  # they stay in Redis
            continue
        base = base_folder(job.catalog, number, folder)
        snapshot = Snapshot.open(folder)
        reader = Reader.behind(job.catalog, end.number, snapshot.manifest.log_position)
        snapshot = replayed(snapshot, reader, end.size_bytes)
        if write_base(snapshot, folder, base, prefix.mark.position):
            verify_release(base, golden_items=False)
            write_stamp(base, job.config.data)
    elapsed_s = time.perf_counter() - start
    log.info("compacted %d bytes of changes to %d (%.1f s)", end.size_bytes, prefix.size_bytes, elapsed_s)
