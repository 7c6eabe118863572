"""Events in the Trace Event Format, which Perfetto and Chrome's own viewer open.

The format: "Trace Event Format", Google, 2016; the phases used here are M (names), X (slices), s and f (arrows), i
(instants) and C (counters). Times are microseconds, here since the first event.
"""

from __future__ import annotations

import json
from itertools import pairwise
from operator import itemgetter
from typing import Any

from .diagram import nodes_of
from .trace import Events, Handling, TraceEvent, message_text, one_line

OUTSIDE = 0
"""The track of what is no kernel."""
TICK = 1.0
"""Microseconds that a slice lasts which only marks where an arrow begins or ends; less where the next one is nearer."""


def chrome(events: Events) -> str:
    """The JSON text."""
    return json.dumps(
        {
            "traceEvents": list(_Export(events).rows()),
            "displayTimeUnit": "ns",
            "otherData": {"left_out": events.left_out},
        },
        separators=(",", ":"),
    )


class _Export:
    def __init__(self, events: Events) -> None:
        self._events = Events(*events._all())
        nodes = dict.fromkeys(e.home for e in self._events)
        self._processes = {node: i for i, node in enumerate(nodes, 1)}
        self._tracks: dict[tuple[str, str], int] = {}
        for e in self._events:
            for kernel_id in (e.source, e.kernel_id):
                if kernel_id is not None and (e.home, kernel_id) not in self._tracks:
                    self._tracks[e.home, kernel_id] = len(self._tracks) + 1
        self._nodes = nodes_of(self._events, self._tracks)
        self._first = min((e.time for e in self._events), default=0)
        self._outside: dict[str, list[dict[str, Any]]] = {node: [] for node in nodes}  # slices there, in order

    def _at(self, time: int) -> float:
        return (time - self._first) / 1000

    def _place(self, node: str, kernel_id: str | None) -> dict[str, Any]:
        track = OUTSIDE if kernel_id is None else self._tracks[node, kernel_id]
        return {"pid": self._processes[node], "tid": track}

    def rows(self) -> list[dict[str, Any]]:
        rows = self._names()
        begun: dict[tuple[str, int | None, int], float] = {}
        last = max((e.time for e in self._events), default=0)
        for handling in self._events.handlings:
            start = handling.start
            begun[start.home, start.number, start.attempts] = self._at(handling.begun)
            rows.append(self._slice(handling, last))
        depth: dict[tuple[str, str], set[int | None]] = {}
        for e in self._events:
            at = self._at(e.time)
            if e.kind == "send":
                if (arrival := begun.get((e.home, e.number, 0))) is not None:
                    rows += self._arrow(e, "message", f"m{e.number}", e.source, at, e.kernel_id, arrival)
            elif e.kind == "reply" and e.answers is not None:
                rows += self._arrow(e, "reply", f"r{e.number}.{e.stamp.wall}.{e.stamp.logical}", e.kernel_id, at,
                                    e.source, at)  # fmt: skip
            elif e.kind in ("drop", "crash", "restart", "state"):
                rows.append(
                    {"ph": "i", "name": e.kind if e.kind != "state" else _clean(e.detail.lower()), "cat": e.kind,
                     "ts": at, "s": "t", "args": _arguments(e), **self._place(e.home, e.kernel_id)}
                )  # fmt: skip
            queued = depth.setdefault((e.home, e.kernel_id), set())
            before = len(queued)
            if e.kind == "enqueue":
                queued.add(e.number)
            elif e.kind in ("start", "drop"):
                queued.discard(e.number)
            if len(queued) != before:
                rows.append(
                    {"ph": "C", "name": f"queue of {_clean(e.kernel_id)}", "ts": at,
                     "pid": self._processes[e.home], "args": {"messages": len(queued)}}
                )  # fmt: skip
        for slices in self._outside.values():
            slices.sort(key=itemgetter("ts"))
            for one, following in pairwise(slices):
                one["dur"] = min(TICK, following["ts"] - one["ts"])
            rows += slices
        return rows

    def _names(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []

        def name(what: str, place: dict[str, Any], value: dict[str, Any]) -> None:
            rows.append({"ph": "M", "name": what, **place, "args": value})

        for node in self._processes:
            name("process_name", self._place(node, None), {"name": f"ring kernels of {_clean(node)}"})
            name("thread_name", self._place(node, None), {"name": "outside"})
            name("thread_sort_index", self._place(node, None), {"sort_index": 0})
        for (node, kernel_id), track in self._tracks.items():
            elsewhere = self._nodes.get((node, kernel_id), node)
            where = f" on {elsewhere}" if elsewhere != node else ""
            name("thread_name", self._place(node, kernel_id), {"name": _clean(kernel_id + where)})
            name("thread_sort_index", self._place(node, kernel_id), {"sort_index": track})
        return rows

    def _slice(self, handling: Handling, last: int) -> dict[str, Any]:
        start, begun, end = handling
        return {
            "ph": "X",
            "name": _clean(start.type),
            "cat": "handling",
            "ts": self._at(begun),
            "dur": (max((last if end is None else end.time) - begun, 0)) / 1000,
            **self._place(start.home, start.kernel_id),
            "args": {**_arguments(start), "ends with": "nothing yet" if end is None else end.kind},
        }

    def _arrow(
        self, e: TraceEvent, kind: str, name: str, source: str | None, at: float, target: str | None, arrival: float
    ) -> list[dict[str, Any]]:
        """From one slice to another; outside of the kernels short ones are made for it."""
        node = e.home
        for kernel_id, time, word in ((source, at, "sends"), (target, arrival, "gets")):
            if kernel_id is None:
                self._outside[node].append(
                    {"ph": "X", "name": f"{word} {_clean(e.type)}", "cat": kind, "ts": time, "dur": TICK,
                     **self._place(node, None), "args": _arguments(e)}
                )  # fmt: skip
        shared = {"name": kind, "cat": kind, "id": f"{self._processes[node]}.{name}"}
        return [
            {"ph": "s", **shared, "ts": at, **self._place(node, source)},
            {"ph": "f", "bp": "e", **shared, "ts": arrival, **self._place(node, target)},
        ]


def _arguments(event: TraceEvent) -> dict[str, Any]:
    """What the viewer shows of a slice that is clicked."""
    known = {
        "delivery": event.number,
        "caused by": event.cause,
        "sent by": event.source,
        "answers": event.answers,
        "attempts": event.attempts or None,
        "message": message_text(event) or None,
        "message_id": None if event.message_id is None else str(event.message_id),
        "detail": event.detail or None,
    }
    return {
        name: _clean(value) if isinstance(value, str) else value for name, value in known.items() if value is not None
    }


def _clean(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= 500 else text[:499] + "…"
