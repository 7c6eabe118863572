"""The queue of one ring kernel: what lies in it, in order, and what can be done with it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import count
from threading import get_ident
from typing import Any, get_type_hints

from ...exceptions import KernelStateError, PyDotComputeError
from ...runtime import Queued, RingKernel, RingKernelRuntime
from ...runtime.checks import is_count
from ...runtime.dead_letters import error_text
from ...telemetry import Frame
from ...telemetry.html import STATE_WORDS, duration, escape, table_html
from .. import schema
from ..acts import METHODS, Make
from ..display import brief, whole
from ..reports import short_errors
from .live import LiveWidget, RuntimeSource, source, style

STEP = 5.0
"""Seconds that a step may take."""
SET = "(set in code)"
"""What is shown of a breakpoint that was set elsewhere."""
LONGEST = 2_000
"""Characters of a message that is shown in full."""
FIRST, SOON = 0.5, 0.02
"""Seconds that a look at a queue waits for the loop: the first one, and those after it."""
PLACES = 32
"""Rings and queues of as many places or fewer are drawn place by place."""


@short_errors
def mailbox(kernel: RingKernel, *, hz: float = 5.0, limit: int = 100) -> MailboxView:
    """The queue of a ring kernel, message by message, with buttons to stop, step and change it.

    Messages stand in the order in which they will be handed out, the next one first, with their priority and age.
    ``Inject`` takes the fields of a message as JSON; ``Break when`` a Python expression of the message, `msg`, such as
    ``msg.celsius > 100``, which is evaluated in the notebook's namespace whenever a message is about to be handed out:
    who may press this button may run any code, as in a cell. The queue can be changed while the kernel is paused, or
    not activated yet.

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
        self._predicate: Callable[[Any], Any] | None = None
        self._trouble_with_break = ""
        self._type = _message_type(kernel)
        # What is shown of the queue, by its address in memory, each with a number of its own.
        self._keys: dict[int, tuple[Any, int]] = {}
        self._numbers = count(1)
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
            try:
                self._reading = self._source.post(self._read_queue)
            except PyDotComputeError:  # the loop does not run just now: the picture is old
                return
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
        try:
            queued, why = ([] if kernel.state.over else kernel._queue(self._limit)), ""
        except KernelStateError as error:
            queued, why = [], str(error)
        former, entries = self._keys, [entry for entry, _ in kernel._box.entries(len(queued))]
        self._keys = {id(entry): former.get(id(entry)) or (entry, next(self._numbers)) for entry in entries}
        chosen = min(self._selected, len(queued) - 1)
        self._type = _message_type(kernel) or (type(queued[0].message) if queued else self._type)
        in_hand = kernel._ctx._msg if kernel.busy else None
        try:
            rings = kernel.rings()
        except KernelStateError:
            rings = None
        return {
            "kernel": kernel.id,
            "state": kernel.state.value,
            "depth": max(kernel.queue_depth, len(queued)),
            "bound": kernel.definition.queue_size,
            "messages": [
                _row(one) | {"key": self._keys[id(entry)][1]} for one, entry in zip(queued, entries, strict=True)
            ],
            "chosen": chosen,
            "detail": whole(queued[chosen].message, LONGEST) if chosen >= 0 else None,
            "inHand": None if in_hand is None else brief(in_hand),
            "waits": kernel.waiting_for,
            "hidden": why,
            "rings": None if rings is None else {name: list(ring) for name, ring in rings._asdict().items()},
            "break": self._shown_break(),
            "stopped": self._trouble_with_break,
            "template": _template(self._type),
        }

    def _shown_break(self) -> str:
        present = self._kernel._breakpoint
        return "" if present is None else self._break if present is self._predicate else SET

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
        schema.chosen("kernel", kernel, [schema.clean(self._kernel.id)])
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
            made = message_of(self._type, text)
            return lambda: _do(lambda: self._inject(made, at))
        at, key = _integer(arguments, "at", 0, 10**9), _integer(arguments, "key", 0, 10**18)
        if verb == "discard":
            return lambda: _do(lambda: self._discard(at, key))
        to = _integer(arguments, "to", 0, 10**9)
        return lambda: _do(lambda: self._move(at, key, to))

    # -- what buttons do: on the runtime's loop ------------------------------------------------------------------------

    def _inject(self, made: Any, at: int) -> str:
        self._kernel.inject(made, min(at, self._kernel.queue_depth))
        return "injected"

    def _discard(self, at: int, key: int) -> str:
        self._check_place(at, key)
        return f"{brief(self._kernel.discard(at))} discarded: it is a dead letter"

    def _move(self, at: int, key: int, to: int) -> str:
        message = self._check_place(at, key)
        to = min(to, self._kernel.queue_depth - 1)
        self._kernel.move(at, to)
        self._selected = to
        return f"{brief(message)} moved"

    def _check_place(self, at: int, key: int) -> Any:
        """The message at a place of the queue, which has to be the one that the button was pressed for."""
        entries = self._kernel._box.entries(at + 1)
        entry = entries[at][0] if at < len(entries) else None
        if self._keys.get(id(entry), (None, -1))[1] != key:
            raise KernelStateError("the queue has changed meanwhile: look again")
        return entry[0]  # type: ignore[index]

    def _breaks(self, condition: str) -> Make:
        """Set the breakpoint, or with no condition take it away."""
        predicate: Callable[[Any], Any] | None = None
        if condition := condition.strip():
            try:
                compile(condition, "<break when>", "eval")
                code = compile(f"lambda msg: (\n{condition}\n)", "<break when>", "eval")
            except (SyntaxError, MemoryError, RecursionError, ValueError) as error:
                raise schema.RefusedError(
                    f"{condition!r} is not an expression of Python ({error}): write one of the message `msg`, "
                    f"such as msg.celsius > 100"
                ) from None
            holds = eval(code, sys.modules["__main__"].__dict__)

            def predicate(message: Any) -> Any:
                try:
                    return holds(message)
                except Exception as error:
                    self._trouble_with_break = f"{condition} raised {error_text(error)}, and stops it at every message"
                    raise

        def change() -> str:
            self._trouble_with_break = ""
            if predicate is not None and (next_one := self._kernel._box.entries(1)):
                predicate(next_one[0][0][0])  # a slip of the pen is told at once
            self._kernel.break_when(predicate)
            self._break, self._predicate = condition, predicate
            return f"stops before {condition}" if condition else "stops before no message"

        return lambda: _do(change)


async def _do(change: Callable[[], str]) -> str:
    return change()


async def _step(runtime: RingKernelRuntime, kernel_id: str, n: int) -> str:
    """Let a kernel handle what is queued, n messages at most, and pause."""
    depth = runtime[kernel_id].queue_depth
    if not depth:
        return "nothing is queued"
    handled = await runtime.step(kernel_id, min(n, depth), STEP)
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


def _message_type(kernel: RingKernel) -> type | None:
    """The one class of messages that it takes; None: any."""
    types = kernel._input_types
    return types[0] if len(types) == 1 and types[0] is not object else None


def _template(cls: type | None) -> str:
    """What may be injected: the fields of a message as JSON, as far as they have a form in it."""
    if cls is None or not is_dataclass(cls):
        return '"text"'
    examples = {bool: False, int: 0, float: 0.0, str: ""}
    values = {}
    try:
        hints = get_type_hints(cls)
    except Exception:  # noqa: BLE001 - whatever a user has annotated
        hints = {}
    for one in fields(cls):
        if not one.init or one.name in ("message_id", "correlation_id", "priority"):
            continue
        kind = hint if isinstance(hint := hints.get(one.name), type) else None
        values[one.name] = next((value for of, value in examples.items() if kind and issubclass(kind, of)), 0)
    return json.dumps(values)


def message_of(cls: type | None, text: str) -> Any:
    """A message from JSON: an object has the fields of this class, if that is one of messages; else it is the value.

    Raises:
        schema.RefusedError: no JSON, or not the fields of that class.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise schema.RefusedError(f"{schema.shown(text)} is no JSON ({error}): write {_template(cls)}") from None
    if cls is None or not is_dataclass(cls) or isinstance(value, cls):
        return value
    if not isinstance(value, dict):
        raise schema.RefusedError(f"messages here are {cls.__name__}: write its fields, such as {_template(cls)}")
    try:
        return cls(**value)
    except Exception as error:  # noqa: BLE001 - whatever a user's class does
        raise schema.RefusedError(f"{cls.__name__}: {type(error).__name__}: {error}") from None
