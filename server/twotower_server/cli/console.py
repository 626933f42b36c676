"""Printing to standard output: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

_PIPE_WIDTH = 10_000  # a pipe has no width; rich would cut ids at column 80


def stdout() -> Console:
    # Ids and titles are data: no markup, no emoji names, no colours by their look.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


def print_json(document: dict[str, Any]) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=2))
