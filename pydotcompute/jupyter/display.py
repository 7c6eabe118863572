"""Pictures that stay: what a saved or exported notebook shows where a widget was."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..runtime import RingKernel
from ..runtime.kernel import _short
from ..telemetry import RuntimeStatistics
from ..telemetry.html import STATE_WORDS, by_state, duration, escape, kernels_html, runtime_html, table_html
from ..telemetry.trace import one_line

SERIES_COLOURS = ("#1f6feb", "#c2570c", "#1a8a4a", "#8250df", "#b3256e")
"""Of the kernels in charts, by place: visible on light and on dark. `dashboard.css` has the same, as `--pdc-series-n`.
"""

_INK2 = "color-mix(in srgb, currentColor 72%, transparent)"
_NOTE = (
    "padding:3px 8px;color:color-mix(in srgb, #d1242f 70%, currentColor);"
    "font:12px/1.45 var(--jp-code-font-family,monospace)"
)
_SMALL = f"font-size:11px;line-height:1.3;color:{_INK2}"
_APART = "display:flex;justify-content:space-between"


QUEUE_ROWS = 100
"""How many queued messages a table shows."""


def brief(message: Any) -> str:
    """A message in a short line."""
    return one_line(_short(message))


def whole(message: Any, longest: int) -> str:
    """A message in full, as far as so many characters go."""
    try:
        text = repr(message)
    except Exception as error:  # noqa: BLE001 - whatever a user's class does
        return f"<{type(message).__name__}, whose repr() raised {type(error).__name__}>"
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters)"


def queue_bundle(kernel: RingKernel) -> dict[str, str]:
    """What is queued at a kernel, in the order in which it will be handed out, as a table by MIME type.

    Raises:
        KernelStateError: a compiled ring kernel that is not paused.
    """
    queued = kernel.queue()
    n = len(queued)
    title = f"{kernel.id}: {n:,} message{'s' * (n != 1)} queued, {STATE_WORDS[kernel.state]}"
    columns = ("place", "message", "priority", "age", "ask", "failed")
    rows = [
        (
            str(place),
            brief(one.message),
            str(one.priority),
            "–" if one.waits is None else duration(one.waits),
            "yes" if one.is_ask else "no",
            f"{one.attempts} ×" if one.attempts else "–",
        )
        for place, one in enumerate(queued[:QUEUE_ROWS])
    ]
    more = f"{n - QUEUE_ROWS:,} more" if n > QUEUE_ROWS else ""
    lines = [title]
    if rows:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (columns, *rows)]
    return {
        "text/html": table_html(title, columns, rows, more),
        "text/plain": "\n".join([*lines, *([f"and {more}"] if more else [])]),
    }


class Outputs:
    """The places in a notebook where a widget is shown, with a picture beside the live view."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._context = copy_context()

    def show(self, bundle: dict[str, Any]) -> None:
        """Show this bundle of MIME types, from now on in one more place."""
        from IPython.display import display

        self._id = self._id or uuid4().hex
        display(bundle, raw=True, display_id=self._id)  # type: ignore[no-untyped-call]

    def refresh(self, bundle: dict[str, Any]) -> None:
        """Put this bundle in all the places where one was shown. Any thread may call it."""
        if self._id is not None:
            from IPython.display import update_display

            update = partial(update_display, bundle, raw=True, display_id=self._id)
            try:
                update()  # as an output of the cell that runs: while nbclient runs cells, it heeds no other
            except LookupError:  # which that is, ipykernel 7.0 does not know on a thread of ours
                self._context.copy().run(update)


def dashboard_html(
    statistics: RuntimeStatistics,
    tags: Mapping[str, str],
    notes: Iterable[str],
    names: Sequence[str],
    depths: NDArray[np.floating[Any]],
    rates: NDArray[np.floating[Any]],
    window: float,
) -> str:
    """The last picture of a dashboard: the table of statistics, what is wrong in words, and both charts.

    `tags` say what runs each kernel, by its id; `depths` and `rates` have shape (len(names), points).
    """
    table = runtime_html(statistics, tags=tags)
    return _whole(table, _notes_html(notes), _charts_html(names, depths, rates, window))


def kernel_html(
    statistics: RuntimeStatistics,
    tags: Mapping[str, str],
    notes: Iterable[str],
    names: Sequence[str],
    depths: NDArray[np.floating[Any]],
    rates: NDArray[np.floating[Any]],
    window: float,
) -> str:
    """The last picture of a dashboard of one kernel, of which alone the arguments of `dashboard_html` tell."""
    table = kernels_html(statistics.kernels.values(), tags)
    return _whole(table, _notes_html(notes), _charts_html(names, depths, rates, window))


def compact_html(
    statistics: RuntimeStatistics,
    notes: Iterable[str],
    rate: float | None,
    total: NDArray[np.floating[Any]],
    window: float,
) -> str:
    """The last picture of a dashboard of one line.

    Args:
        rate: messages handled per second by all kernels together; None: not known.
        total: the same over time, shape (points,), NaN where it is not known.
    """
    kernels = statistics.kernels.values()
    lags = (("runtime", statistics.loop_lag), ("notebook", statistics.notebook_lag))
    parts = [
        f"<b>{len(kernels):,} ring kernel{'s' * (len(kernels) != 1)}</b>",
        by_state(kernels),
        "" if rate is None else f"<b>{short(rate)}</b> msg/s {_spark_html(total, window)}",
        f"<b>{sum(kernel.queue_depth for kernel in kernels):,}</b> queued",
        " · ".join(f"{name} lag {duration(lag)}" for name, lag in lags if lag is not None),
        f"<b>{statistics.dead_letters:,}</b> dead letter{'s' * (statistics.dead_letters != 1)}",
    ]
    spans = "".join(f"<span>{part}</span>" for part in parts if part)
    line = f"<div style='display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 18px;padding:4px 8px'>{spans}</div>"
    return _whole(line, _notes_html(notes))


def _whole(*parts: str) -> str:
    style = "color:var(--jp-content-font-color1,inherit);font:12px/1.5 var(--jp-ui-font-family,system-ui,sans-serif)"
    return f"<div style='{style}'>{''.join(parts)}</div>"


def _notes_html(notes: Iterable[str]) -> str:
    return "".join(f"<div style='{_NOTE}'>{escape(note)}</div>" for note in notes)


def _charts_html(
    names: Sequence[str], depths: NDArray[np.floating[Any]], rates: NDArray[np.floating[Any]], window: float
) -> str:
    charts = ""
    if len(names) and (np.isfinite(depths).sum() > 1 or np.isfinite(rates).sum() > 1):
        key = "display:inline-block;width:14px;height:3px;margin:0 6px 3px 0"
        legend = "".join(
            f"<span style='margin-right:16px'><span style='{key};background:{colour}'></span>{escape(name)}</span>"
            for name, colour in zip(names, SERIES_COLOURS, strict=False)
        )
        both = "".join(
            f"<div style='flex:1 1 320px;max-width:560px'>{chart_html(title, unit, names, series, window)}</div>"
            for title, unit, series in (("Queue depth", "messages", depths), ("Throughput", "msg/s", rates))
        )
        charts = (
            f"<div style='padding:8px 8px 0'>{legend}</div>"
            f"<div style='display:flex;flex-wrap:wrap;gap:14px;padding:4px 8px 8px'>{both}</div>"
        )
    return charts


def _spark_html(values: NDArray[np.floating[Any]], window: float) -> str:
    """A line as high as the words around it."""
    width, height = 84, 16
    y = height - 1 - values / max(float(np.nanmax(values, initial=0.0)), 1e-9) * (height - 2)
    line = f"<path d='{_path(np.linspace(0, width, len(values)), y)}' stroke='{SERIES_COLOURS[0]}' stroke-width='1.4'/>"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' fill='none'>{line}</svg>"
    return (
        f"<img style='display:inline;width:{width}px;height:{height}px;margin:0 0 0 4px;vertical-align:-3px' "
        f"alt='messages a second over the last {window:g} s' "
        f"src='data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}'>"
    )


def chart_html(title: str, unit: str, names: Sequence[str], series: NDArray[np.floating[Any]], window: float) -> str:
    """A line chart of the last `window` seconds; `series` has shape (len(names), points).

    Its words are HTML, in the page's colours, and its lines an image: that is what is left of it where a page does not
    trust the notebook.
    """
    high = round_up(float(np.nanmax(series, initial=0.0)))
    ticks = "".join(f"<span>{short(value)}</span>" for value in (high, high / 2, 0))
    label = f"{title} ({unit}) over the last {window:g} s of {', '.join(names)}"
    image = base64.b64encode(_lines_svg(series, high).encode()).decode()
    return (
        f"<div style='{_APART}'><b>{title}</b><span style='{_SMALL}'>{unit}</span></div>"
        f"<div style='display:flex;height:120px'>"
        f"<div style='flex:none;{_APART};flex-direction:column;width:38px;padding-right:6px;text-align:right;{_SMALL}'>"
        f"{ticks}</div><img style='flex:1;min-width:0;width:100%;height:120px' alt='{escape(label)}' "
        f"src='data:image/svg+xml;base64,{image}'></div>"
        f"<div style='{_APART};padding-left:44px;{_SMALL}'><span>{window:g} s ago</span><span>now</span></div>"
    )


def _lines_svg(series: NDArray[np.floating[Any]], high: float) -> str:
    width, height, edge = 440, 120, 6
    levels = [edge, height / 2, height - edge]
    parts = [f"<path d='M0 {y}H{width}' stroke='#808080' stroke-opacity='.3'/>" for y in levels]
    for values, colour in zip(series, SERIES_COLOURS, strict=False):
        x = np.linspace(0, width, len(values))
        y = height - edge - values / high * (height - 2 * edge)
        parts.append(f"<path d='{_path(x, y)}' stroke='{colour}' stroke-width='1.6'/>")
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' preserveAspectRatio='none' "
        f"fill='none'>{''.join(parts)}</svg>"
    )


def _path(x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]]) -> str:
    """A line through the points; it is broken where y is NaN."""
    known = np.isfinite(y)
    steps = [("L" if before and here else "M") if here else "" for before, here in pairwise([False, *known.tolist()])]
    return "".join(f"{step}{a:.1f} {b:.1f}" for step, a, b in zip(steps, x.tolist(), y.tolist(), strict=True) if step)


def round_up(value: float) -> float:
    """The next of 1, 2, 4, 5, 10, 20, …: a calm upper end for an axis that starts at 0; at least 1."""
    if not value > 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(next(step * power for step in (1, 2, 4, 5, 10) if value <= step * power))


def short(value: float) -> str:
    """A count in at most five characters: ``"1.5k"``."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"
