"""Turns a servicer's methods into gRPC handlers: malformed bytes, refusals and bugs each get their status here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from twotower_server.errors import Reason, Refused
from twotower_server.rpc.status import abort

log = logging.getLogger(__name__)

Method = Callable[[Any], Awaitable[Message]]


def service_handler(service: ServiceDescriptor, methods: dict[str, Method]) -> grpc.GenericRpcHandler:
    """A handler for every RPC of a service; those without a method answer UNIMPLEMENTED."""
    handlers = {}
    for rpc in service.methods:
        method = methods.get(rpc.name)
        call = _unimplemented(rpc.name) if method is None else _call(method, rpc.name)
        handlers[rpc.name] = grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=_deserializer(GetMessageClass(rpc.input_type)),
            response_serializer=GetMessageClass(rpc.output_type).SerializeToString,
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


def _call(method: Method, name: str) -> Callable[..., Awaitable[Message]]:
    async def call(request: Message | None, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        try:
            if request is None:
                raise Refused(
                    Reason.UNSPECIFIED,
                    f"the bytes are not a {name} request: they are damaged, or a string is not UTF-8",
                )
            return await method(request)
        except Refused as error:
            await abort(context, error)
        except Exception:
            log.exception("%s failed", name)
            await abort(context, Refused(Reason.INTERNAL, "this is a bug of the server; its log has the details"))

    return call


def _unimplemented(name: str) -> Callable[..., Awaitable[Message]]:
    async def call(request: Message | None, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{name} is not implemented by this version of the server")

    return call
