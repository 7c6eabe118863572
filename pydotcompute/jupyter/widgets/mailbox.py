"""The queue of one ring kernel: what lies in it, in order, and what can be done with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import fields, is_dataclass
from functools import partial
from html import escape
from threading import get_ident
from typing import Any

from ...exceptions import KernelStateError
from ...runtime import Queued, RingKernel, RingKernelRuntime
from ...runtime.checks import is_count
from ...telemetry import Frame
from ...telemetry.html import STATE_WORDS, duration, table_html
from .. import schema
from ..display import brief
from .live import METHODS, LiveWidget, Make, RuntimeSource, source, style

STEP = 5.0
"""Seconds that a step may take."""
LONGEST = 2_000
"""Characters of a message that is shown in full."""
FIRST, SOON = 0.5, 0.02
"""Seconds that a look at a queue waits for the loop: the first one, and those after it."""
PLACES = 32
"""Rings and queues of as many places or fewer are drawn place by place."""


def mailbox(kernel: RingKernel, *, hz: float = 5.0, limit: int = 100) -> MailboxView:
    """The queue of a ring kernel, message by message, with buttons to stop, step and change it.

    Messages stand in the order in which they will be handed out, the next one first, with their priority and age.
    ``Inject`` takes the fields of a message as JSON; ``Break when`` a Python expression of the message, `msg`, such as
    ``msg.celsius > 100``, which is evaluated in the notebook's namespace whenever a message is about to be handed out:
    who may press this button may run any code, as in a cell. Queues of paused kernels alone can be changed.

    Of a compiled ring kernel it shows the rings with head and tail, and while it is paused the messages too.

    Args:
        kernel: a handle, such as ``runtime["stats"]``.
        hz: pictures a second while it is in sight (0 < hz <= 20).
        limit: messages that are shown at most (1 to 1,000).

    Raises:
        TypeError: not a handle.
        ValueError: a rate or limit out of range.
    """
    return MailboxView(kernel, hz=hz, limit=limit)


class MailboxView(LiveWidget):
    """What `mailbox` makes."""

    _esm = source("mailbox")
    _css = style("mailbox")

    def __init__(self, kernel: RingKernel, *, hz: float, limit: int) -> None:
        if not isinstance(kernel, RingKernel):
            raise TypeError(
                f'mailbox takes the handle of a ring kernel, such as runtime["stats"], not {schema.shown(kernel)}'
            )
        if not is_count(limit) or not 1 <= limit <= 1000:
            raise ValueError(f"limit must be an integer from 1 to 1000, not {limit!r}")
        self._kernel, self._limit = kernel, limit
        self._selected = 0
        self._break = ""
        self._reading: Future[dict[str, Any]] | None = None
        self._read: dict[str, Any] = {}
        self._read_at = time.monotonic()
        super().__init__(RuntimeSource(kernel.runtime), hz=hz)

    def __repr__(self) -> str:
        return f"MailboxView({self._kernel.id!r}, hz={self._hz:g}, limit={self._limit})"

    @property
    def kernel(self) -> RingKernel:
        """The handle of the kernel that has its id now."""
        return self._kernel

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _look(self, frame: Frame) -> None:
        """Ask the loop for the queue, and take what it has said: it may be blocked, and then the picture is old."""
        runtime = self._kernel.runtime
        self._kernel = runtime.kernels.get(self._kernel.id, self._kernel)
        if runtime.closed or runtime._home == get_ident():
            self._read, self._read_at = self._queue_now(), time.monotonic()
            return
        if self._reading is None:
            self._reading = self._source.post(self._read_queue)
        wait([self._reading], FIRST if not self._read else SOON)
        if self._reading.done():
            reading, self._reading = self._reading, None
            if not reading.cancelled():
                self._read, self._read_at = reading.result(), time.monotonic()

    async def _read_queue(self) -> dict[str, Any]:
        return self._queue_now()

    def _queue_now(self) -> dict[str, Any]:
        """All that is shown, read where the kernel lives."""
        kernel = self._kernel
        depth = kernel.queue_depth
        try:
            queued, why = kernel._queue(), ""
        except KernelStateError as error:
            queued, why = [], str(error)
        shown = queued[: self._limit]
        chosen = min(self._selected, len(queued) - 1)
        in_hand = kernel._ctx._msg if kernel.busy else None
        try:
            rings = kernel.rings()
        except KernelStateError:
            rings = None
        return {
            "kernel": kernel.id,
            "state": kernel.state.value,
            "depth": max(depth, len(queued)),
            "bound": kernel.definition.queue_size,
            "messages": [_row(one) for one in shown],
            "chosen": chosen,
            "detail": _full(queued[chosen].message) if chosen >= 0 else None,
            "inHand": None if in_hand is None else brief(in_hand),
            "waits": kernel.waiting_for,
            "hidden": why,
            "rings": None if rings is None else {name: list(ring) for name, ring in rings._asdict().items()},
            "break": self._break if kernel._breakpoint is not None else "",
            "template": _template(kernel),
        }

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        age = time.monotonic() - self._read_at if self.status == "live" else 0.0
        return {**self._read, "age": age, "places": PLACES}, []

    def _picture(self) -> dict[str, str]:
        read = self._read
        if not read:
            return {"text/html": f"<div>{escape(repr(self))}: the event loop of its runtime is blocked</div>"}
        more = f"{read['depth'] - len(read['messages']):,} more" if read["depth"] > len(read["messages"]) else ""
        title = f"{read['kernel']}: {read['depth']:,} of {read['bound']:,} queued, {STATE_WORDS[read['state']]}"
        rows = [
            (
                str(place),
                one["text"],
                str(one["priority"]),
                "–" if one["waits"] is None else duration(one["waits"]),
                "yes" if one["ask"] else "no",
            )
            for place, one in enumerate(read["messages"])
        ]
        note = "; ".join(filter(None, [more, read["hidden"]]))
        return {"text/html": table_html(title, ("place", "message", "priority", "age", "ask"), rows, note)}

    # -- what the browser asks for: any thread -------------------------------------------------------------------------

    def _set(self, name: str, value: Any) -> None:
        if name != "selected":
            super()._set(name, value)
        elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise schema.RefusedError(f"selected must be a place in the queue, 0 or more, not {schema.shown(value)}")
        else:
            self._selected = value

    def _act(self, verb: str, kernel: str, arguments: dict[str, Any]) -> Make:
        verb = schema.chosen("verb", verb, [*METHODS, "step", "inject", "discard", "move", "break"])
        runtime, kernel_id = self._kernel.runtime, self._kernel.id
        if verb in METHODS:
            return partial(METHODS[verb], runtime, kernel_id)
        if verb == "step":
            n = _integer(arguments, "n", 1, 1_000_000)
            return partial(_step, runtime, kernel_id, n)
        if verb == "break":
            return self._breaks(_text(arguments, "condition"))
        if verb == "inject":
            text, at = _text(arguments, "message"), _integer(arguments, "at", 0, 10**9)
            made = message_of(self._kernel, text)
            return lambda: _do(lambda: self._kernel.inject(made, min(at, len(self._kernel.queue()))), "injected")
        at, shown = _integer(arguments, "at", 0, 10**9), _text(arguments, "text")
        to = _integer(arguments, "to", 0, 10**9) if verb == "move" else 0

        def change() -> None:
            queued = self._kernel.queue()
            if at >= len(queued) or brief(queued[at].message) != shown:
                raise KernelStateError("the queue has changed meanwhile: look again")
            if verb == "discard":
                self._kernel.discard(at)
            else:
                self._kernel.move(at, min(to, len(queued) - 1))
                self._selected = min(to, len(queued) - 1)

        return lambda: _do(change, f"{shown} {'discarded: it is a dead letter' if verb == 'discard' else 'moved'}")

    def _breaks(self, condition: str) -> Make:
        """Set the breakpoint, or with no condition take it away."""
        predicate: Callable[[Any], Any] | None = None
        if condition := condition.strip():
            try:
                code = compile(condition, "<break when>", "eval")
            except SyntaxError as error:
                raise schema.RefusedError(
                    f"{condition!r} is not an expression of Python ({error.msg}): write one of the message `msg`, "
                    f"such as msg.celsius > 100"
                ) from None
            names = sys.modules["__main__"].__dict__

            def predicate(msg: Any) -> Any:
                return eval(code, names, {"msg": msg})

        def change() -> None:
            self._kernel.break_when(predicate)
            self._break = condition

        return lambda: _do(change, f"stops before {condition}" if condition else "stops before no message")


async def _do(change: Callable[[], Any], said: str) -> str:
    change()
    return said


async def _step(runtime: RingKernelRuntime, kernel_id: str, n: int) -> str:
    """Let a paused kernel handle what is queued, n messages at most, for a second at most."""
    handled = await runtime.step(kernel_id, max(1, min(n, runtime[kernel_id].queue_depth)), STEP)
    return f"{kernel_id} handled {', '.join(map(brief, handled[:3]))}{' …' if len(handled) > 3 else ''}"


def _integer(arguments: dict[str, Any], name: str, low: int, high: int) -> int:
    value = arguments.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise schema.RefusedError(f"{name} must be an integer from {low:,} to {high:,}, not {schema.shown(value)}")
    return value


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise schema.RefusedError(f"{name} must be a text, not {schema.shown(value)}")
    return value


def _row(queued: Queued) -> dict[str, Any]:
    return {
        "text": brief(queued.message),
        "type": type(queued.message).__name__,
        "priority": queued.priority,
        "waits": queued.waits,
        "ask": queued.is_ask,
        "attempts": queued.attempts,
    }


def _full(message: Any) -> str:
    text = repr(message)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"


def _message_type(kernel: RingKernel) -> type | None:
    """The one class of messages that it takes; None: any."""
    types = kernel._input_types
    return types[0] if len(types) == 1 and types[0] is not object else None


def _template(kernel: RingKernel) -> str:
    """What may be injected: the fields of its messages as JSON, as far as they have a form in it."""
    cls = _message_type(kernel)
    if cls is None or not is_dataclass(cls):
        return '"text"'
    examples = {bool: False, int: 0, float: 0.0, str: ""}
    values = {}
    for one in fields(cls):
        if one.name in ("message_id", "correlation_id", "priority"):
            continue
        kind = one.type if isinstance(one.type, type) else None
        values[one.name] = next((value for of, value in examples.items() if kind and issubclass(kind, of)), 0)
    return json.dumps(values)


def message_of(kernel: RingKernel, text: str) -> Any:
    """A message for a kernel from JSON: an object has the fields of its class; without one the value is the message.

    Raises:
        schema.RefusedError: no JSON, or not the fields of that class.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise schema.RefusedError(f"{schema.shown(text)} is no JSON ({error}): write {_template(kernel)}") from None
    cls = _message_type(kernel)
    if cls is None or isinstance(value, cls):
        return value
    if not isinstance(value, dict):
        raise schema.RefusedError(f"{kernel.id!r} takes {cls.__name__}: write its fields, such as {_template(kernel)}")
    try:
        return cls(**value)
    except Exception as error:  # noqa: BLE001 - whatever a user's class does
        raise schema.RefusedError(f"{cls.__name__}: {type(error).__name__}: {error}") from None
