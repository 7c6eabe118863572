"""Events as sequence diagrams: static SVG, and the source of one for Mermaid."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from .clock import Stamp
from .html import _BLOCK, _GREEN, _INK2, _RED, duration, escape, printable
from .trace import Events, TracedDelivery, TraceEvent, _Key, message_text, one_line

Lane = tuple[str, str] | None
"""Node and id of a kernel; None: what is no kernel, the notebook for one."""

OUTSIDE = "outside"
LANES = 16
"""How many kernels have a lane of their own; the others share one."""
REST = ("", "")

_DRAWN = ("send", "start", "reply", "end", "drop", "crash", "restart", "state")


class Figure:
    """What a diagram shows of some events: the first `limit` of those that can be seen in it."""

    def __init__(self, events: Events, limit: int) -> None:
        everything, self.left_out_before = events._all()
        places = list(islice((i for i, e in enumerate(everything) if e.kind in _DRAWN), limit + 1))
        end = places[limit] if len(places) > limit else len(everything)
        self.left_out = len(everything) - end
        self.events = [e for e in everything[:end] if e.kind in _DRAWN]
        self.all = Events(everything)
        homes = list(dict.fromkeys(e.home for e in self.events))
        met = dict.fromkeys(lane for e in self.events for lane in _lanes_of(e))
        kernels = sorted((lane for lane in met if lane is not None), key=lambda lane: homes.index(lane[0]))
        self.nodes = nodes_of(self.events, kernels)
        self.lanes: list[Lane] = [*([None] if None in met else []), *kernels[:LANES]]
        self.others = len(kernels) - LANES
        if self.others > 0:
            self.lanes.append(REST)
        self._places = {lane: i for i, lane in enumerate(self.lanes)}

    def place(self, lane: Lane) -> int:
        return self._places.get(lane, len(self.lanes) - 1)

    def name(self, lane: Lane) -> str:
        """What a lane is called."""
        if lane is None:
            return OUTSIDE
        if lane == REST:
            return f"{self.others} other kernels" if self.others > 1 else "1 other kernel"
        return one_line(f"{self.nodes[lane]}/{lane[1]}" if lane in self.nodes else lane[1])

    @property
    def note_before(self) -> str:
        return f"{self.left_out_before:,} older events left out" if self.left_out_before else ""

    @property
    def note_after(self) -> str:
        return f"… {self.left_out:,} events left out" if self.left_out else ""


def nodes_of(events: Iterable[TraceEvent], kernels: Collection[tuple[str, str]]) -> dict[Lane, str]:
    """The nodes that are to be named: those of a cluster, and all where there are events of several processes."""
    seen: dict[Lane, dict[str, None]] = {}
    for e in events:
        if e.node != e.home:
            seen.setdefault((e.home, e.kernel_id), {})[e.node] = None
    several = len({home for home, _ in kernels}) > 1
    return {lane: ", ".join(seen.get(lane, (lane[0],))) for lane in kernels if several or lane in seen}


def _lanes_of(event: TraceEvent) -> Iterator[Lane]:
    if event.kind == "send" or event.answers is not None:
        yield _sender(event)
    yield event.home, event.kernel_id


def _sender(event: TraceEvent) -> Lane:
    """Where a message came from, and where the reply to it goes."""
    return None if event.source is None else (event.home, event.source)


def _mark_text(event: TraceEvent) -> str:
    """What to say of an event that has no arrow."""
    kind, _, reason = event.detail.partition(":")
    number = f"#{event.number} " if event.number is not None else ""
    if event.kind == "drop":
        return number + (reason.strip() if kind == "dropped" else event.detail)
    return event.detail.lower() if event.kind == "state" else event.detail


# -- Mermaid -----------------------------------------------------------------------------------------------------------


def mermaid(events: Events, limit: int) -> str:
    figure = Figure(events, limit)
    lines = ["sequenceDiagram"]
    for place, lane in enumerate(figure.lanes):
        lines.append(f"    participant k{place} as {_safe(figure.name(lane))}")
    everybody = "k0" if len(figure.lanes) < 2 else f"k0,k{len(figure.lanes) - 1}"
    if figure.lanes and figure.note_before:
        lines.append(f"    Note over {everybody}: {_safe(figure.note_before)}")
    for e in figure.events:
        here = f"k{figure.place((e.home, e.kernel_id))}"
        there = f"k{figure.place(_sender(e))}" if e.kind == "send" or e.answers is not None else here
        if e.kind == "send":
            lines.append(f"    {there}->>{here}: {_safe(f'{e.type} {e.number}')}")
        elif e.answers is not None:
            lines.append(f"    {here}-->>{there}: {_safe(f'{e.type} for {e.answers}')}")
        elif e.kind == "reply":
            lines.append(f"    Note right of {here}: {_safe(f'sends {e.type}')}")
        elif e.kind in ("drop", "crash", "restart", "state"):
            lines.append(f"    Note over {here}: {_safe('✕ ' * (e.kind == 'crash') + _mark_text(e))}")
    if not figure.lanes:
        lines += ["    participant k0 as outside", "    Note over k0: no events"]
    elif figure.note_after:
        lines.append(f"    Note over {everybody}: {_safe(figure.note_after)}")
    return "\n".join(lines) + "\n"


def _safe(text: str, length: int = 80) -> str:
    """A text for Mermaid: what may mean something to it, or to a page, by its code."""
    text = printable(one_line(text))
    text = text if len(text) <= length else text[: length - 1] + "…"
    text = re.sub(r"(?!: )[^\w ✕….,()/=-]", lambda found: f"#{ord(found[0])};", text)
    text = re.sub(r"wrap:", "wrap#58;", text, flags=re.IGNORECASE)  # which would be an instruction
    return re.sub(r"\bend\b", lambda found: f"#{ord(found[0][0])};{found[0][1:]}", text, flags=re.IGNORECASE)


# -- SVG ---------------------------------------------------------------------------------------------------------------

ROW, STEP = 26, 18
"""Pixels that an arrow or a mark takes, and the start of a handling that does not follow its arrow at once."""
GUTTER, HEAD = 64, 44
BAR = 10
"""Width of a bar."""
LETTER = 6.8
"""Width of a letter in a font that runs wide."""
REMIND = 620
"""Pixels after which the names of the lanes are written again."""

_FAINT = "color-mix(in srgb, currentColor 28%, transparent)"
_BLUE = "color-mix(in srgb, #2f6fde 75%, currentColor)"
_AMBER = "color-mix(in srgb, #b87a00 75%, currentColor)"

_CROSS = "M-4-4L4 4M4-4L-4 4"
_TURN = "M4.2-1.5A4.5 4.5 0 1 0 4.2 1.8M4.6-5v3.6h-3.6"
_SLASH = "M0-4.5A4.5 4.5 0 1 0 0 4.5A4.5 4.5 0 1 0 0-4.5M-3.2 3.2L3.2-3.2"
_DOT = "M0-3A3 3 0 1 0 0 3A3 3 0 1 0 0-3z"
_SHAPES = {"crash": (_CROSS, _RED), "drop": (_SLASH, _AMBER), "restart": (_TURN, _GREEN), "state": (_DOT, _INK2)}


class _Drawing:
    """The parts of an SVG, by what lies above what."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        lanes = len(figure.lanes)
        self.space = 196 if lanes <= 5 else 176 if lanes <= 12 else 156
        self.width = GUTTER + lanes * self.space + self.space // 2
        self.names: list[str] = []
        self.bars: list[str] = []
        self.marks: dict[str, list[str]] = {kind: [] for kind in ("send", "reply", "head", *_SHAPES)}
        self.texts: list[str] = []
        self.times: list[str] = []
        self.y = float(HEAD)
        self._reminded = self.y
        self._time = ""
        self._first = figure.events[0].time if figure.events else 0
        self._deliveries: dict[_Key, TracedDelivery] = {(d.node, d.number): d for d in figure.all.deliveries}
        self._rows: dict[Stamp, float] = {}

    def x(self, place: int) -> float:
        return GUTTER + (place + 0.5) * self.space

    def draw(self) -> None:
        previous: TraceEvent | None = None
        for e in self.figure.events:
            place = self.figure.place((e.home, e.kernel_id))
            if e.kind == "send":
                self._send(e, place)
            elif e.kind == "start":
                if previous is None or previous.kind != "send" or not _same(previous, e):
                    self._start(e, place)
            elif e.kind == "reply":
                self._reply(e, place)
            elif e.kind == "end":
                self.y += 8
            else:
                self._mark(e, place)
            self._rows[e.stamp] = self.y
            previous = e
        self.y += 12
        self._draw_bars()

    def _row(self, event: TraceEvent, height: int = ROW) -> float:
        """Where the next event is drawn."""
        if self.y - self._reminded > REMIND:
            self.y += ROW
            self._reminded = self.y
            for place, lane in enumerate(self.figure.lanes):
                name = _fit(self.figure.name(lane), self.space - 24, 7.2, in_the_middle=True)
                self.names.append(_text(self.x(place) + 10, self.y - 4, name))
        self.y += height
        after = "+" + duration((event.time - self._first) / 1e9) if event.time > self._first else "0"
        if after != self._time:
            self._time = after
            self.times.append(_text(GUTTER - 6, self.y + 3, after))
        return self.y

    def _send(self, event: TraceEvent, place: int) -> None:
        delivery = self._deliveries.get((event.home, event.number))
        waited = delivery.waited if delivery is not None else None
        title = f"#{event.number} to {event.kernel_id}: {message_text(event)}"
        if event.cause is not None:
            title += f"; sent while {event.source} was handling #{event.cause}"
        if waited is not None:
            title += f"; waited {duration(waited)}"
        self._arrow("send", event, self.figure.place(_sender(event)), place, event.type, waited, title)

    def _reply(self, event: TraceEvent, place: int) -> None:
        if event.answers is None:
            y = self._row(event)
            x = self.x(place) + BAR / 2
            self.marks["reply"].append(f"<path d='M{x:g} {y:g}h20'/>")
            self.marks["head"].append(f"<path d='M{x + 21:g} {y:g}l-6-3.5v7z'/>")
            self._label(x + 26, y + 4, self.space - 44, f"sends {event.type}", "", message_text(event), "start")
            return
        asked = self._deliveries.get((event.home, event.answers))
        took = (event.time - asked.sent) / 1e9 if asked is not None and asked.sent is not None else None
        title = f"reply of {event.kernel_id} to #{event.answers}: {message_text(event)}"
        if took is not None:
            title += f"; {duration(took)} after it was sent"
        self._arrow("reply", event, place, self.figure.place(_sender(event)), event.type, took, title)

    def _arrow(
        self, kind: str, event: TraceEvent, source: int, target: int, name: str, seconds: float | None, title: str
    ) -> None:
        y = self._row(event)
        a, b = self.x(source), self.x(target)
        number = event.number if kind == "send" else event.answers
        after = "" if seconds is None else duration(seconds)
        if source == target:
            self.marks[kind].append(f"<path d='M{a + 5:g} {y - 12:g}h14q6 0 6 6t-6 6h-8'/>")
            self.marks["head"].append(f"<path d='M{a + 6:g} {y:g}l6-3.5v7z'/>")
            self._label(a + 30, y - 2, self.space - 50, f"#{number} {name}", after, title, "start")
            return
        way = 1 if b > a else -1
        self.marks[kind].append(f"<path d='M{a + way * 5:g} {y:g}H{b - way * 10:g}'/>")
        self.marks["head"].append(f"<path d='M{b - way * 5:g} {y:g}l{-way * 6}-3.5v7z'/>")
        self._label(a + way * self.space / 2, y - 5, self.space - 22, f"#{number} {name}", after, title, "middle")

    def _start(self, event: TraceEvent, place: int) -> None:
        y = self._row(event, STEP)
        title = f"{event.kernel_id} takes #{event.number}: {message_text(event)}"
        again = f"try {event.attempts + 1}" if event.attempts else ""
        self._label(self.x(place) + 10, y + 4, self.space - 26, f"#{event.number} {event.type}", again, title, "start")

    def _mark(self, event: TraceEvent, place: int) -> None:
        y = self._row(event, ROW if event.kind != "state" else STEP)
        x = self.x(place) + (12 if event.kind == "drop" else 0)  # the kernel goes on with what it has in hand
        self.marks[event.kind].append(f"<path transform='translate({x:g} {y:g})' d='{_SHAPES[event.kind][0]}'/>")
        text = _mark_text(event)
        title = f"{event.kernel_id}: {text}" + (f": {message_text(event)}" if event.kind == "drop" else "")
        self._label(x + 10, y + 4, self.space - 38, text, "", title, "start", event.kind)

    def _label(
        self, x: float, y: float, room: float, text: str, after: str, title: str, anchor: str, kind: str = ""
    ) -> None:
        """A text of at most that width, with a figure behind it if there is room for both, and all of it as a hint."""
        text = one_line(text)
        if after and _width(text) + _width(after) + 8 > room < _width(after) + 8 + 14 * LETTER:
            after = ""  # little of the text would be left
        text = _fit(text, room - (_width(after) + 8 if after else 0))
        colour = f" fill='currentColor' style='fill:{_SHAPES[kind][1]}'" if kind else ""
        figure = f" <tspan style='fill:{_INK2}'>{after}</tspan>" if after else ""
        side = " text-anchor='middle'" if anchor == "middle" else ""
        title = printable(title if len(title) <= 300 else title[:299] + "…")
        self.texts.append(
            f"<text x='{x:g}' y='{y:g}'{side}{colour}><title>{escape(title)}</title>{escape(text)}{figure}</text>"
        )

    def _draw_bars(self) -> None:
        free = dict.fromkeys(range(len(self.figure.lanes)), 0.0)
        for start, _, end in Events(self.figure.events).handlings:
            place = self.figure.place((start.home, start.kernel_id))
            if self.figure.lanes[place] == REST:
                continue
            top = max(self._rows[start.stamp], free[place])
            bottom = self.y if end is None else self._rows[end.stamp] - (0 if end.kind == "end" else 8)
            free[place] = bottom
            delivery = self._deliveries[start.home, start.number]
            title = f"{start.kernel_id} handles #{start.number}: {message_text(start)}"
            if delivery.handled is not None:
                title += f"; {delivery.fate} after {duration(delivery.handled)}"
            look = "" if end is None or end.kind == "end" else f" style='fill:{_RED}'"
            look += " fill-opacity='.45'" if end is None else ""
            self.bars.append(
                f"<rect x='{self.x(place) - BAR / 2:g}' y='{top:g}' width='{BAR}' height='{max(bottom - top, 3):g}' "
                f"rx='2'{look}><title>{escape(title)}</title></rect>"
            )


def svg(events: Events, limit: int) -> str:
    figure = Figure(events, limit)
    drawing = _Drawing(figure)
    drawing.draw()
    y, width = drawing.y, float(drawing.width)
    heads, lines = [], []
    for place, lane in enumerate(figure.lanes):
        x, room = drawing.x(place), drawing.space - 16
        name = figure.name(lane)
        dashed = " stroke-dasharray='3 3'" if lane in (None, REST) else ""
        node = figure.nodes.get(lane, "")
        shown = [node, lane[1]] if lane is not None and node else [name]
        first = HEAD / 2 + (-1 if len(shown) == 2 else 4)
        heads.append(
            f"<g><title>{escape(name)}</title><rect x='{x - room / 2:g}' y='4' width='{room}' "
            f"height='{HEAD - 8}' rx='5' fill='none' stroke='currentColor' style='stroke:{_FAINT}'{dashed}/>"
            + "".join(
                _text(x, first + 13 * i, _fit(one_line(text), room - 12, 7.8 if i == len(shown) - 1 else 6.5, True),
                      "" if i == len(shown) - 1 else f"font-size='10.5' font-weight='400' style='fill:{_INK2}'")
                for i, text in enumerate(shown)
            )
            + "</g>"
        )  # fmt: skip
        lines.append(f"<path d='M{x:g} {HEAD - 4}V{y:g}'{dashed}/>")
    notes = [note for note in (figure.note_before, figure.note_after) if note]
    if any(e.kind in ("send", "reply") for e in figure.events):
        notes += ["solid: a message, and how long it waited", "dashed: a reply, and how long after its question"]
    foot = "".join(_text(GUTTER, y + 16 + 18 * i, note) for i, note in enumerate(notes))
    if not figure.lanes:
        foot, width = _text(8, HEAD / 2 + 4, "no events"), 120
    width = max([width, *(GUTTER + _width(note) for note in notes)])
    height = y + 8 + 18 * len(notes)
    muted = f"fill='currentColor' style='fill:{_INK2}'"
    groups = [
        (f"fill='none' stroke='currentColor' style='stroke:{_FAINT}'", lines),
        ("fill='currentColor' font-size='12' font-weight='600' text-anchor='middle'", heads),
        (f"{muted} font-size='10.5' font-weight='600'", drawing.names),
        (f"fill='#2f6fde' style='fill:{_BLUE}'", drawing.bars),
        ("fill='none' stroke='currentColor' stroke-width='1.2'", drawing.marks["send"]),
        ("fill='none' stroke='currentColor' stroke-width='1.2' stroke-dasharray='4 3'", drawing.marks["reply"]),
        ("fill='currentColor'", drawing.marks["head"]),
        *(
            (f"fill='none' stroke='currentColor' stroke-width='1.8' style='stroke:{colour}'", drawing.marks[kind])
            for kind, (_, colour) in _SHAPES.items()
        ),
        ("fill='currentColor' font-size='11'", drawing.texts),
        (f"{muted} font-size='10' text-anchor='end'", drawing.times),
        (f"{muted} font-size='11'", [foot] if foot else []),
    ]
    parts = "".join(f"<g {look}>{''.join(shapes)}</g>" for look, shapes in groups if shapes)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:g}' height='{height:g}' "
        f"viewBox='0 0 {width:g} {height:g}' role='img' aria-label='{escape(events.caption)}' "
        f"font-family='system-ui,sans-serif' style='{_LOOK}'>{parts}</svg>"
    )


_LOOK = (
    "color:var(--jp-content-font-color1,inherit);font-family:var(--jp-ui-font-family,system-ui,sans-serif);"
    "font-variant-numeric:tabular-nums"
)


def page(events: Events, limit: int) -> str:
    """The diagram for a notebook, below a line about the events."""
    return (
        f"<div style='{_BLOCK}'><div style='padding:4px 8px'><b>Trace</b> &ensp;<span style='color:{_INK2}'>"
        f"{escape(events.caption)}</span></div>"
        f"<div style='overflow:auto;max-height:640px'>{svg(events, limit)}</div></div>"
    )


def _same(one: TraceEvent, other: TraceEvent) -> bool:
    return (one.home, one.number) == (other.home, other.number)


def _text(x: float, y: float, text: str, look: str = "") -> str:
    return f"<text x='{x:g}' y='{y:g}'{look and ' ' + look}>{escape(text)}</text>"


def _width(text: str, letter: float = LETTER) -> float:
    """Pixels that a text takes, about: fonts differ."""
    return sum(letter if ord(c) < 0x1100 else 2 * letter for c in text)


def _fit(text: str, room: float, letter: float = LETTER, in_the_middle: bool = False) -> str:
    """A text that is no wider; of ids that are long the ends tell which is which."""
    if _width(text, letter) <= room:
        return text
    while text and _width(text, letter) + letter > room:
        half = len(text) // 2
        text = text[:half] + text[half + 1 :] if in_the_middle else text[:-1]
    half = (len(text) + 1) // 2
    return text[:half] + "…" + text[half:] if in_the_middle else text + "…"
