"""Answers what workers pass on from callers: what is asked of releases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

from twotower_server.errors import Reason, Refused, ReleaseRefused
from twotower_server.supervisor.job import Answer, Question, Report
from twotower_server.supervisor.process import Process
from twotower_server.supervisor.switch import State, Switch

log = logging.getLogger(__name__)


class Answers:
    """Asks the switch."""

    def __init__(self, switch: Switch) -> None:
        methods = (switch.states, switch.degraded, switch.load, switch.activate, switch.rollback, switch.split)
        self._methods: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            method.__name__: method for method in methods
        }
        self._answering: set[asyncio.Task[None]] = set()

    async def attend(self, worker: Process) -> Report | None:
        """Answers a worker's questions until it ends, or reports why it will."""
        while isinstance(said := await worker.says(), Question):
            task = asyncio.create_task(self._answer(worker, said))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        return said

    async def _answer(self, worker: Process, question: Question) -> None:
        try:
            value = await self._methods[question.method](**question.arguments)
        except Refused as error:
            worker.tell(Answer(question.number, refused=error))
        except (OSError, ReleaseRefused) as error:
            log.error("%s: the releases folder failed: %s", question.method, error)
            refused = Refused(
                Reason.STORE_UNAVAILABLE, "the releases folder cannot be used; the server's log says more"
            )
            worker.tell(Answer(question.number, refused=refused))
        except Exception:
            log.exception("%s failed", question.method)
            refused = Refused(Reason.INTERNAL, "this is a bug of the server; its log has the details")
            worker.tell(Answer(question.number, refused=refused))
        else:
            worker.tell(Answer(question.number, _plain(value)))


def _plain(value: Any) -> Any:
    """What a method of the switch returned, as JSON has it."""
    if isinstance(value, State):
        return asdict(value)
    return [_plain(entry) for entry in value] if isinstance(value, list) else value
