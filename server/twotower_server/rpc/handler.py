"""Turns a servicer's methods into gRPC handlers: malformed bytes, refusals and bugs each get their status here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from twotower_server.engine.limits import Limits
from twotower_server.errors import Reason, Refused
from twotower_server.rpc.status import abort

log = logging.getLogger(__name__)

Method = Callable[[Any], Awaitable[Message]]


def service_handler(service: ServiceDescriptor, methods: dict[str, Method], limits: Limits) -> grpc.GenericRpcHandler:
    """A handler for every RPC of a service, each of which needs a method."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for rpc in service.methods:
        handlers[rpc.name] = grpc.unary_unary_rpc_method_handler(
            _call(methods[rpc.name], rpc.name, limits),
            request_deserializer=_deserializer(GetMessageClass(rpc.input_type)),
        )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _deserializer(message: type[Message]) -> Callable[[bytes], Message | None]:
    """None stands for bytes that are no such message: grpc itself would answer INTERNAL."""

    def parse(data: bytes) -> Message | None:
        try:
            return message.FromString(data)
        except DecodeError:
            return None

    return parse


def _call(method: Method, name: str, limits: Limits) -> Callable[..., Awaitable[bytes]]:
    async def call(request: Message | None, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            if request is None:
                raise Refused(
                    Reason.UNSPECIFIED,
                    f"the bytes are not a {name} request: they are damaged, or a string is not UTF-8",
                )
            answer = (await method(request)).SerializeToString()
            # Its size was estimated before work; ids, texts and problems may make it larger than a client can read.
            limits.check_response(len(answer))
            return answer
        except Refused as error:
            await abort(context, error)
        except Exception:
            log.exception("%s failed", name)
            await abort(context, Refused(Reason.INTERNAL, "this is a bug of the server; its log has the details"))

    return call
