"""Traces by OpenTelemetry: a span for each call that is sampled, and one for each look at Redis in it.

Whoever calls decides whether its call is sampled, by the flag in W3C's `traceparent`; of calls without one, a share is.
That is decided here, before the SDK is asked: its own sampler takes 18 µs a call, which is a tenth of it.

https://www.w3.org/TR/trace-context/ · https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from twotower_server.errors import ExtraMissing
from twotower_server.observe.call import Call
from twotower_server.observe.layout import Code

if TYPE_CHECKING:  # an extra
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

# Faults of the server; the others are the caller's.
_SERVER_FAULTS = (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE)
# What the last spans of a worker get to be sent in.
_FLUSH_S = 2.0
_SAMPLED = 1


def endpoint(given: str | None, environ: Mapping[str, str]) -> str | None:
    """Where spans go; None = traces are off. given: the option `--traces`."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return given or next((environ[name] for name in names if environ.get(name)), None)


def share(environ: Mapping[str, str]) -> float:
    """Of the calls about which nobody has decided, those that are sampled: 0 to 1."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").removeprefix("parentbased_")
    if sampler == "always_off":
        return 0.0
    if sampler != "traceidratio":
        return 1.0
    try:
        return min(max(float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1")), 0.0), 1.0)
    except ValueError:
        log.warning("OTEL_TRACES_SAMPLER_ARG is no number: every call is traced that no caller decides about")
        return 1.0


class Tracer:
    """One a worker. Needs the extra [otel]."""

    def __init__(self, endpoint: str, worker: str) -> None:
        """endpoint: of an OTLP receiver, by gRPC, as http://collector:4317. worker: name of this process."""
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise ExtraMissing("traces need a part that is not installed: pip install 'twotower[otel]'") from None
        os.environ.setdefault("OTEL_SERVICE_NAME", "twotower")
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._share = share(os.environ)
        resource = Resource.create({"service.instance.id": worker})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("twotower")

    def begin(self, call: Call, traceparent: str) -> None:
        """Gives a call its span, if it is sampled. traceparent: a valid one; "" = nobody has decided."""
        if traceparent:
            if not int(traceparent[53:55], 16) & _SAMPLED:
                return
            context = self._propagator.extract({"traceparent": traceparent})
        elif self._share and random.random() < self._share:
            context = None
        else:
            return
        attributes = {"rpc.method": call.rpc, "twotower.request_id": call.request_id}
        kind = self._trace.SpanKind.SERVER
        call.span = self._tracer.start_span(call.rpc, context, kind, attributes)
        call.trace_id = f"{call.span.get_span_context().trace_id:032x}"

    def end(self, span: Span, call: Call) -> None:
        """Ends the span of a call."""
        code = Code(call.code)
        span.set_attributes(
            {
                "twotower.code": code.name,
                "twotower.reason": call.reason.name if call.reason else "",
                "twotower.release": call.release,
                "twotower.entries": call.entries,
            }
        )
        if code in _SERVER_FAULTS:
            span.set_status(self._trace.StatusCode.ERROR, code.name)
        span.end()

    @contextmanager
    def part(self, whole: Span, name: str, attributes: Mapping[str, Any]) -> Iterator[None]:
        """A span inside another, from here to the end of the block."""
        context = self._trace.set_span_in_context(whole)
        span = self._tracer.start_span(name, context, self._trace.SpanKind.CLIENT, attributes)
        try:
            yield
        except BaseException as error:
            span.set_status(self._trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Sends what is left, if that works soon."""
        # A thread of its own: one of the loop's would hold up the end for as long as the receiver is away.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_S)
