"""Who sends to whom: ring kernels as a graph, drawn from what was counted."""

from __future__ import annotations

import base64
import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...runtime import RingKernelRuntime
from ...runtime.supervision import SupervisionGroup
from ...telemetry import STATES, Frame
from ...telemetry.html import STATE_WORDS, escape, table_html
from .. import schema
from ..acts import Make
from ..layers import Layers, Place
from ..reports import short_errors
from .live import LiveWidget, RuntimeSource, source, style

ALIKE = 12
"""Kernels whose ids differ in a number at the end are shown one by one up to so many; more become one node."""
SINGLE = 12
"""How many of these, the busiest, are shown one by one when that node is opened."""
MOST = 24
"""Kernels that are shown one by one otherwise, the busiest; what is left becomes one node."""
ARROWS = 120
"""Arrows that are drawn, those with the most messages."""
CALM = 5.0
"""Seconds that the choice of the busiest stays."""
SPAN = 2.0
"""Seconds over which rates are taken."""
ROWS = 30
"""Rows of the table in the picture that stays."""

OUTSIDE, OTHERS = "", "+"
"""Keys of two nodes. That of a kernel or router is ``=`` and its id, that of many kernels ``*`` and what is alike."""

BOX, PITCH, MARGIN = (152, 46), (240, 80), (16, 28)
"""Of a node, from one to the next, and around all: width and height in CSS pixels."""
TIP = 9
"""Length of an arrow's head."""
LABEL = (44, 13)
"""Of the rate at an arrow, such as ``12.3 k/s``: width and height in CSS pixels."""
ALONG = (0.5, 0.35, 0.65, 0.22, 0.78)
"""How far along a curve a rate may stand, the best first."""

_NUMBERED = re.compile(r"(.*?)\d+", re.DOTALL)
_TONES = {"ACTIVE": "#1a7f37", "DEACTIVATED": "#9a6700", "TERMINATING": "#9a6700", "FAILED": "#cf222e"}
_WORST = ("FAILED", "TERMINATING", "DEACTIVATED", "ACTIVE", "LAUNCHED", "CREATED", "TERMINATED")
_FAILED = STATES.index("FAILED")

Counts = dict[tuple[str | None, str], Any]
"""What `RingKernelRuntime.edges` counts, or how much more it is each second."""


@short_errors
def topology(runtime: RingKernelRuntime, *, hz: float = 2.0) -> Topology:
    """A live graph of who sends to whom, drawn from what was counted: see `RingKernelRuntime.edges`.

    Kernels stand to the right of who sends to them, and stay where they are when others come. Many whose ids differ
    only in a number at the end, such as ``worker-17``, are one node, which opens on a click. Of other kernels the
    busiest are shown, and one node stands for the rest.

    Args:
        hz: pictures a second while it is in sight (0 < hz <= 20).

    Raises:
        TypeError: `runtime` is no `RingKernelRuntime`.
        ValueError: a rate out of range.
    """
    return Topology(runtime, hz=hz)


def graph_svg(runtime: RingKernelRuntime) -> str | None:
    """Who sends to whom in a runtime, as `topology` shows it, in SVG that needs nothing else; None: nobody so far."""
    graph = Graph(runtime)
    graph._look(runtime.sampler.frame())
    return graph._svg() if graph._arrows else None


class Node(NamedTuple):
    """A node of the graph."""

    key: str
    name: str
    kind: str
    """``"outside"``, ``"kernel"``, ``"router"``, or ``"many"`` for what stands for several kernels."""
    note: str
    """How a router chooses."""
    kernels: tuple[int, ...]
    """Which kernels these are, by their places in the frame."""


class Arrow(NamedTuple):
    """How an edge is drawn."""

    source: str
    target: str
    path: str
    tip: tuple[float, float, int]
    """Where its head ends, and in which direction that points: degrees from the right, clockwise."""
    label: tuple[float, float]
    """Where its rate is written."""
    free: bool = True
    """Whether nothing else stands there; else the rate is written only while the arrow is looked at."""


class Graph:
    """Who sends to whom, as of the last look: what there is, and where it stands."""

    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime = runtime
        self._layers = Layers(OUTSIDE)
        self._open: tuple[str, ...] = ()
        self._key_of: dict[str | None, str] = {}
        self._nodes: list[Node] = []
        self._made_of: Any = None
        self._chosen_at = 0.0
        self._arrows: list[Arrow] = []
        self._groups: list[dict[str, Any]] = []
        self._drawn_of: Any = None
        self._structure = 0
        self._rows: Any = None
        self._counts: Counts = {}
        self._per_second: Counts = {}
        self._sent: dict[tuple[str, str], int] = {}  # from node to node
        self._rates: dict[tuple[str, str], float] = {}
        # What was counted, of which kernels and routers, at intervals of SPAN / 4:
        self._former: deque[tuple[int, Counts, dict[str, Any]]] = deque()

    def _look(self, frame: Frame) -> None:
        self._rows = frame.rows
        counted_of = {**dict(zip(frame.ids, frame.launches.tolist(), strict=True)), **self._runtime.routers}
        self._counts = self._runtime.edges()
        self._per_second = self._rates_of(frame.time_ns, counted_of)
        self._make_nodes(frame)
        self._sent = self._between_nodes(self._counts)
        self._rates = self._between_nodes(self._per_second)
        self._arrange()

    def _rates_of(self, now: int, counted_of: dict[str, Any]) -> Counts:
        """Messages a second of each edge; empty while that is not known.

        Args:
            counted_of: what is another one, by id, when a kernel or router was made anew: it counts from 0.
        """
        former, counts, span = self._former, self._counts, SPAN * 1e9
        if former and now - former[-1][0] > 2 * span:
            former.clear()  # nobody looked for a while
        while len(former) > 1 and now - former[1][0] >= span:
            former.popleft()
        begin, before, before_of = former[0] if former else (now, {}, {})
        if not former or now - former[-1][0] >= span / 4:
            former.append((now, counts, counted_of))
        if now <= begin:
            return {}
        passed = (now - begin) * 1e-9
        same = {None, *(one for one, what in counted_of.items() if before_of.get(one) == what)}
        more = {
            (one, other): max(n - (before.get((one, other), 0) if one in same and other in same else 0), 0)
            for (one, other), n in counts.items()
        }
        return {edge: n / passed for edge, n in more.items()}

    def _make_nodes(self, frame: Frame) -> None:
        """Which nodes there are, and whom each stands for."""
        routers, ids, now = dict(self._runtime.routers), frame.ids, time.monotonic()
        made_of = ids, [(router_id, router.strategy) for router_id, router in routers.items()]
        if made_of == self._made_of and (now - self._chosen_at < CALM or len(ids) <= ALIKE):
            return
        self._made_of, self._chosen_at = made_of, now
        alike: dict[str, list[str]] = {}
        for kernel_id in ids:
            match = _NUMBERED.fullmatch(kernel_id)
            alike.setdefault(f"*{match[1]}" if match else f"={kernel_id}", []).append(kernel_id)
        busiest = self._busiest(frame)
        key_of: dict[str | None, str] = {None: OUTSIDE}
        single: list[str] = []
        for key, those in alike.items():
            if len(those) <= ALIKE:
                single += those
            else:
                chosen = busiest(those, SINGLE) if key in self._open else ()
                key_of |= {one: f"={one}" if one in chosen else key for one in those}
        chosen = busiest(single, MOST)
        key_of |= {one: f"={one}" if one in chosen else OTHERS for one in single}
        members: dict[str, list[int]] = {}
        for i, kernel_id in enumerate(ids):
            members.setdefault(key_of[kernel_id], []).append(i)
        self._key_of = key_of | {router_id: f"={router_id}" for router_id in routers}
        self._nodes = [Node(OUTSIDE, "outside", "outside", "", ())]
        for router_id, router in routers.items():
            self._nodes.append(Node(f"={router_id}", router_id, "router", router.strategy.replace("_", " "), ()))
        for key, places in members.items():
            name = "others" if key == OTHERS else key[1:] if key[0] == "=" else f"{key[1:]}*"
            self._nodes.append(Node(key, name, "kernel" if key[0] == "=" else "many", "", tuple(places)))

    def _busiest(self, frame: Frame) -> Any:
        """What chooses so many of some ids: those that have failed, and then those with the most messages."""
        busy: dict[str | None, float] = {}
        for edge, rate in self._per_second.items():
            for end in edge:
                busy[end] = busy.get(end, 0.0) + rate
        for node in self._nodes:  # who is shown stays, unless others are twice as busy
            if node.kind == "kernel":
                busy[node.name] = 2 * busy.get(node.name, 0.0) + 1e-9
        for i in np.flatnonzero(frame.rows["state"] == _FAILED).tolist():
            busy[frame.ids[i]] = math.inf
        total: dict[str | None, int] = {}
        for edge, n in self._counts.items():
            for end in edge:
                total[end] = total.get(end, 0) + n

        def busiest(ids: Sequence[str], most: int) -> set[str]:
            ranked = sorted(ids, key=lambda one: (-busy.get(one, 0.0), -total.get(one, 0)))
            return set(ranked[:most])

        return busiest

    def _between_nodes(self, counts: Counts) -> dict[tuple[str, str], Any]:
        between: dict[tuple[str, str], Any] = {}
        for (sender, target), n in counts.items():
            one, other = self._key_of.get(sender), self._key_of.get(target)
            if one is not None and other is not None:  # else it was launched since the frame was taken
                between[one, other] = between.get((one, other), 0) + n
        return between

    def _arrange(self) -> None:
        """Give places to what is new, and paths to the arrows, if anything has changed."""
        kernels = dict(self._runtime.kernels)
        # Those that begin again together; else those of one node of a cluster.
        groups: dict[str, SupervisionGroup | str] = {
            f"={name}": group for name, kernel in kernels.items() if (group := kernel._group or kernel.node) is not None
        }
        drawn_of = (
            [(node[:4], len(node.kernels)) for node in self._nodes],
            set(self._sent),
            {key: (group if isinstance(group, str) else id(group), _name_of(group)) for key, group in groups.items()},
        )
        if drawn_of == self._drawn_of:
            return
        self._drawn_of = drawn_of
        drawn = {(arrow.source, arrow.target) for arrow in self._arrows}
        edges = sorted(self._sent, key=lambda edge: (edge in drawn, self._sent[edge]), reverse=True)[:ARROWS]
        talking = {key for edge in edges for key in edge}
        self._layers.arrange([node.key for node in self._nodes if node.key in talking], edges, groups)
        places = self._layers.places
        self._arrows = _labelled([_arrow(one, other, places) for one, other in edges], places)
        self._groups = []
        for group in dict.fromkeys(groups.values()):
            own = sorted(places[key] for key, one in groups.items() if one == group and key in places)
            if own:
                x, y = _middle(own[0])
                corner = x - BOX[0] / 2 - 2, y - BOX[1] / 2 - 6
                self._groups.append({"name": _name_of(group), "hull": _hull(own), "at": corner})
        self._structure += 1

    def _table_html(self) -> str:
        name_of = {node.key: node.name for node in self._nodes}
        rows = []
        for (one, other), n in sorted(self._sent.items(), key=lambda item: -item[1])[:ROWS]:
            rate = self._rates.get((one, other))
            words = "–" if rate is None else f"{rate:,.1f}" if rate < 10 else f"{rate:,.0f}"
            rows.append((name_of[one], name_of[other], f"{n:,}", words))
        more = len(self._sent) - len(rows)
        note = f"and {more:,} more with fewer messages" if more else ""
        return table_html("Who sends to whom", ("from", "to", "messages", "a second"), rows, note)

    def _svg(self) -> str:
        """The graph as it was last seen; readable on light and dark pages."""
        places, grey = self._layers.places, "#7d8590"
        view = " ".join(map(str, _box(places)))
        parts = [
            f"<path d='{group['hull']}' fill='#8250df' fill-opacity='.08' stroke='#8250df' stroke-dasharray='5 3'/>"
            for group in self._groups
        ]
        for arrow in self._arrows:
            broad, (x, y, turn) = thickness(self._rates.get((arrow.source, arrow.target), 0.0)), arrow.tip
            half = 3.5 + 0.6 * broad
            parts.append(
                f"<path d='{arrow.path}' fill='none' stroke='{grey}' stroke-width='{broad:.1f}'/>"
                f"<path d='M0 0L{-TIP} {-half:.1f}V{half:.1f}z' fill='{grey}' "
                f"transform='translate({x:g} {y:g}) rotate({turn})'/>"
            )
        for node in self._nodes:
            if node.key in places:
                parts.append(_node_svg(node, _middle(places[node.key]), _numbers(node, self._rows)))
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='{view}' font-size='12' "
            f"text-anchor='middle' font-family='system-ui,sans-serif'>{''.join(parts)}</svg>"
        )


class Topology(Graph, LiveWidget):
    """What `topology` makes."""

    _esm = source("topology")
    _css = style("topology")

    def __init__(self, runtime: RingKernelRuntime, *, hz: float) -> None:
        if not isinstance(runtime, RingKernelRuntime):
            raise TypeError(f"topology takes a RingKernelRuntime, not {schema.shown(runtime)}")
        Graph.__init__(self, runtime)
        self._told = 0
        LiveWidget.__init__(self, RuntimeSource(runtime), hz=hz)

    def __repr__(self) -> str:
        return f"Topology(hz={self._hz:g})"

    @property
    def runtime(self) -> RingKernelRuntime:
        """The runtime that it shows."""
        return self._runtime

    def _rest(self) -> None:
        super()._rest()
        self._former.clear()

    # -- what the browser asks for: any thread -------------------------------------------------------------------------

    def _act(self, verb: str, kernel: str, arguments: dict[str, Any]) -> Make | str:
        schema.chosen("verb", verb, ["arrange"])
        with self._writing:
            if self._status != "live":  # no look would follow, and the last picture needs its places
                raise schema.RefusedError(f"this view is {self._status}: only a live one can be arranged anew")
            self._layers.forget()
            self._again()
        return "arranged anew"

    def _set(self, name: str, value: Any) -> None:
        if name != "open":
            super()._set(name, value)
        if not isinstance(value, list) or len(value) > MOST or not all(isinstance(key, str) for key in value):
            raise schema.RefusedError(f"open must be at most {MOST} keys of nodes, not {schema.shown(value)}")
        with self._writing:
            self._open = tuple(value)
            self._again()

    def _again(self) -> None:
        """Draw all anew, at once."""
        self._made_of = self._drawn_of = None
        if self._listening and self._status == "live":
            self._source.sampler.ignore(self._take)  # who begins to listen gets a frame at once
            self._listening = 0.0
            self._adapt()

    # -- sampling and sending: with the lock ---------------------------------------------------------------------------

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        rows, places = self._rows, self._layers.places
        content: dict[str, Any] = {
            "structure": self._structure,
            "graph": None,
            "kernels": len(rows),
            "leftOut": len(self._sent) - len(self._arrows),
            "open": list(self._open),
            "nodes": [_numbers(node, rows) for node in self._nodes],
            "sent": [self._sent.get((one.source, one.target), 0) for one in self._arrows],
            "rates": [self._rates.get((one.source, one.target)) for one in self._arrows],
        }
        if full or self._told != self._structure:
            self._told = self._structure
            content["graph"] = {
                "view": _box(places),
                "box": BOX,
                "nodes": [
                    {
                        "key": node.key,
                        "name": node.name,
                        "kind": node.kind,
                        "note": node.note,
                        "kernels": len(node.kernels),
                        "at": _middle(places[node.key]) if node.key in places else None,
                    }
                    for node in self._nodes
                ],
                "arrows": [arrow._asdict() for arrow in self._arrows],
                "groups": self._groups,
            }
        return content, []

    # -- the picture that stays ----------------------------------------------------------------------------------------

    def _picture(self) -> dict[str, str]:
        n, places = len(self._rows), self._layers.places
        states = np.bincount(self._rows["state"], minlength=len(STATES)).tolist()
        head = f"<b>{n:,} ring kernel{'s' * (n != 1)}</b> &ensp;{in_words(states)}"
        parts = [f"<div style='padding:4px 8px'>{head}</div>"]
        if self._arrows:
            image = base64.b64encode(self._svg().encode()).decode()
            alt = f"Who sends to whom among {n:,} ring kernels; the table below says it in words"
            parts.append(
                f"<img style='width:100%;max-width:{_box(places)[2]}px' alt='{alt}' "
                f"src='data:image/svg+xml;base64,{image}'>"
            )
            parts.append(self._table_html())
        quiet = [node.name for node in self._nodes if node.key not in places and node.key != OUTSIDE]
        if quiet:
            parts.append(f"<div style='padding:4px 8px'>no traffic: {escape(', '.join(quiet))}</div>")
        style = (
            "color:var(--jp-content-font-color1,inherit);font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif)"
        )
        return {"text/html": f"<div style='{style}'>{''.join(parts)}</div>"}


def _node_svg(node: Node, at: tuple[float, float], now: Mapping[str, Any]) -> str:
    (x, y), (wide, high) = at, BOX
    left, top = x - wide / 2, y - high / 2
    tone = _TONES.get(worst(now["states"]) or "", "#57606a")
    full = min(now["depth"] / now["bound"], 1.0) if now["bound"] else 0.0
    name = node.name if len(node.name) <= 20 else f"{node.name[:12]}…{node.name[-7:]}"
    times = f" ×{len(node.kernels):,}" if node.kind == "many" else ""
    dashes = " stroke-dasharray='4 3'" if node.kind == "outside" else ""
    rounding = high / 2 if node.kind == "router" else 7
    return (
        f"<rect x='{left:g}' y='{top:g}' width='{wide}' height='{high}' rx='{rounding:g}' fill='#f6f8fa' "
        f"stroke='{tone}' stroke-width='1.5'{dashes}/>"
        f"<rect x='{left + 1:g}' y='{top + 1:g}' width='{full * (wide - 2):.1f}' height='{high - 2}' rx='6' "
        f"fill='#b6d4fe'/>"
        f"<text x='{x:g}' y='{y - 3:g}' fill='#1f2328' font-weight='600'>{escape(name + times)}</text>"
        f"<text x='{x:g}' y='{y + 13:g}' fill='#424a53' font-size='11'>{escape(_below(node, now))}</text>"
    )


def _numbers(node: Node, rows: Any) -> dict[str, Any]:
    """What is known of a node's kernels; `bound` is 0 where there are none."""
    own = rows[list(node.kernels)]
    return {
        "states": np.bincount(own["state"], minlength=len(STATES)).tolist(),
        "depth": int(own["queue_depth"].sum()),
        "bound": int(own["queue_size"].sum()),
        "received": int(own["received"].sum()),
        "processed": int(own["processed"].sum()),
        "errors": int(own["errors"].sum()),
        "restarts": int(own["restarts"].sum()),
        "deadLetters": int(own["dead_letters"].sum()),
    }


def worst(states: Sequence[int]) -> str | None:
    """The state that most needs to be looked at, of so many kernels in each of `STATES`; None: there are none."""
    return next((state for state in _WORST if states[STATES.index(state)]), None)


def in_words(states: Sequence[int]) -> str:
    """``"98 active · 2 failed"``."""
    return " · ".join(f"{n:,} {STATE_WORDS[state]}" for n, state in zip(states, STATES, strict=True) if n)


def _below(node: Node, now: Mapping[str, Any]) -> str:
    """What stands below the name of a node; `static/topology.js` has the same."""
    state = worst(now["states"])
    if state is None:
        return node.note if node.kind == "router" else "cells and scripts"
    words = in_words(now["states"]) if node.kind == "many" else STATE_WORDS[state]
    return f"{words} · {now['depth']:,} queued" if now["depth"] else words


def thickness(rate: float) -> float:
    """Of an arrow with so many messages a second, in CSS pixels; `static/topology.js` has the same."""
    return min(1.2 + 1.1 * math.log10(1 + rate), 7.0)


# -- where things are drawn --------------------------------------------------------------------------------------------


def _middle(place: Place) -> tuple[float, float]:
    """Of a node, in pixels."""
    return MARGIN[0] + place.column * PITCH[0] + BOX[0] / 2, MARGIN[1] + place.row * PITCH[1] + BOX[1] / 2


def _box(places: Mapping[str, Place]) -> tuple[int, int, int, int]:
    """What an image of all shows: its left and upper edge, width and height in pixels.

    It begins with the first column in which there is something, which is another one while nothing comes from outside;
    on the right there is room for arrows within the last column.
    """
    columns = [place.column for place in places.values()] or [0]
    rows = max((place.row for place in places.values()), default=0.0)
    width = 2 * MARGIN[0] + (max(columns) - min(columns)) * PITCH[0] + BOX[0] + 50
    return min(columns) * PITCH[0], 0, width, math.ceil(2 * MARGIN[1] + rows * PITCH[1] + BOX[1])


Spots = list[tuple[float, float]]
"""Where the middle of an arrow's rate may stand, the best first."""


def _labelled(arrows: Sequence[tuple[Arrow, Spots]], places: Mapping[str, Place]) -> list[Arrow]:
    """The arrows, the most important first, with their rates where they cover neither each other nor a node."""
    wide, high = LABEL
    apart = [(x, y, (BOX[0] + wide) / 2, (BOX[1] + high) / 2 - 2) for x, y in map(_middle, places.values())]
    found = []
    for arrow, spots in arrows:
        for x, y in spots:
            if all(abs(x - other) >= dx or abs(y - 4 - middle) >= dy for other, middle, dx, dy in apart):
                apart.append((x, y - 4, wide, high))
                found.append(arrow._replace(label=(x, y)))
                break
        else:
            found.append(arrow._replace(free=False))
    return found


def _arrow(source: str, target: str, places: Mapping[str, Place]) -> tuple[Arrow, Spots]:
    """From one node to another; forward ones go out and come in a little higher than backward ones."""
    (x0, y0), (x1, y1), half = _middle(places[source]), _middle(places[target]), BOX[0] / 2
    if source == target:  # a loop above it
        x, y = x0 + half - 40, y0 - BOX[1] / 2
        path = f"M{x:g} {y:g}C{x:g} {y - 26:g} {x + 24:g} {y - 26:g} {x + 24:g} {y - TIP:g}"
        label = x - 26, y - 8
        return Arrow(source, target, path, (x + 24, y, 90), label), [label]
    first, last = places[source].column, places[target].column
    if first == last:  # around the right side
        right = x0 + half
        bend = right + 30 + 3 * min(abs(y1 - y0) / BOX[1], 8)
        path = f"M{right:g} {y0:g}C{bend:g} {y0:g} {bend:g} {y1:g} {right + TIP:g} {y1:g}"
        side = [(_curve(right, bend, bend, right + TIP, t), _curve(y0, y0, y1, y1, t)) for t in ALONG]
        return Arrow(source, target, path, (right, y1, 180), side[0]), side
    way = 1 if first < last else -1
    y0, y1 = y0 - 6 * way, y1 - 6 * way
    x, y = x0 + way * half, y0
    path = f"M{x:g} {y:g}"
    spots: Spots = []
    for column in range(first + way, last + way, way):
        if column == last:
            end, height, beyond = x1 - way * (half + TIP), y1, ""
        else:  # between the nodes of a column that it crosses
            middle = MARGIN[0] + column * PITCH[0] + half
            height = _gap(y0 + (y1 - y0) * (column - first) / (last - first), column, places)
            end, beyond = middle - way * half, f"H{middle + way * half:g}"
        bend, beside = (x + end) / 2, -5 if way > 0 else 13
        spots = [
            *((_curve(x, bend, bend, end, t), _curve(y, y, height, height, t) + beside) for t in ALONG),
            *spots,
        ]
        path += f"C{bend:g} {y:g} {bend:g} {height:g} {end:g} {height:g}{beyond}"
        x, y = end + way * BOX[0], height
    return Arrow(source, target, path, (x1 - way * half, y1, 0 if way > 0 else 180), spots[0]), spots


def _curve(a: float, b: float, c: float, d: float, t: float) -> float:
    """A coordinate of a cubic Bézier curve, at `t` from 0 to 1."""
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def _gap(wanted: float, column: int, places: Mapping[str, Place]) -> float:
    """The height nearest to the wanted one at which nothing stands in a column, in pixels."""
    room = BOX[1] / 2 + 7
    middles = [_middle(place)[1] for place in places.values() if place.column == column]
    free = [wanted, *(y + way * room for y in middles for way in (-1, 1))]
    return min(
        (y for y in free if all(abs(y - middle) > room - 0.01 for middle in middles)), key=lambda y: abs(y - wanted)
    )


def _name_of(group: SupervisionGroup | str) -> str:
    """What stands beside the frame around a group, or around the kernels of one node."""
    if isinstance(group, str):
        return f"on {group}"
    n = group.restarts
    return group.strategy.replace("_", " ") + (f", {n:,} restart{'s' * (n != 1)}" if n else "")


def _hull(places: Sequence[Place]) -> str:
    """A frame around each of these places, in their order; those of neighbours in a column are one."""
    runs: list[list[Place]] = []
    for place in places:
        last = runs[-1][-1] if runs else None
        if last is not None and last.column == place.column and place.row - last.row < 1.5:
            runs[-1].append(place)
        else:
            runs.append([place])
    path = ""
    for run in runs:
        (x, top), (_, bottom) = _middle(run[0]), _middle(run[-1])
        left, wide, begin, end = x - BOX[0] / 2 - 8, BOX[0] + 16, top - BOX[1] / 2 - 18, bottom + BOX[1] / 2 + 8
        path += f"M{left:g} {begin:g}h{wide}V{end:g}h{-wide}z"
    return path
