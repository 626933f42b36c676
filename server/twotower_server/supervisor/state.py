"""What the processes of a server share, as /metrics shows it."""

from __future__ import annotations

from pathlib import Path

from twotower_server.http.metrics import ServerState
from twotower_server.supervisor.board import Board
from twotower_server.supervisor.generation import Generation
from twotower_server.supervisor.page import Page


def read_state(folder: Path, page: Page, board: Board) -> ServerState:
    """folder: of the server. Before there is a first generation, nothing is served."""
    healthy = [row.healthy for row in board.rows]
    while number := page.current:
        try:
            generation = Generation.read(folder, number)
        except FileNotFoundError:
            if number == page.current:
                raise
            continue  # a switch has just retired it
        served = {release: board.served(loaded.column) for release, loaded in generation.loaded.items()}
        return ServerState(generation.active, served, healthy)
    return ServerState("", {}, healthy)
