"""One worker's engine on two ports of one process: the service, and an echo that answers it with bytes made before.

    python -m bench.server RELEASE REQUESTS

REQUESTS is a folder of serialized requests, `<RPC>.<case>.bin`. The echo takes the same calls and sends what the
service answered to the last case of the RPC, without looking at what it received: the ceiling of the stack.
Prints one line of JSON with both ports, and serves until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop

from twotower import v1
from twotower_server.engine.engine import Engine
from twotower_server.engine.limits import Limits
from twotower_server.engine.route import Releases
from twotower_server.release.snapshot import Snapshot
from twotower_server.rpc.server import RpcServer
from twotower_server.rpc.servicer import TwoTowerServicer

SERVICE = "twotower.v1.TwoTowerService"


async def serve(release: Path, requests: Path) -> None:
    snapshot = Snapshot.open(release)
    engine = Engine(Releases({snapshot.release: snapshot}, snapshot.release), Limits())
    service = RpcServer({"TwoTowerService": TwoTowerServicer(engine)}, engine.limits)
    port = await service.start("localhost:0")
    echo = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    echo.add_generic_rpc_handlers((await _echo_handler(engine, requests),))
    echo_port = echo.add_insecure_port("localhost:0")
    await echo.start()
    print(json.dumps({"service": port, "echo": echo_port}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await service.stop(0)
    await echo.stop(0)
    engine.close()


async def _echo_handler(engine: Engine, requests: Path) -> grpc.GenericRpcHandler:
    methods = TwoTowerServicer(engine).methods()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
    for path in sorted(requests.glob("*.bin")):
        rpc = path.name.partition(".")[0]
        request = getattr(v1, f"{rpc}Request").FromString(path.read_bytes())
        answer = (await methods[rpc](request)).SerializeToString()
        handlers[rpc] = grpc.unary_unary_rpc_method_handler(_answer(answer))
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _answer(content: bytes) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def answer(request: bytes, context: Any) -> bytes:
        return content

    return answer


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
