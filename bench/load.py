"""The load generator, ghz, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from bench.server import SERVICE
from twotower import v1

_PROTOSET = "twotower.binpb"


@dataclass(frozen=True, slots=True)
class Load:
    """What came of some seconds of calls. p50_ms, p99_ms: of the time of a call."""

    calls: int
    calls_s: float
    p50_ms: float
    p99_ms: float


def write_requests(path: Path, messages: Iterable[Message]) -> None:
    """Writes requests, sent in turn, to `path`, and beside it what ghz needs to know of the service."""
    (path.parent / _PROTOSET).write_bytes(_described(v1.TWOTOWER_SERVICE_FILE).SerializeToString())
    serialized = [message.SerializeToString() for message in messages]
    # ghz takes two braces, which may stand in any bytes, for the start of a template.
    path.write_bytes(b"".join(_counted(content) for content in serialized if b"{{" not in content))


def call(target: str, rpc: str, requests: Path, *, concurrency: int, seconds: float) -> Load:
    """Calls for some seconds, `concurrency` in flight on up to 8 connections. Ends the program when a call fails."""
    command = [os.environ.get("GHZ", "ghz"), "--insecure", "--protoset", str(requests.with_name(_PROTOSET))]
    command += ["--call", f"{SERVICE}.{rpc}", "--binary-file", str(requests), "--concurrency", str(concurrency)]
    command += ["--connections", str(min(concurrency, 8)), "--duration", f"{seconds}s", "--duration-stop", "wait"]
    command += ["--timeout", "120s", "--format", "json", target]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"ghz failed: {ran.stderr[:2000]}")
    done = json.loads(ran.stdout)
    if done["statusCodeDistribution"].keys() != {"OK"}:
        sys.exit(f"{requests.name} failed: {done['statusCodeDistribution']} {done['errorDistribution']}")
    latency_ms = {found["percentage"]: found["latency"] / 1e6 for found in done["latencyDistribution"]}
    return Load(done["count"], done["rps"], latency_ms[50], latency_ms[99])


def _described(file: FileDescriptor) -> FileDescriptorSet:
    """A file and all that it imports, those first."""
    found = FileDescriptorSet()
    for imported in file.dependencies:
        found.MergeFrom(_described(imported))
    file.CopyToProto(found.file.add())
    return found


def _counted(message: bytes) -> bytes:
    """A message behind its length, as ghz reads several of them from one file."""
    head, length = bytearray(), len(message)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*head, length)) + message
