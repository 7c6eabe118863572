"""Queue depth and throughput over time, drawn by bqplot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bqplot
import ipywidgets
import numpy as np
from numpy.typing import NDArray

from ...telemetry.html import escape
from ..display import round_up
from ..schema import SERIES
from .live import parts_of

_COLOURS = [f"var(--pdc-series-{i + 1})" for i in range(SERIES)]  # defined in dashboard.css


class Charts:
    """Two charts of at most `SERIES` kernels each. The caller sees to it that one thread at a time draws."""

    def __init__(self, window: float, points: int) -> None:
        self._charts = _Chart("Queue depth", "messages", window, points), _Chart("Throughput", "msg/s", window, points)
        self._legend = ipywidgets.HTML().add_class("pdc-legend")
        row = ipywidgets.HBox([chart.widget for chart in self._charts], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.widget = ipywidgets.VBox([self._legend, row]).add_class("pdc-charts")
        self._shown: tuple[Any, ...] = ()

    def draw(
        self,
        names: Sequence[str | None],
        what: str,
        depths: NDArray[np.floating[Any]],
        rates: NDArray[np.floating[Any]],
    ) -> None:
        """Show these series, one row for each name that is not None, oldest value first.

        Args:
            names: of the kernels, at most `SERIES`; the place gives the colour, None leaves a place free.
            what: what these kernels have in common, for the legend.
            depths, rates: shape (kernels, points); NaN leaves a gap.
        """
        shown = what, *names
        colours = [colour for name, colour in zip(names, _COLOURS, strict=False) if name is not None]
        for chart, series in zip(self._charts, (depths, rates), strict=True):
            chart.draw(series, colours if shown != self._shown else None)
        if shown != self._shown:
            self._shown = shown
            keys = "".join(
                f"<span title='{escape(name)}'><i style='background:{colour}'></i>{escape(name)}</span>"
                for name, colour in zip(names, _COLOURS, strict=False)
                if name is not None
            )
            self._legend.value = f"<small>{escape(what)}</small>{keys}" if keys else ""

    def reach(self, window: float) -> None:
        """Show so many seconds from now on."""
        for chart in self._charts:
            chart.reach(window)

    def close(self) -> None:
        """Take them off the page."""
        for widget in (*parts_of(self.widget), self.widget):
            widget.close()


class _Chart:
    def __init__(self, title: str, unit: str, window: float, points: int) -> None:
        self._high = 1.0
        self._x, self._y = bqplot.LinearScale(max=0), bqplot.LinearScale(min=0, max=self._high)
        # Ticks are named: bqplot would spread a number of ticks over the axis, whatever values they come to.
        ticks = {"tick_style": {"font-size": "11px"}}
        self._axes = (
            bqplot.Axis(scale=self._x, grid_lines="none", **ticks),
            bqplot.Axis(scale=self._y, side="left", tick_values=[0, 1], tick_format="~s", **ticks),
        )
        self._points = points
        self._lines = bqplot.Lines(
            x=[],
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
        self.reach(window)
        self._title = ipywidgets.HTML(f"<div class='pdc-title'><b>{title}</b> <small>{unit}</small></div>")
        self.widget = ipywidgets.VBox(
            [self._title, self._figure], layout=ipywidgets.Layout(flex="1 1 300px", min_width="0", overflow="hidden")
        )

    def reach(self, window: float) -> None:
        name, unit = ("minutes", 60.0) if window > 120 else ("seconds", 1.0)
        axis, start = self._axes[0], -window / unit
        with self._x.hold_sync(), axis.hold_sync(), self._lines.hold_sync():
            self._x.min = start
            axis.label, axis.tick_values, axis.tick_format = name, np.linspace(start, 0, 4), "~r"
            self._lines.x, self._lines.y = np.linspace(start, 0, self._points), []

    def draw(self, series: NDArray[np.floating[Any]], colours: list[str] | None) -> None:
        high = round_up(float(np.nanmax(series, initial=0.0)))
        if high != self._high:
            self._high = self._y.max = high
            self._axes[1].tick_values = [0, high] if high == 1 else [0, high / 2, high]
        with self._lines.hold_sync():
            if colours:
                self._lines.colors = colours
            self._lines.y = series
