"""The wire between the panel in JupyterLab and the kernel, version 1: `extension/protocol/schema.json` has all of it.

Frames are absolute: whoever misses one has lost nothing. The browser sends the messages that `parse` knows, and no
others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import schema
from .schema import RefusedError, chosen, shown

VERSION = 1

SORTS = ("kernel", "state", "version", "depth", "rate", "errors", "restarts", "deadLetters")
VIEWS = ("dashboard", "trace", "topology")
VERBS = ("activate", "pause", "resume", "step", "stop", "restart")

MAX_HZ = 10.0
ROWS, GONE, FILTER, KEY, ID, LINE, TEXT, LONGEST = 500, 100, 200, 200, 1_000, 1_000, 4_000, 20_000
"""How many rows a frame has at most; and characters of a filter, a key, the id of a kernel, a line, a text, and of a
definition or traceback."""
MOST, RESULTS = 1_000, 20
"""Runtimes and cells in a frame, and results."""
HIGHEST = 2**53 - 1
"""The highest integer that a browser counts to."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What opens both comms of a view: the key that the browser made up for it, and those of views it has closed."""

    panel: str
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Which part of the list is wanted."""

    filter: str
    sort: str
    descending: bool
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Kernel:
    """Which kernel is meant."""

    runtime: int
    kernel: str


@dataclass(frozen=True, slots=True)
class Look:
    """All that the view wants to see; the latest one holds."""

    hz: float
    visible: bool
    summary: bool
    cells: bool
    list: Rows | None
    details: Kernel | None


@dataclass(frozen=True, slots=True)
class Received:
    """The latest frame that was drawn; says also that the view is still there."""

    number: int


@dataclass(frozen=True, slots=True)
class Command:
    """Do something to a kernel; the result comes with a later frame, under the same `request`."""

    request: str
    verb: str
    runtime: int
    kernel: str


@dataclass(frozen=True, slots=True)
class Open:
    """Make a widget for a tab; the result names its model."""

    request: str
    view: str
    runtime: int
    kernel: str | None


@dataclass(frozen=True, slots=True)
class Close:
    """Close what `Open` made."""

    request: str
    model: str


Message = Hello | Look | Received | Command | Open | Close


def parse(data: Any) -> Message:
    """Read a message of the browser.

    Raises:
        RefusedError: another version, none of the messages above, or one with a field that it does not have.
    """
    if not isinstance(data, dict):
        raise RefusedError("malformed message: not an object")
    version, kind = data.get("version"), data.get("kind")
    if type(version) is not int or version != VERSION:
        raise RefusedError(
            f"the panel speaks version {shown(version)} of its wire, this kernel version {VERSION}: restart the kernel "
            f"and reload the page, so that both come from the pydotcompute that is installed"
        )
    if not isinstance(kind, str) or kind not in _MESSAGES:
        raise RefusedError(f"unknown message {shown(kind)}; known: {', '.join(_MESSAGES)}")
    fields = {name: value for name, value in data.items() if name not in ("version", "kind")}
    message: Message = _read(*_MESSAGES[kind], fields, kind)
    return message


def acknowledgement(refused: str | None = None) -> dict[str, Any]:
    """The answer to each message of the browser; `refused` says why it was not followed."""
    return {
        **schema.acknowledgement(None if refused is None else text(refused)),
        "version": VERSION,
    }


def trouble(why: str) -> dict[str, Any]:
    """Instead of a frame: why there is none."""
    return {**schema.trouble(text(why)), "version": VERSION}


def text(value: str, limit: int = TEXT) -> str:
    """It as the wire takes it: in Unicode, and no longer than that."""
    value = value.encode("utf-8", "backslashreplace").decode()
    return value if len(value) <= limit else value[: limit - 1] + "…"


def line(value: str) -> str:
    """It in one line that the wire takes."""
    return text(" ".join(value.split()), LINE)


def count(value: int) -> int:
    """A number of things, as a browser can count them."""
    return min(max(value, 0), HIGHEST)


_Reader = Callable[[str, Any], Any]


def _read(kind: Callable[..., Any], readers: dict[str, _Reader], data: dict[str, Any], name: str) -> Any:
    if data.keys() != readers.keys():
        wrong = sorted(map(str, data.keys() ^ readers.keys()))
        raise RefusedError(f"malformed message {name!r}: {shown(', '.join(wrong))} missing or not known")
    return kind(**{field: read(f"{name}: {field}", data[field]) for field, read in readers.items()})


def _text(longest: int, shortest: int = 1) -> _Reader:
    def read(name: str, value: Any) -> str:
        if type(value) is not str or not shortest <= len(value) <= longest:
            raise RefusedError(f"{name} must be a text of {shortest} to {longest:,} characters, not {shown(value)}")
        return value

    return read


def _texts(longest: int, most: int) -> _Reader:
    item = _text(longest)

    def read(name: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise RefusedError(f"{name} must be a list of at most {most} texts, not {shown(value)}")
        return tuple(item(f"{name}[{i}]", one) for i, one in enumerate(value))

    return read


def _integer(low: int, high: int = HIGHEST) -> _Reader:
    def read(name: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise RefusedError(f"{name} must be an integer from {low:,} to {high:,}, not {shown(value)}")
        return value

    return read


def _truth(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise RefusedError(f"{name} must be true or false, not {shown(value)}")
    return value


def _hz(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= MAX_HZ:
        raise RefusedError(f"{name} must be above 0 and at most {MAX_HZ:g}, not {shown(value)}")
    return float(value)


def _one_of(options: tuple[str, ...]) -> _Reader:
    return lambda name, value: chosen(name, value, options)


def _or_null(read: _Reader) -> _Reader:
    return lambda name, value: None if value is None else read(name, value)


def _object(kind: Callable[..., Any], readers: dict[str, _Reader]) -> _Reader:
    def read(name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            raise RefusedError(f"{name} must be an object, not {shown(value)}")
        return _read(kind, readers, value, name)

    return read


_KERNEL: dict[str, _Reader] = {"runtime": _integer(1), "kernel": _text(ID)}
_ROWS: dict[str, _Reader] = {
    "filter": _text(FILTER, 0),
    "sort": _one_of(SORTS),
    "descending": _truth,
    "first": _integer(0),
    "count": _integer(0, ROWS),
}
_MESSAGES: dict[str, tuple[Callable[..., Any], dict[str, _Reader]]] = {
    "hello": (Hello, {"panel": _text(KEY), "gone": _texts(KEY, GONE)}),
    "look": (
        Look,
        {
            "hz": _hz,
            "visible": _truth,
            "summary": _truth,
            "cells": _truth,
            "list": _or_null(_object(Rows, _ROWS)),
            "details": _or_null(_object(Kernel, _KERNEL)),
        },
    ),
    "received": (Received, {"number": _integer(0)}),
    "command": (Command, {"request": _text(KEY), "verb": _one_of(VERBS), **_KERNEL}),
    "open": (Open, {"request": _text(KEY), "view": _one_of(VIEWS), **_KERNEL, "kernel": _or_null(_text(ID))}),
    "close": (Close, {"request": _text(KEY), "model": _text(KEY)}),
}
