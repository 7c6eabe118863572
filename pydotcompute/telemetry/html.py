"""Statistics as static HTML for notebooks and saved pages: inline styles only, colours that follow the page."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from .counters import KernelStatistics, RuntimeStatistics

STATE_WORDS = {
    "CREATED": "created",
    "LAUNCHED": "launched",
    "ACTIVE": "active",
    "DEACTIVATED": "paused",
    "TERMINATING": "stopping",
    "TERMINATED": "ended",
    "FAILED": "failed",
}
"""What the states are called where users look."""

# A colour mixed with that of the text is readable on light and dark pages alike.
_GREEN, _AMBER, _RED, _GREY = (
    f"color-mix(in srgb, {colour} 70%, currentColor)" for colour in ("#1a7f37", "#b87a00", "#d1242f", "#808890")
)
_INK2 = "color-mix(in srgb, currentColor 72%, transparent)"
_LINE = "1px solid color-mix(in srgb, currentColor 15%, transparent)"

_RING = "M5 .7a4.3 4.3 0 1 0 0 8.6a4.3 4.3 0 1 0 0-8.6zm0 1.6a2.7 2.7 0 1 1 0 5.4a2.7 2.7 0 1 1 0-5.4z"
_SHAPES = {  # on 10 by 10 units
    "CREATED": (_GREY, _RING),
    "LAUNCHED": (_GREY, _RING),
    "ACTIVE": (_GREEN, "M5 .5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z"),
    "DEACTIVATED": (_AMBER, "M1 1h3v8h-3zM6 1h3v8h-3z"),
    "TERMINATING": (_AMBER, "M5 .5a4.5 4.5 0 1 0 0 9z"),
    "TERMINATED": (_GREY, "M1 1h8v8h-8z"),
    "FAILED": (_RED, "M5 .5l4.8 9h-9.6z"),
}

_CELL = f"padding:3px 8px;text-align:right;border:0;border-bottom:{_LINE};white-space:nowrap"
_LEFT = _CELL.replace("right", "left")
_TEXT = _LEFT.replace("nowrap", "normal") + ";vertical-align:top;overflow-wrap:break-word"
_COLUMNS = (
    "kernel",
    "state",
    "queue",
    "peak",
    "received",
    "processed",
    "errors",
    "restarts",
    "dead letters",
    "wait p50 / p99",
    "handle p50 / p99",
    "replied",
    "dropped",
)


_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """A text that UTF-8, XML and HTML can hold: control characters and halves of surrogate pairs as in ``"\\x00"``."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def escape(text: str) -> str:
    """`printable`, as it is written in XML and HTML, in attributes too."""
    return html.escape(printable(text))


def runtime_html(
    statistics: RuntimeStatistics, limit: int = 100, tags: Mapping[str, str] = MappingProxyType({})
) -> str:
    """All kernels of a runtime as a table of at most `limit` rows, below a line about the runtime itself.

    `tags` say what runs each kernel, by its id.
    """
    kernels = list(statistics.kernels.values())
    states = by_state(kernels)
    head = f"<b>{_plural(len(kernels), 'ring kernel')}</b>"
    if states:
        head += f" &ensp;<span style='color:{_INK2}'>{states}</span>"
    lags = (("runtime", statistics.loop_lag), ("notebook", statistics.notebook_lag))
    if known := [f"{name} {duration(lag)}" for name, lag in lags if lag is not None]:
        head += f" &ensp;<span style='color:{_INK2}'>loop lag: {' · '.join(known)}</span>"
    if statistics.dead_letters:
        head += f" &ensp;<span style='color:{_INK2}'>{_plural(statistics.dead_letters, 'dead letter')}</span>"
    left_out = max(len(kernels) - limit, 0)
    foot = f"<div style='padding:4px 8px;color:{_INK2}'>and {left_out:,} more</div>" if left_out else ""
    table = kernels_html(kernels[:limit], tags) if kernels else ""
    return f"<div style='{_BLOCK}'><div style='padding:4px 8px'>{head}</div>{table}{foot}</div>"


def by_state(kernels: Iterable[KernelStatistics]) -> str:
    """How many are in which state, in words; empty for no kernels."""
    counts = Counter(kernel.state for kernel in kernels)
    return " · ".join(f"{counts[state]:,} {word}" for state, word in STATE_WORDS.items() if state in counts)


def kernels_html(kernels: Iterable[KernelStatistics], tags: Mapping[str, str] = MappingProxyType({})) -> str:
    """A table with one row for each of these kernels; `tags` say what runs each, by its id."""
    return _table(_COLUMNS, 2, (_row(kernel, tags.get(kernel.kernel_id, "")) for kernel in kernels))


def table_html(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], note: str = "") -> str:
    """Texts as a table, aligned to the left, below a title with a note."""
    note = f" &ensp;<span style='color:{_INK2}'>{escape(note)}</span>" if note else ""
    cells = ["".join(f"<td style='{_TEXT}'>{escape(text)}</td>" for text in row) for row in rows]
    table = _table([*columns], None, cells) if cells else ""
    return f"<div style='{_BLOCK}'><div style='padding:4px 8px'><b>{escape(title)}</b>{note}</div>{table}</div>"


def _table(columns: Sequence[str], texts: int | None, rows: Iterable[str]) -> str:
    """A table of which the first so many columns are texts, the others numbers; None: all of them are texts."""
    head = "".join(
        f"<th scope='col' style='{style};font-size:11px;font-weight:600;color:{_INK2}'>{escape(name)}</th>"
        for name, style in zip(columns, [*[_LEFT] * len(columns[:texts]), *[_CELL] * len(columns)], strict=False)
    )
    body = "".join(f"<tr style='background:none'>{row}</tr>" for row in rows)
    table = f"<thead><tr style='background:none'>{head}</tr></thead><tbody>{body}</tbody>"
    return (
        f"<div style='{_BLOCK};overflow-x:auto'><table style='border-collapse:collapse;border:0;margin:0;"
        f"font-size:13px;font-variant-numeric:tabular-nums'>{table}</table></div>"
    )


_BLOCK = "color:var(--jp-content-font-color1,inherit);font:13px/1.4 var(--jp-ui-font-family,system-ui,sans-serif)"


def _row(kernel: KernelStatistics, tag: str) -> str:
    colour, shape = _SHAPES[kernel.state]
    icon = f"<svg {_ICON}><path d='{shape}'/></svg>"
    version = f" <span style='{_TAG}'>v{kernel.version}</span>" if kernel.version > 1 else ""
    tag = f" <span style='font-size:11px;color:{_INK2}'>{escape(tag)}</span>" if tag else ""
    waiting = f" <span style='color:{_INK2}'>waiting: {escape(kernel.waiting_for)}</span>"
    cells = [
        f"<th scope='row' style='{_LEFT};font-weight:400'><span style='{_ID}' title='{escape(kernel.kernel_id)}'>"
        f"{escape(kernel.kernel_id)}</span>{tag}{version}</th>",
        f"<td style='{_LEFT}'><span style='color:{colour}'>{icon}{STATE_WORDS[kernel.state]}</span>"
        f"{waiting if kernel.waiting_for else ''}</td>",
    ]
    errors = f"<span style='color:{_RED}'>{kernel.errors:,}</span>" if kernel.errors else "0"
    for text in (
        f"{kernel.queue_depth:,} of {kernel.queue_size:,}",
        f"{kernel.queue_peak:,}",
        f"{kernel.received:,}",
        f"{kernel.processed:,}",
        errors,
        f"{kernel.restarts:,}",
        f"{kernel.dead_letters:,}",
        _percentiles(kernel.wait_p50, kernel.wait_p99),
        _percentiles(kernel.handle_p50, kernel.handle_p99),
        f"{kernel.replied:,}",
        f"{kernel.dropped:,}",
    ):
        cells.append(f"<td style='{_CELL}'>{text}</td>")
    return "".join(cells)


_ICON = (
    "width='10' height='10' viewBox='0 0 10 10' aria-hidden='true' "
    "style='fill:currentColor;margin-right:6px;vertical-align:-1px;display:inline'"
)
_ID = "display:inline-block;max-width:180px;overflow:hidden;text-overflow:ellipsis;vertical-align:bottom"
_TAG = f"border:{_LINE};border-radius:4px;padding:0 5px;margin-left:4px;font-size:11px;color:{_INK2}"


def _percentiles(p50: float, p99: float) -> str:
    """``"31 / 95 µs"``: the unit once, when both have the same."""
    (a, _, a_unit), (b, _, b_unit) = duration(p50).partition(" "), duration(p99).partition(" ")
    return "–" if not a_unit else f"{a} / {b} {b_unit}" if a_unit == b_unit else f"{a} {a_unit} / {b} {b_unit}"


def duration(seconds: float) -> str:
    """Two significant digits with a unit: ``"88 µs"``; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.1f} {unit}" if 0 < value < 9.95 and unit != "ns" else f"{value:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:,.0f} s"


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
