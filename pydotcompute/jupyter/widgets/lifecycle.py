"""The states of one ring kernel as a diagram: where it is, how it came there, and what can be done now."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple

from ...runtime import KernelState, RingKernel
from ...runtime.dead_letters import error_text
from ...telemetry import Frame
from ...telemetry.html import STATE_WORDS, duration, escape
from .. import schema
from ..acts import METHODS, Make, verbs
from ..reports import short_errors
from .live import LiveWidget, RuntimeSource, source, style

SHOWN = 12
"""How many steps of the way that it has come are shown, the latest."""
WHY = 80
"""Characters of what a body has raised that stand on the way."""

_S = KernelState
_TONES = {_S.ACTIVE: "#1a7f37", _S.DEACTIVATED: "#9a6700", _S.TERMINATING: "#9a6700", _S.FAILED: "#cf222e"}


class Step(NamedTuple):
    """A step of the way that a kernel has come: a state, or a restart."""

    word: str
    state: KernelState
    at: float
    """Seconds since the epoch."""
    why: str = ""
    """What its body had raised."""


class _Way(NamedTuple):
    """An arrow of the diagram, and where its word stands."""

    start: KernelState
    end: KernelState
    word: str
    path: str
    at: tuple[int, int]


WIDTH, HEIGHT, BOX = 768, 214, (102, 30)
BOXES = {
    _S.CREATED: (56, 118),
    _S.LAUNCHED: (220, 118),
    _S.ACTIVE: (384, 118),
    _S.DEACTIVATED: (384, 54),
    _S.TERMINATING: (548, 118),
    _S.TERMINATED: (712, 118),
    _S.FAILED: (466, 186),
}
"""Where the middle of each state lies."""
WAYS = (
    _Way(_S.CREATED, _S.LAUNCHED, "launch", "M107 118H165", (136, 111)),
    _Way(_S.LAUNCHED, _S.ACTIVE, "activate", "M271 118H329", (299, 111)),
    _Way(_S.ACTIVE, _S.DEACTIVATED, "pause", "M372 103V73", (352, 90)),
    _Way(_S.DEACTIVATED, _S.ACTIVE, "resume", "M396 69V99", (421, 90)),
    _Way(_S.ACTIVE, _S.TERMINATING, "stop", "M435 118H493", (463, 111)),
    _Way(_S.DEACTIVATED, _S.TERMINATING, "stop", "M435 54H526Q538 54 538 66V99", (480, 47)),
    _Way(_S.LAUNCHED, _S.TERMINATING, "stop", "M220 103V32Q220 20 232 20H546Q558 20 558 32V99", (384, 13)),
    _Way(_S.TERMINATING, _S.TERMINATED, "drained", "M599 118H657", (627, 111)),
    _Way(_S.ACTIVE, _S.FAILED, "raises", "M396 133Q400 162 432 169", (386, 158)),
    _Way(_S.TERMINATING, _S.FAILED, "raises", "M536 133Q532 162 500 169", (548, 162)),
    _Way(_S.ACTIVE, _S.TERMINATED, "returns", "M420 133Q420 143 432 143H700Q712 143 712 137", (650, 157)),
    _Way(_S.FAILED, _S.ACTIVE, "restart", "M415 186H368Q354 186 354 172V137", (329, 168)),
)


@short_errors
def lifecycle(kernel: RingKernel, *, hz: float = 5.0) -> Lifecycle:
    """The life of a ring kernel as a diagram: the present state lit, the way it came with times, and buttons.

    The buttons are those for which the kernel is in the right state. It follows the id: a kernel that is launched again
    is shown from then on.

    Args:
        kernel: a handle, such as ``runtime["stats"]``.
        hz: pictures a second while it is in sight (0 < hz <= 20).

    Raises:
        TypeError: not a handle.
        ValueError: a rate out of range.
    """
    return Lifecycle(kernel, hz=hz)


class Lifecycle(LiveWidget):
    """What `lifecycle` makes."""

    _esm = source("lifecycle")
    _css = style("lifecycle")

    def __init__(self, kernel: RingKernel, *, hz: float) -> None:
        if not isinstance(kernel, RingKernel):
            raise TypeError(
                f'lifecycle takes the handle of a ring kernel, such as runtime["stats"], not {schema.shown(kernel)}'
            )
        self._kernel = kernel
        self._seen_at = time.time()
        super().__init__(RuntimeSource(kernel.runtime), hz=hz)

    def __repr__(self) -> str:
        return f"Lifecycle({self._kernel.id!r}, hz={self._hz:g})"

    @property
    def kernel(self) -> RingKernel:
        """The handle of the kernel that has its id now."""
        return self._kernel

    def _look(self, frame: Frame) -> None:
        self._kernel = self._kernel.runtime.kernels.get(self._kernel.id, self._kernel)
        self._seen_at = time.time()

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        kernel = self._kernel
        history = list(kernel.history)
        way = way_of(kernel)
        error = kernel.last_exception
        content: dict[str, Any] = {
            "kernel": kernel.id,
            "state": history[-1][0],
            "body": kernel.version,
            "restarts": kernel.restarts,
            "waits": kernel.waiting_for,
            "error": error_text(error)[:300],
            "origin": kernel.definition.origin if error is not None else "",
            "former": history[-2][0] if len(history) > 1 else None,
            "way": [step._replace(why=step.why[:WHY])._asdict() for step in way[-SHOWN:]],
            "leftOut": max(len(way) - SHOWN, 0),
            "now": self._seen_at,
            "verbs": verbs(history[-1][0]),
        }
        if full:
            content["diagram"] = {
                "size": [WIDTH, HEIGHT],
                "box": BOX,
                "boxes": {state.value: place for state, place in BOXES.items()},
                "ways": [way._asdict() for way in WAYS],
            }
        return content, []

    def _act(self, verb: str, kernel: str, arguments: dict[str, Any]) -> Make:
        schema.chosen("kernel", kernel, [schema.clean(self._kernel.id)])
        verb = schema.chosen("verb", verb, [*METHODS])
        return partial(METHODS[verb], self._kernel.runtime, self._kernel.id)

    def _picture(self) -> dict[str, str]:
        kernel = self._kernel
        history = list(kernel.history)
        image = base64.b64encode(diagram_svg(history).encode()).decode()
        font = "13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif)"
        failed = kernel.last_exception
        notes = f"<div>failed last: {escape(error_text(failed)[:300])}</div>" if failed else ""
        return {
            "text/html": f"<div style='color:var(--jp-content-font-color1,inherit);font:{font}'>"
            f"<b>{escape(kernel.id)}</b> {STATE_WORDS[history[-1][0]]}<br>"
            f"<img style='width:100%;max-width:{WIDTH}px' alt='States of a ring kernel; {escape(kernel.id)} is "
            f"{history[-1][0]}' src='data:image/svg+xml;base64,{image}'><div>{escape(in_words(way_of(kernel)))}</div>"
            f"{notes}</div>",
        }


def way_of(kernel: RingKernel) -> list[Step]:
    """The states that it has been in, and between them when it was started again: its state stays ACTIVE then."""
    states = list(kernel.history)
    steps = [Step(STATE_WORDS[state], state, at) for state, at in states]
    steps += [Step("restarted", KernelState.ACTIVE, at, why) for at, why in kernel.restarted if at >= states[0][1]]
    return sorted(steps, key=attrgetter("at"))  # a state comes before the restart of the same moment


def in_words(way: Sequence[Step]) -> str:
    """The latest steps: ``created 10:02:11 → launched +31 ms → active +0.2 ms → restarted +4 s (ValueError: …)``."""
    shown = way[-SHOWN:]
    words = [f"{shown[0].word} {time.strftime('%H:%M:%S', time.localtime(shown[0].at))}"]
    words += [f"{step.word} +{duration(max(step.at - before.at, 0.0))}" for before, step in pairwise(shown)]
    told = [f"{text} ({step.why[:WHY]})" if step.why else text for text, step in zip(words, shown, strict=True)]
    return ("… → " if len(way) > SHOWN else "") + " → ".join(told)


def diagram_svg(history: Sequence[tuple[KernelState, float]]) -> str:
    """The states and the ways between them, the present one lit; readable on light and dark pages."""
    state = history[-1][0]
    taken = (history[-2][0], state) if len(history) > 1 else None
    grey, lit, half = "#808890", "#1f6feb", (BOX[0] / 2, BOX[1] / 2)
    arrow = "<path d='M0 0L7 3.5L0 7z' fill='{}'/>".format
    ends = "".join(
        f"<marker id='{name}' viewBox='0 0 7 7' refX='5' refY='3.5' markerWidth='7' markerHeight='7' orient='auto' "
        f"markerUnits='userSpaceOnUse'>{arrow(colour)}</marker>"
        for name, colour in (("a", grey), ("b", lit))
    )
    parts = []
    for way in WAYS:
        is_taken = (way.start, way.end) == taken
        colour, end = (lit, "b") if is_taken else (grey, "a")
        parts.append(
            f"<path d='{way.path}' fill='none' stroke='{colour}' stroke-width='{2 if is_taken else 1.2}' "
            f"marker-end='url(#{end})'/><text x='{way.at[0]}' y='{way.at[1]}' fill='{colour}'>{way.word}</text>"
        )
    for one, (x, y) in BOXES.items():
        fill = _TONES.get(one, "#6e7781") if one is state else "none"
        ink = "#fff" if one is state else grey
        parts.append(
            f"<rect x='{x - half[0]}' y='{y - half[1]}' width='{BOX[0]}' height='{BOX[1]}' rx='6' fill='{fill}' "
            f"stroke='{grey if fill == 'none' else fill}'/>"
            f"<text x='{x}' y='{y + 4}' fill='{ink}' font-weight='600'>{one}</text>"
        )
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-size='11' text-anchor='middle' "
        f"font-family='system-ui,sans-serif'><defs>{ends}</defs>{''.join(parts)}</svg>"
    )
