"""The wire between widgets and browser, version 3. `widgets/static/*.js` mirror what they use of it.

Kernel to browser: one custom message of the widget for each frame, absolute: whoever misses one has lost nothing. Its
JSON part has what `frame_head` makes, and what the widget has to show.

The dashboard shows what `dashboard_content` makes. In one line its only buffer holds the rates of all kernels together
over time, float32 of shape (points,), oldest first. Else the first buffer is what `pack` makes, the columns below for
all kernels, in the order of the roster, a number in the field ``roster``. ``ids``, and in ``tags`` what runs each
(``"async"``, ``"cpu"``, ``"cpu ×100"`` for 100 instances), travel only when the roster changes and in full snapshots;
who sees a roster number that it has no ids for asks for a snapshot. In a snapshot a second buffer holds the rates over
time, float32 of shape (kernels, points), oldest first.

Browser to kernel: the messages that `parse` knows, and no others, on a comm that the browser opens for each view (see
`comm`). Each is a JSON object with `version` and `kind`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..telemetry.html import printable
from .meters import Gpu

VERSION = 3
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
    ("restarts", "u4"),
    ("deadLetters", "u4"),
)
"""Names and types of the columns of a frame: 32-bit little-endian words, one column after the other."""

SERIES = 5
"""How many kernels the charts show at most."""

Status = Literal["live", "frozen", "closed"]

_HALVES = re.compile("[\ud800-\udfff]")


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


def clean(content: Any) -> Any:
    """What a message holds, with texts that UTF-8 has: halves of surrogate pairs, as ids and messages may have, have no
    place in it."""
    match content:
        case str():
            return content if content.isascii() or not _HALVES.search(content) else printable(content)
        case dict():
            return {name: clean(value) for name, value in content.items()}
        case list() | tuple():
            return [clean(value) for value in content]
    return content


def meant(called: str, ids: Iterable[str]) -> str:
    """The one of these ids that the browser calls so."""
    return next((one for one in ids if clean(one) == called), called)


def frame_head(*, number: int, status: Status, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the frames of all widgets have.

    Args:
        number: counts the messages of this widget, so that the browser sees a gap.
        results: what became of commands: ``{"request", "ok", "text"}``.
    """
    return {"version": VERSION, "kind": "frame", "number": number, "status": status, "results": list(results)}


def trouble(text: str) -> dict[str, Any]:
    """Instead of a frame: why there is none."""
    return {"version": VERSION, "kind": "trouble", "text": clean(text)}


def dashboard_content(
    *,
    hz: float,
    window: float,
    moment: int,
    points: int,
    counts: Sequence[int],
    queued: int,
    rate: float | None,
    lag: float | None,
    notebook_lag: float | None,
    cpu: float | None,
    gpus: Sequence[Gpu],
    dead_letters: int,
    notes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What the dashboard shows in each of its layouts.

    Args:
        hz: pictures a second.
        window: seconds that charts and sparklines show, in so many `points`.
        moment: number of the point in time that the rates belong to, one for each ``step`` seconds.
        counts: how many kernels are in each of the states.
        queued: messages in all mailboxes.
        rate: messages handled per second by all kernels together; None: not known yet.
        lag, notebook_lag: seconds that the loops are late; None: not known.
        cpu: cores that the process keeps busy; None: not known yet.
        gpus: those in use.
        notes: what is wrong with single kernels, in words: ``{"kernel", "kind", "text", "origin", "fate"}``, kind
            ``"failed"`` or ``"waits"``, fate why it was not started again.
    """
    return {
        "hz": hz,
        "window": window,
        "moment": moment,
        "points": points,
        "step": window / points,
        "counts": list(counts),
        "queued": queued,
        "rate": rate,
        "lag": lag,
        "notebookLag": notebook_lag,
        "cpu": cpu,
        "gpus": [asdict(gpu) for gpu in gpus],
        "deadLetters": dead_letters,
        "notes": list(notes),
    }


def acknowledgement(refused: str | None = None) -> dict[str, Any]:
    """The answer to each message of the browser; `refused` says why it was not followed."""
    return {"version": VERSION, "kind": "acknowledgement", "refused": clean(refused)}


class RefusedError(ValueError):
    """A message of the browser that cannot be followed; the text is shown in the view."""


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
class Set:
    """A choice that all views of the widget share, such as what its charts show; the widget knows what it may be."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Freeze:
    """Stop the picture, or let it go on."""

    on: bool


@dataclass(frozen=True, slots=True)
class Command:
    """Do something to a kernel; the result comes with a later frame, under the same `request`.

    The widget knows its verbs, and what arguments they take.
    """

    verb: str
    kernel: str
    request: str
    arguments: dict[str, Any]


Message = Hello | Snapshot | Seen | Received | Set | Freeze | Command


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
            f"the page speaks version {shown(version)} of the wire of widgets, this kernel version {VERSION}: "
            f"run the cell of the widget again and reload the page"
        )
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise RefusedError(f"unknown message {shown(kind)}; known: {', '.join(_READERS)}")
    return reader(data)


def shown(value: Any) -> str:
    """Something of the browser in an error, short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _field(data: dict[str, Any], name: str, kind: type) -> Any:
    value = data.get(name)
    if type(value) is not kind:
        raise RefusedError(f"malformed message {data['kind']!r}: {name} is {shown(value)}")
    return value


def chosen(name: str, value: Any, options: Sequence[Any]) -> Any:
    """A value that has to be one of these.

    Raises:
        RefusedError: it is not.
    """
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    raise RefusedError(f"{name} cannot be {shown(value)}; possible: {', '.join(map(str, options))}")


_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "hello": lambda data: Hello(_field(data, "widget", str)),
    "snapshot": lambda data: Snapshot(),
    "seen": lambda data: Seen(_field(data, "visible", bool)),
    "received": lambda data: Received(_field(data, "number", int)),
    "set": lambda data: Set(_field(data, "name", str), data.get("value")),
    "freeze": lambda data: Freeze(_field(data, "on", bool)),
    "command": lambda data: Command(
        _field(data, "verb", str),
        _field(data, "kernel", str),
        _field(data, "request", str),
        _field(data, "arguments", dict),
    ),
}
