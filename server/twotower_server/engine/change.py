"""Changing the catalog: checked against every loaded release, written to the log, then served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from twotower_server.catalog.change import Change
from twotower_server.engine.limits import Limits
from twotower_server.engine.route import ReleaseSource
from twotower_server.errors import NotAppended, OutcomeUnknown, Reason, Refused
from twotower_server.release.apply import evaluate

log = logging.getLogger(__name__)

# Changes that are logged at once: to apply them takes a worker about 5 ms.
_PIECE = 256
# Calls that wait for the log at once; a Redis that hangs holds them up, and nobody else.
_WRITERS = 8


class CatalogEngine:
    """Takes changes. Its methods are called on the event loop; towers run and the log is written in a thread."""

    def __init__(self, source: ReleaseSource, append: Callable[[Sequence[Change], int], int], limits: Limits) -> None:
        """append: makes changes durable and visible to every process, at positions greater than what it is given;
        returns the last one.
        """
        self._source = source
        self._append = append
        self._writers = ThreadPoolExecutor(_WRITERS, "log")
        self.limits = limits

    def close(self) -> None:
        """Calls that wait for the log end as they would."""
        self._writers.shutdown(wait=False)

    async def upsert(self, changes: Sequence[Change | Refused]) -> tuple[int, dict[int, Refused]]:
        """Adds or replaces items. Returns the log's position, and what was refused, by index.

        A change that no release can take is refused and not logged; of one that only some can take, the refusal
        names the release.
        """
        self.limits.check("items", len(changes), "changes")
        refused = {i: change for i, change in enumerate(changes) if isinstance(change, Refused)}
        sound = [(i, change) for i, change in enumerate(changes) if isinstance(change, Change)]
        releases = self._source.now()
        answers: list[dict[str, Refused | None]] = [{} for _ in sound]
        for release, snapshot in releases.loaded.items():
            # In a thread: ten thousand changes take tenths of a second.
            items = await asyncio.to_thread(evaluate, snapshot, [change for _, change in sound])
            for at, item in enumerate(items):
                if item is not None:
                    answers[at][release] = item if isinstance(item, Refused) else None
        logged = []
        for (i, change), answer in zip(sound, answers, strict=True):
            why = {release: error for release, error in answer.items() if error is not None}
            if not answer:
                refused[i] = releases.not_loaded(change.release, "embedding.release")
            elif why:
                refused[i] = _named(why, alone=len(why) < len(answer))
            if len(why) < len(answer):
                logged.append(replace(change, partial=bool(why)))
        return await self._log(logged), refused

    async def delete(self, item_ids: Sequence[str]) -> tuple[int, list[int]]:
        """Takes items out. Returns the log's position, and the places of ids that no loaded release has, ascending."""
        self.limits.check("items", len(item_ids), "item_ids")
        for i, item_id in enumerate(item_ids):
            if not item_id:
                raise Refused(Reason.FIELD_REQUIRED, "an id is empty", f"item_ids[{i}]")
            self.limits.check_id(item_id, f"item_ids[{i}]")
        found = np.zeros(len(item_ids), np.bool_)
        for snapshot in self._source.now().loaded.values():
            found |= snapshot.items.holds(item_ids)
        # All of them: a release that is not loaded may have them.
        position = await self._log([Change(item_id) for item_id in item_ids])
        return position, np.flatnonzero(~found).tolist()

    async def _log(self, changes: Sequence[Change]) -> int:
        # Releases that were built with changes of another log contain none of these.
        beyond = max(snapshot.manifest.log_position for snapshot in self._source.now().loaded.values())
        position = 0
        # In pieces, and the first one also when there are no changes: every worker applies a piece between two calls.
        for start in range(0, max(len(changes), 1), _PIECE):
            position = await self._append_piece(changes[start : start + _PIECE], beyond, is_first=not start)
            self._source.now()  # applies them here, too, before the caller hears
        return position

    async def _append_piece(self, changes: Sequence[Change], beyond: int, *, is_first: bool) -> int:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._writers, self._append, changes, beyond)
        except OutcomeUnknown as error:
            log.error("changes may have been logged or not: %s", error)
            raise Refused(
                Reason.STORE_UNAVAILABLE, "the changes may have been applied or not; send them again"
            ) from None
        except (OSError, NotAppended) as error:
            log.error("the log of changes cannot be written: %s", error)
            outcome = "nothing was changed, try again" if is_first else "only some were applied, send all again"
            raise Refused(Reason.STORE_UNAVAILABLE, f"the log of changes cannot be written; {outcome}") from None


def _named(why: dict[str, Refused], *, alone: bool) -> Refused:
    release, error = next(iter(why.items()))
    if not alone:
        return error
    return Refused(error.reason, f"release {release} alone: {error.message}", error.field)
