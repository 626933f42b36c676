"""What a gRPC call brings and takes home for its observer: ids of the request and the trace, in its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import grpc

from twotower_server.observe.call import Call
from twotower_server.observe.observer import Watch

REQUEST_ID = "x-request-id"

Metadata = Sequence[tuple[str, str | bytes]]

# What the call of this task came with. gRPC has it once, when it looks for the handler; asked of the context of the
# call, it is made again, which takes 3 µs.
metadata: ContextVar[Metadata] = ContextVar("metadata", default=())


class ServiceHandler(grpc.ServiceRpcHandler):
    """As `grpc.method_handlers_generic_handler`; keeps the metadata of each call."""

    def __init__(self, service: str, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        """handlers: by the name of the RPC."""
        self._service = service
        self._handlers = {f"/{service}/{rpc}": handler for rpc, handler in handlers.items()}

    def service_name(self) -> str:
        return self._service

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        metadata.set(handler_call_details.invocation_metadata)
        return self._handlers.get(handler_call_details.method)


def begin(watch: Watch) -> Call:
    """The call of this task, which begins now."""
    request_id = traceparent = ""
    for key, value in metadata.get():
        if key == REQUEST_ID:
            request_id = str(value)
        elif key == "traceparent":
            traceparent = str(value)
    return watch.call(request_id, traceparent)
