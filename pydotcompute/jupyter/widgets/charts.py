"""A few series over time, drawn by bqplot."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import bqplot
import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ..display import round_up
from ..schema import SERIES

_COLOURS = [f"var(--pdc-series-{i + 1})" for i in range(SERIES)]  # defined in dashboard.css


class Chart:
    """At most `SERIES` lines over the last `window` seconds. The caller sees to it that one thread at a time writes."""

    def __init__(self, title: str, unit: str, window: float, points: int) -> None:
        self._title, self._unit = title, unit
        self._x, self._y = bqplot.LinearScale(min=-window, max=0), bqplot.LinearScale(min=0, max=1)
        # Ticks are named: bqplot would spread a number of ticks over the axis, whatever values they come to.
        ticks = {"tick_style": {"font-size": "11px"}}
        seconds = np.linspace(-window, 0, 4)
        self._axes = (
            bqplot.Axis(
                scale=self._x, label="seconds", tick_values=seconds, tick_format="d", grid_lines="none", **ticks
            ),
            bqplot.Axis(scale=self._y, orientation="vertical", tick_values=[0, 1], tick_format="~s", **ticks),
        )
        self._lines = bqplot.Lines(
            x=np.linspace(-window, 0, points),
            y=[],
            scales={"x": self._x, "y": self._y},
            colors=_COLOURS,
            stroke_width=1.6,
        )
        self._figure = bqplot.Figure(
            marks=[self._lines],
            axes=list(self._axes),
            fig_margin={"top": 8, "bottom": 36, "left": 48, "right": 14},
            background_style={"fill": "none"},
            animation_duration=0,
            display_toolbar=False,
            layout=ipywidgets.Layout(width="auto", height="170px", min_width="0"),
        )
        self._head = ipywidgets.HTML()
        self.widget = ipywidgets.VBox(
            [self._head, self._figure], layout=ipywidgets.Layout(flex="1 1 300px", min_width="0", overflow="hidden")
        )
        self._high = 1.0
        self._shown: tuple[str | None, ...] | None = None
        self._name([])

    def draw(self, names: Sequence[str | None], series: NDArray[np.floating[Any]]) -> None:
        """Show the values of `series`, shape (SERIES, points), oldest first, under these names.

        None: there is no series at that place. NaN leaves a gap.
        """
        places = [i for i, name in enumerate(names) if name is not None]
        high = round_up(float(np.nanmax(series[places], initial=0.0)))
        if high != self._high:
            self._high = self._y.max = high
            self._axes[1].tick_values = [0, high] if high == 1 else [0, high / 2, high]
        with self._lines.hold_sync():
            if tuple(names) != self._shown:
                self._name(names)
                self._lines.colors = [_COLOURS[i] for i in places]
            self._lines.y = series[places]

    def close(self) -> None:
        """Take it off the page."""
        for widget in (self.widget, self._head, self._figure, self._lines, *self._axes, self._x, self._y):
            widget.close()

    def _name(self, names: Sequence[str | None]) -> None:
        self._shown = tuple(names)
        legend = "".join(
            f"<span title='{escape(name)}'><i style='background:{colour}'></i>{escape(name)}</span>"
            for name, colour in zip(names, _COLOURS, strict=False)
            if name is not None
        )
        self._head.value = (
            f"<div class='pdc-legend'><b>{self._title}</b><small>{self._unit}</small><div>{legend}</div></div>"
        )
