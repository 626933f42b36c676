"""The commands of docs/redis.md, run in their order against the real Redis."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import Command
from tests.redis.conftest import Items, vectors_of
from tests.redis.running import RedisServer
from tests.reliability.serving import connected
from tests.supervisor.running import Server
from twotower import v1
from twotower_server.cli.exit_code import ExitCode

DOCUMENT = (Path(__file__).parents[2] / "docs/redis.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def commands(block: str, redis: RedisServer, bucket: Path) -> list[list[str]]:
    """The arguments of every `twotower` of a block, on this machine."""
    for name, here in (
        ("redis://app:secret@localhost:6379/0", redis.url),
        ("s3://bucket/releases", f"file://{bucket}"),
        ("books-2", "dot"),
        ("books-1", "cosine"),
    ):
        block = block.replace(name, here)
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [line[1:] for line in lines if line[0] == "twotower"]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_command_runs(
    items: Items,
    own: Path,
    redis_server: RedisServer,
    run_twotower: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    if "export TWOTOWER_RELEASES=releases TWOTOWER_REDIS=" in BLOCKS[0]:
        monkeypatch.setenv("TWOTOWER_REDIS", redis_server.url)
    (tmp_path / "bucket").mkdir()
    found = commands(BLOCKS[number], redis_server, tmp_path / "bucket")
    assert found
    for arguments in found:
        if arguments[0] != "serve":
            code, _, err = run_twotower(*arguments)
            assert code == ExitCode.OK, err
            continue
        (tmp_path / "bucket" / "active").write_text("dot\n")
        command = ["-m", "twotower_server.cli.main", *arguments, "--data", str(tmp_path / "data")]
        server = Server([*command, "--listen", "localhost:0"], tmp_path / "log", {})
        try:
            with connected(server) as serving:
                got = serving.serving.GetItemEmbedding(v1.GetItemEmbeddingRequest(item_id="i3"))
                assert got.embedding.values == vectors_of(own / "dot")[b"i3"].tolist()
        finally:
            server.close()
