"""OpenTelemetry: a span for each message that a kernel handles, below the span in which it was sent.

The context goes with the message, through other threads and connected kernels too, and is current in the body while
that has the message in hand: spans of the body's own are its children, and so are those of what it sends.

Attributes follow the semantic conventions for messaging systems,
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/, where these have a name for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, create_key, get_current, get_value, set_value
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("OpenTelemetry spans need its API: pip install opentelemetry-api") from missing

from .. import __version__
from .observer import Delivery, Observer, in_hand

if TYPE_CHECKING:
    from .clock import Stamp

_HANDLING = create_key("pydotcompute-handling")
"""In a context in which a body handles a message: the delivery, and the context that was current before it."""


class Spans(Observer):
    """Makes a span of each handling of a message: ``runtime.observe(Spans())``, or ``with runtime.otel_spans():``.

    A span ends when the body asks for the next message, and has the status ERROR, with the exception, if the body
    failed. A handling that is tried again is a span of its own. A message that becomes a dead letter before it was
    handled is a span without length, with the status ERROR and the reason. Replies are events of the span. What a
    ring kernel on a node of a cluster does has the times of that node; spans of such a body's own are not its children.

    Args:
        tracer_provider: where spans go; by default the global one.
        kernels: the ids of the kernels that it is about; None: all.

    Raises:
        ModuleNotFoundError: importing this module, without the package opentelemetry-api.
        TypeError: `kernels` is no collection of ids.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, kernels: Iterable[str] | None = None) -> None:
        if isinstance(kernels, str):
            raise TypeError(f"kernels is a collection of ids, not one: write [{kernels!r}]")
        self.kernels = None if kernels is None else frozenset(kernels)
        self._tracer = trace.get_tracer("pydotcompute", __version__, tracer_provider)
        self._open: dict[int, tuple[Span, Context]] = {}  # by the number of the delivery, with where it was sent
        self._again: dict[int, Context] = {}  # where those were sent whose handling has failed, until the next one
        self._time: int | None = None  # ns since the epoch, of what is told just now; None: it happens now
        # What it notes in a delivery goes with it, without a table that somebody has to clear.
        self._sent_in, self._handled_in = f"sent in, for {id(self)}", f"handled in, for {id(self)}"

    def sent(self, delivery: Delivery) -> None:
        context, cause = get_current(), delivery.cause
        # A reply that is carried to a connected kernel was sent in the context of the message that it is about.
        if cause is not None and not _is_handled_in(context, cause):
            context = vars(cause).get(self._handled_in, context)
        vars(delivery)[self._sent_in] = context, perf_counter_ns()

    def started(self, delivery: Delivery) -> None:
        context = self._begin(delivery)
        if in_hand.get() is delivery:  # else it is a compiled kernel, which has no context
            former = get_current()
            handling = get_value(_HANDLING, former)
            base = handling[1] if isinstance(handling, tuple) else former
            attach(set_value(_HANDLING, (delivery, base), context))

    def replied(self, delivery: Delivery | None, kernel_id: str, reply: Any, answers: Delivery | None) -> None:
        if delivery is not None and (found := self._open.get(delivery.number)) is not None:
            found[0].add_event(
                "reply",
                {"pydotcompute.message.type": _type(reply), "pydotcompute.answers_ask": answers is not None},
                self._time,
            )

    def ended(self, delivery: Delivery) -> None:
        self._end(delivery)

    def failed(self, kernel_id: str, error: BaseException, delivery: Delivery | None) -> None:
        if delivery is None or (found := self._open.get(delivery.number)) is None:
            return
        span, self._again[delivery.number] = found
        try:
            span.record_exception(error, timestamp=self._time)
            text = f"{type(error).__name__}: {error}"
        except Exception:  # noqa: BLE001 - an exception of the user's, which may do anything
            text = type(error).__name__
        span.set_status(Status(StatusCode.ERROR, _text(text)))
        self._end(delivery)

    def lost(self, kernel_id: str, message: Any, kind: str, reason: str, delivery: Delivery | None) -> None:
        if delivery is None or delivery.kernel_id != kernel_id or delivery.message is not message:
            return
        if delivery.number not in self._open:
            if kind == "failed" and self._again.pop(delivery.number, None) is not None:
                return  # the span of its handling has said so
            self._begin(delivery)
        span = self._open[delivery.number][0]
        span.set_attribute("pydotcompute.dead_letter.kind", kind)
        span.set_status(Status(StatusCode.ERROR, _text(reason)))
        self._end(delivery)

    def elsewhere(self, stamp: Stamp, what: str, *args: Any) -> None:
        self._time = stamp.wall
        try:
            super().elsewhere(stamp, what, *args)
        finally:
            self._time = None

    def close(self) -> None:
        """End the spans of what is being handled, after it was taken off."""
        while self._open:
            self._open.popitem()[1][0].end()

    def _begin(self, delivery: Delivery) -> Context:
        """Start a span; the context in which the message is handled."""
        number, message, kernel_id = delivery.number, delivery.message, _text(delivery.kernel_id)
        context, since = vars(delivery).pop(self._sent_in, (None, None))
        if context is None:  # it is tried again, or came before this observer
            context = self._again.pop(number, None) or Context()
        attributes: dict[str, str | int | float | bool] = {
            "messaging.system": "pydotcompute",
            "messaging.operation.name": "handle",
            "messaging.operation.type": "process",
            "messaging.destination.name": kernel_id,
            "pydotcompute.message.type": _type(message),
            "pydotcompute.attempts": delivery.attempts,
            "pydotcompute.is_ask": delivery.is_ask,
        }
        for name, attribute in (
            ("messaging.message.id", "message_id"),
            ("messaging.message.conversation_id", "correlation_id"),
        ):
            if (value := _read(message, attribute)) is not None:
                attributes[name] = value
        if since is not None:
            ago = 0 if self._time is None else time_ns() - self._time
            attributes["pydotcompute.wait"] = max(perf_counter_ns() - since - ago, 0) / 1e9  # seconds
        span = self._tracer.start_span(
            f"kernel {kernel_id}", context, SpanKind.CONSUMER, attributes, start_time=self._time
        )
        self._open[number] = span, context
        # It must not remember what was in hand where this was sent, and that again, for ever.
        handled_in = trace.set_span_in_context(span, set_value(_HANDLING, None, context))
        vars(delivery)[self._handled_in] = handled_in
        return handled_in

    def _end(self, delivery: Delivery) -> None:
        found = self._open.pop(delivery.number, None)
        if found is not None:
            found[0].end(self._time)
        # Not by the token of `attach`: that one is of no use in another task of the body, and would be logged.
        context = get_current()
        if _is_handled_in(context, delivery):
            attach(get_value(_HANDLING, context)[1])  # type: ignore[index]


def _is_handled_in(context: Context, delivery: Delivery) -> bool:
    """Whether the delivery is in hand where this context is current."""
    handling = get_value(_HANDLING, context)
    return isinstance(handling, tuple) and handling[0] is delivery


def _type(message: Any) -> str:
    return _text(type(message).__qualname__)


def _read(message: Any, attribute: str) -> str | None:
    """An id of a message as text."""
    try:
        value = getattr(message, attribute, None)
        return None if value is None else _text(str(value))
    except Exception:  # noqa: BLE001 - a message of the user's, which may do anything
        return None


def _text(text: str) -> str:
    """It as UTF-8 can write it, which is what spans are exported in."""
    return text.encode("utf-8", "backslashreplace").decode()
