"""Messages and records as tables for notebooks: inline styles only, colours that follow the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from html import escape
from reprlib import Repr
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .message import is_message_type
from .record import Record, layout
from .standard import STANDARD

ROWS = 20
"""How many records of an array a table shows."""
DEPTH = 3
"""How deep messages within messages are shown field by field."""

_INK2 = "color-mix(in srgb, currentColor 72%, transparent)"
_LINE = "1px solid color-mix(in srgb, currentColor 15%, transparent)"
_CELL = (
    f"padding:3px 8px;text-align:left;vertical-align:top;border:0;border-bottom:{_LINE};overflow-wrap:anywhere;"
    "max-width:560px"
)
_HEAD = f"{_CELL};font-size:11px;font-weight:600;color:{_INK2}"
_CODE = "font:12px/1.5 var(--jp-code-font-family,ui-monospace,monospace)"
_BLOCK = "color:var(--jp-content-font-color1,inherit);font:13px/1.4 var(--jp-ui-font-family,system-ui,sans-serif)"


class _Short(Repr):
    """Values on one line that does not run away."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 160
        self.maxlist = self.maxtuple = self.maxset = self.maxdict = 8
        self.maxlevel = 3

    def repr_ndarray(self, array: NDArray[Any], level: int) -> str:
        text = np.array2string(array, threshold=12, edgeitems=2, precision=4, separator=", ")
        text = " ".join(text.split())
        return text if len(text) <= 200 else f"{text[:199]}…"


_short = _Short()


def message_html(message: Any) -> str:
    """A `@message` object or a `Record`: each field with its type and its value.

    Of the standard fields, priority and correlation are shown where they tell something.
    """
    return f"<div style='{_BLOCK}'>{_object(message, 1)}</div>"


def records_html(records: NDArray[np.void] | np.void) -> str:
    """Records of a structured dtype, one a row; the first `ROWS` of them."""
    dtype = records.dtype
    names = dtype.names or ()
    array = np.asarray(records)
    n = array.size
    head = f"{n:,} record{'s' * (n != 1)} of {dtype.itemsize:,} B"
    if array.ndim != 1:
        head += f", shape {array.shape}"
    columns = "".join(
        f"<th scope='col' style='{_HEAD}'>{escape(name)}<br><span style='font-weight:400'>{escape(_dtype(dtype[name]))}"
        "</span></th>"
        for name in names
    )
    first = array.reshape(-1)[:ROWS]
    rows = [
        (f"<th scope='row' style='{_CELL};font-weight:400;color:{_INK2}'>{i}</th>" if array.ndim else "")
        + "".join(f"<td style='{_CELL}'><span style='{_CODE}'>{_value(record[name])}</span></td>" for name in names)
        for i, record in enumerate(first)
    ]
    place = f"<th scope='col' style='{_HEAD}'>place</th>" if array.ndim else ""
    more = f"<div style='padding:4px 8px;color:{_INK2}'>and {n - ROWS:,} more</div>" if n > ROWS else ""
    return f"<div style='{_BLOCK}'>{_title('', head)}{_table(place + columns, rows)}{more}</div>"


def _object(message: Any, depth: int) -> str:
    cls = type(message)
    rows = []
    for name in _names(message):
        value = getattr(message, name, None)
        rows.append(
            f"<th scope='row' style='{_CELL};font-weight:400'>{escape(name)}</th>"
            f"<td style='{_CELL};color:{_INK2}'>{escape(_type(value))}</td>"
            f"<td style='{_CELL}'>{_field(value, depth)}</td>"
        )
    head = "".join(f"<th scope='col' style='{_HEAD}'>{name}</th>" for name in ("field", "type", "value"))
    return _title(cls.__qualname__, _kind(cls)) + (_table(head, rows) if rows else "")


def _names(message: Any) -> Iterable[str]:
    cls = type(message)
    if not is_message_type(cls):
        return layout(cls).fields
    return [
        f.name
        for f in fields(cls)
        if f.name not in STANDARD or (f.name != "message_id" and getattr(message, f.name, f.default) is not f.default)
    ]


def _kind(cls: type) -> str:
    if not is_message_type(cls):
        return f"record of {layout(cls).dtype.itemsize:,} B"
    return "message"


def _field(value: Any, depth: int) -> str:
    if depth < DEPTH and (isinstance(value, Record) or is_message_type(type(value))):
        return _object(value, depth + 1)
    return f"<span style='{_CODE}'>{_value(value)}</span>"


def _value(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    try:
        return escape(_short.repr(value))
    except Exception as error:  # noqa: BLE001 - what the user wrote may raise anything, and the other fields are worth seeing
        return f"<i>its repr raised {escape(type(error).__name__)}</i>"


def _type(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{_dtype(value.dtype)} {value.shape}"
    if isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)):
        return f"{type(value).__name__}, {len(value):,}"
    return "None" if value is None else type(value).__name__


def _dtype(dtype: np.dtype[Any]) -> str:
    base = "record" if dtype.base.names is not None else str(dtype.base)
    return f"{base} {dtype.shape}" if dtype.shape else base


def _title(name: str, note: str) -> str:
    bold = f"<b>{escape(name)}</b> &ensp;" if name else ""
    return f"<div style='padding:4px 8px'>{bold}<span style='color:{_INK2}'>{escape(note)}</span></div>"


def _table(head: str, rows: list[str]) -> str:
    body = "".join(f"<tr style='background:none'>{row}</tr>" for row in rows)
    return (
        f"<div style='overflow-x:auto'><table style='border-collapse:collapse;border:0;margin:0;font-size:13px;"
        f"font-variant-numeric:tabular-nums'><thead><tr style='background:none'>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
