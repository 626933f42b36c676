"""Turns a servicer's methods into gRPC handlers: malformed bytes, refusals and bugs each get their status here."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from twotower_server.access.caller import Role
from twotower_server.engine.admission import Admission
from twotower_server.engine.limits import Limits
from twotower_server.engine.turn import next_turn
from twotower_server.errors import Reason, Refused
from twotower_server.observe.call import Call
from twotower_server.observe.observer import Observer, Watch
from twotower_server.rpc.access import Gate
from twotower_server.rpc.observe import REQUEST_ID, ServiceHandler, begin
from twotower_server.rpc.status import abort, code_of

log = logging.getLogger(__name__)

# Requests of more bytes are read one in a turn: 4 MiB of named features take 20 ms.
_LARGE_BYTES = 256 << 10

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any], Awaitable[Message]]


def service_handler(
    service: ServiceDescriptor,
    methods: dict[str, Method],
    limits: Limits,
    observer: Observer,
    gate: Gate,
    role: Role,
    admission: Admission,
    ended: Callable[[], None],
) -> grpc.GenericRpcHandler:
    """A handler for every RPC of a service, each of which needs a method.

    gate: admits callers who have the role. admission: takes their calls on, or not. ended: hears of every call's end.
    """
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for rpc in service.methods:
        message = GetMessageClass(rpc.input_type)
        watch = observer.watch(rpc.name)
        handlers[rpc.name] = grpc.unary_unary_rpc_method_handler(
            _call(message, methods[rpc.name], limits, watch, gate, role, admission, ended)
        )
    return ServiceHandler(service.full_name, handlers)


def _call(
    message: type[Message],
    method: Method,
    limits: Limits,
    watch: Watch,
    gate: Gate,
    role: Role,
    admission: Admission,
    ended: Callable[[], None],
) -> Callable[..., Awaitable[bytes]]:
    async def call(content: bytes, context: Context) -> bytes:
        # First of all, so that whatever becomes of a call is seen.
        with begin(watch) as observed:
            try:
                observed.caller = gate.admit(context, role).identity
                # Then, as it needs to know who calls. What is refused here is not even read.
                with admission.admit(observed.caller, context.time_remaining()):
                    if len(content) > _LARGE_BYTES:
                        await next_turn()
                    answer = (await method(_parse(message, content, watch.rpc))).SerializeToString()
                # Its size was estimated before work; ids, texts and problems may make it larger than a client can read.
                limits.check_response(len(answer))
                context.set_trailing_metadata(((REQUEST_ID, observed.request_id),))
                return answer
            except Refused as error:
                await _refuse(context, observed, error)
            except Exception:
                log.exception("%s failed", watch.rpc)
                why = Refused(Reason.INTERNAL, "this is a bug of the server; its log has the details")
                await _refuse(context, observed, why)
            finally:
                ended()

    return call


def _parse(message: type[Message], content: bytes, rpc: str) -> Message:
    try:
        return message.FromString(content)
    except DecodeError:
        why = f"the bytes are not a {rpc} request: they are damaged, or a string is not UTF-8"
        raise Refused(Reason.UNSPECIFIED, why) from None


async def _refuse(context: Context, observed: Call, error: Refused) -> NoReturn:
    observed.ends(code_of(error).value[0], error.reason)
    await abort(context, error, ((REQUEST_ID, observed.request_id),))
