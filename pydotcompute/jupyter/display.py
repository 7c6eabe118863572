"""Pictures that stay: what a saved or exported notebook shows where a widget was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from ..telemetry import RuntimeStatistics
from ..telemetry.html import runtime_html

SERIES_COLOURS = ("#1f6feb", "#c2570c", "#1a8a4a", "#8250df", "#b3256e")
"""Of the kernels in charts, by place. They are shown mixed with the colour of the text, as `--pdc-series-n` is in
`dashboard.css`, so that they are readable on light and dark pages alike."""

_NOTE = (
    "padding:3px 10px;color:color-mix(in srgb, #d1242f 70%, currentColor);"
    "font:12px/1.45 var(--jp-code-font-family,monospace)"
)
_INK2 = "color-mix(in srgb, currentColor 72%, transparent)"


class Outputs:
    """The places in a notebook where a widget is shown, with a picture beside the live view."""

    def __init__(self) -> None:
        self._id: str | None = None

    def show(self, bundle: dict[str, Any]) -> None:
        """Show this bundle of MIME types, from now on in one more place."""
        from IPython.display import display

        self._id = self._id or uuid4().hex
        display(bundle, raw=True, display_id=self._id)  # type: ignore[no-untyped-call]

    def refresh(self, bundle: dict[str, Any]) -> None:
        """Put this bundle in all the places where one was shown. Any thread may call it."""
        if self._id is not None:
            from IPython.display import update_display

            update_display(bundle, raw=True, display_id=self._id)  # type: ignore[no-untyped-call]


def dashboard_html(
    statistics: RuntimeStatistics,
    notes: Iterable[str],
    names: Sequence[str],
    depths: NDArray[np.floating[Any]],
    rates: NDArray[np.floating[Any]],
    window: float,
) -> str:
    """The last picture of a dashboard: the table of statistics, what is wrong in words, and both charts.

    `depths` and `rates` have shape (len(names), points).
    """
    lines = "".join(f"<div style='{_NOTE}'>{escape(note)}</div>" for note in notes)
    charts = ""
    if len(names) and (np.isfinite(depths).sum() > 1 or np.isfinite(rates).sum() > 1):
        charts = "".join(
            f"<div style='flex:1 1 320px;max-width:560px'>{chart_svg(title, unit, names, series, window)}</div>"
            for title, unit, series in (("Queue depth", "messages", depths), ("Throughput", "msg/s", rates))
        )
        charts = f"<div style='display:flex;flex-wrap:wrap;gap:14px;padding:8px 10px'>{charts}</div>"
    return f"<div style='color:var(--jp-content-font-color1,inherit)'>{runtime_html(statistics)}{lines}{charts}</div>"


def chart_svg(title: str, unit: str, names: Sequence[str], series: NDArray[np.floating[Any]], window: float) -> str:
    """A line chart of the last `window` seconds as inline SVG; `series` has shape (len(names), points)."""
    width, height, left, top, bottom = 480, 170, 44, 26 + 16 * len(names), 18
    height += 16 * len(names)
    high = round_up(float(np.nanmax(series, initial=0.0)))
    parts = []
    for k in range(3):
        y = top + (height - bottom - top) * k / 2
        parts.append(
            f"<line x1='{left}' x2='{width}' y1='{y:.1f}' y2='{y:.1f}' stroke='currentColor' stroke-opacity='.15'/>"
            f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{short(high * (2 - k) / 2)}</text>"
        )
    for i, (name, values) in enumerate(zip(names, series, strict=True)):
        colour = SERIES_COLOURS[i % len(SERIES_COLOURS)]
        stroke = f"stroke='{colour}' style='stroke:color-mix(in srgb, {colour} 80%, currentColor)'"
        x = np.linspace(left, width, len(values))
        y = height - bottom - values / high * (height - bottom - top)
        parts.append(f"<path d='{_path(x, y)}' fill='none' stroke-width='1.6' {stroke}/>")
        parts.append(
            f"<line x1='{left}' x2='{left + 14}' y1='{30 + 16 * i}' y2='{30 + 16 * i}' stroke-width='3' {stroke}/>"
            f"<text x='{left + 20}' y='{34 + 16 * i}'>{escape(name)}</text>"
        )
    label = f"{title} ({unit}) over the last {window:g} s of {', '.join(names)}"
    return (
        f"<svg viewBox='0 0 {width} {height}' width='100%' role='img' aria-label='{escape(label)}' "
        f"style='fill:{_INK2};font:11px var(--jp-ui-font-family,system-ui,sans-serif)'>"
        f"<text x='{left}' y='14' style='fill:currentColor;font-weight:600'>{title}</text>"
        f"<text x='{width}' y='14' text-anchor='end'>{unit}</text>{''.join(parts)}"
        f"<text x='{left}' y='{height - 4}'>{window:g} s ago</text>"
        f"<text x='{width}' y='{height - 4}' text-anchor='end'>now</text></svg>"
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
