"""The wire between widgets and browser, version 2. `widgets/static/*.js` mirror what they use of it.

Kernel to browser: one custom message of the widget for each frame. Its JSON part is what `frame_content` makes; its
first buffer is what `pack` makes, the columns below for all kernels, in the order of the roster. A message is absolute:
whoever misses one has lost nothing. Ids and tags travel only when the roster changes and in full snapshots; who sees a
roster number that it has no ids for asks for a snapshot. In a snapshot a second buffer holds the rates over time,
float32 of shape (kernels, points), oldest first.

Browser to kernel: the messages that `parse` knows, and no others, on a comm that the browser opens for each view (see
`comm`). Each is a JSON object with `version` and `kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

VERSION = 2
TARGET = "pydotcompute.control"

COLUMNS = (
    ("state", "u4"),  # index into telemetry.STATES
    ("version", "u4"),
    ("depth", "u4"),  # messages in the mailbox
    ("bound", "u4"),  # how many it holds
    ("peak", "u4"),
    ("rate", "f4"),  # messages handled per second; NaN: not known yet
    ("waitP50", "f4"),  # seconds in the mailbox; NaN: idle
    ("waitP99", "f4"),
    ("handleP50", "f4"),  # seconds in the body; NaN: idle
    ("handleP99", "f4"),
    ("errors", "u4"),
    ("deadLetters", "u4"),
)
"""Names and types of the columns of a frame: 32-bit little-endian words, one column after the other."""

SERIES = 5
"""How many kernels the charts show at most."""
VERBS = ("pause", "resume", "stop")

Status = Literal["live", "frozen", "closed"]


def pack(columns: Mapping[str, NDArray[Any]], kernels: int) -> bytes:
    """The columns of a frame as bytes; each has shape (kernels,). Integers that are too large for the wire saturate."""
    words = np.empty((len(COLUMNS), kernels), "<u4")
    for row, (name, kind) in zip(words, COLUMNS, strict=True):
        if kind == "f4":
            row.view("<f4")[:] = columns[name]
        else:
            np.clip(columns[name], 0, 2**32 - 1, out=row, casting="unsafe")
    return words.tobytes()


def unpack(buffer: bytes | memoryview) -> dict[str, NDArray[Any]]:
    """What `pack` packed: each column with shape (kernels,)."""
    words = np.frombuffer(buffer, "<u4").reshape(len(COLUMNS), -1)
    return {name: row.view("<" + kind) for row, (name, kind) in zip(words, COLUMNS, strict=True)}


def frame_content(
    *,
    number: int,
    status: Status,
    moment: int,
    points: int,
    step: float,
    roster: int,
    ids: Sequence[str] | None,
    tags: Sequence[str] | None,
    rate: float | None,
    lag: float | None,
    notebook_lag: float | None,
    dead_letters: int,
    notes: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The JSON part of a frame.

    Args:
        number: counts the messages of this widget, so that the browser sees a gap.
        moment: number of the point in time that the rates belong to, one for each `step` seconds; `points` of them make
            the window that charts and sparklines show.
        roster: changes whenever the kernels do.
        ids: of all kernels, when the browser may not know them; else None.
        tags: with the ids, what runs each kernel, ``"cpu"`` or ``"cpu ×100"`` for 100 instances; empty for async ones.
        rate: messages handled per second by all kernels together; None: not known yet.
        lag, notebook_lag: seconds that the loops are late; None: not known.
        notes: what is wrong with single kernels, in words: ``{"kernel", "kind", "text", "origin"}``, kind ``"failed"``
            or ``"waits"``.
        results: what became of commands: ``{"request", "ok", "text"}``.
    """
    return {
        "version": VERSION,
        "kind": "frame",
        "number": number,
        "status": status,
        "moment": moment,
        "points": points,
        "step": step,
        "roster": roster,
        "ids": None if ids is None else list(ids),
        "tags": None if tags is None else list(tags),
        "rate": rate,
        "lag": lag,
        "notebookLag": notebook_lag,
        "deadLetters": dead_letters,
        "notes": list(notes),
        "results": list(results),
    }


def acknowledgement(refused: str | None = None) -> dict[str, Any]:
    """The answer to each message of the browser; `refused` says why it was not followed."""
    return {"version": VERSION, "kind": "acknowledgement", "refused": refused}


class RefusedError(ValueError):
    """A message of the browser that is not one of those below; the text is shown in the dashboard."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a view: which widget it shows."""

    widget: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Send everything with the next frame."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Whether anybody can see the view: it is scrolled into sight, in a tab that is shown."""

    visible: bool


@dataclass(frozen=True, slots=True)
class Received:
    """The latest frame that was drawn; about once a second."""

    number: int


@dataclass(frozen=True, slots=True)
class Select:
    """What the charts shall show; nothing: the busiest."""

    kernels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop the picture, or let it go on."""

    on: bool


@dataclass(frozen=True, slots=True)
class Command:
    """Do something to a kernel; the result comes with a later frame, under the same `request`."""

    verb: str
    kernel: str
    request: str


Message = Hello | Snapshot | Seen | Received | Select | Freeze | Command


def parse(data: Any) -> Message:
    """Read a message of the browser.

    Raises:
        RefusedError: another version, or none of the messages above.
    """
    if not isinstance(data, dict):
        raise RefusedError("malformed message: not an object")
    version, kind = data.get("version"), data.get("kind")
    if version != VERSION:
        raise RefusedError(
            f"the page speaks version {_shown(version)} of the dashboard's wire, this kernel version {VERSION}: "
            f"run the cell of the dashboard again and reload the page"
        )
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise RefusedError(f"unknown message {_shown(kind)}; known: {', '.join(_READERS)}")
    return reader(data)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _field(data: dict[str, Any], name: str, kind: type) -> Any:
    value = data.get(name)
    if type(value) is not kind:
        raise RefusedError(f"malformed message {data['kind']!r}: {name} is {_shown(value)}")
    return value


def _select(data: dict[str, Any]) -> Select:
    kernels = _field(data, "kernels", list)
    if len(kernels) > SERIES or not all(isinstance(kernel, str) for kernel in kernels):
        raise RefusedError(f"malformed message 'select': kernels must be at most {SERIES} ids")
    return Select(tuple(kernels))


def _command(data: dict[str, Any]) -> Command:
    verb = _field(data, "verb", str)
    if verb not in VERBS:
        raise RefusedError(f"unknown command {_shown(verb)}; known: {', '.join(VERBS)}")
    return Command(verb, _field(data, "kernel", str), _field(data, "request", str))


_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "hello": lambda data: Hello(_field(data, "widget", str)),
    "snapshot": lambda data: Snapshot(),
    "seen": lambda data: Seen(_field(data, "visible", bool)),
    "received": lambda data: Received(_field(data, "number", int)),
    "select": _select,
    "freeze": lambda data: Freeze(_field(data, "on", bool)),
    "command": _command,
}
