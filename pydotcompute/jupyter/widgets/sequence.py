"""A trace as a sequence diagram that follows what is recorded: who sends what to whom, and what becomes of it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from reprlib import Repr
from typing import Any

from ...telemetry import Frame
from ...telemetry.diagram import _DRAWN, OUTSIDE, Lane, _lanes_of, _mark_text, _sender, nodes_of
from ...telemetry.html import _plural, duration, escape
from ...telemetry.trace import Events, Trace, TraceEvent, one_line
from ..reports import short_errors
from ..schema import RefusedError, shown
from .live import LiveWidget, OwnSource, source, style

MOST = 1000
"""How many messages are drawn at most, whatever is asked for."""
DEPTH = 8
"""Events that are looked at for each message that may be drawn: a message that is asked and answered makes five."""
SEARCHED = 4_000, 20_000
"""Events that are searched for what passes a filter, of a trace that records, and of one at rest."""
LANES = 40
"""How many kernels have a lane of their own; the others share one."""
NAMES = 500
"""How many kernels and types there are to choose from."""
AHEAD = 4_000
"""Events in which it is looked what became of the selected message."""
CAUSED = 20
"""How many of the messages that it caused are named."""
PICTURED = 120
"""Events in the picture that stays in the notebook."""
LONGEST = 2_000
"""Characters of a message that are shown."""

_FIELDS = ("kernel", "type", "text")
_MARKS = ("crash", "drop", "restart", "state")
_Key = tuple[str, int | None]


@short_errors
def sequence(trace: Events, *, hz: float = 5.0, limit: int = 200) -> SequenceView:
    """A live sequence diagram of a trace: its newest messages, what became of them, and what is in each of them.

    Make it the last expression of a cell. A trace that records moves; one at rest, or a stretch of events, is a still
    picture with the same controls. Click a message to see all of it.

    Args:
        trace: what `runtime.trace()` returns, or `Events` of one.
        hz: pictures a second while it is in sight (0 < hz <= 20).
        limit: messages drawn at most (1 to 1,000), the newest ones unless the reader goes back.

    Raises:
        TypeError: something else than a trace.
        ValueError: a number out of range.
    """
    return SequenceView(trace, hz=hz, limit=limit)


def checked_limit(limit: Any) -> int:
    """How many messages are drawn.

    Raises:
        ValueError: it is no integer from 1 to `MOST`.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST:
        raise ValueError(f"limit must be an integer from 1 to {MOST:,}, not {shown(limit)}")
    return limit


class _Source(OwnSource):
    """A trace moves no more once its runtime is closed; what was recorded can still be looked through."""

    def __init__(self, trace: Events) -> None:
        super().__init__()
        self._runtime = getattr(trace, "_runtime", None)

    @property
    def closed(self) -> bool:
        return getattr(self._runtime, "closed", False)


class SequenceView(LiveWidget):
    """What `sequence` makes."""

    _esm = source("sequence")
    _css = style("sequence")

    def __init__(self, trace: Any, *, hz: float, limit: int) -> None:
        if not isinstance(trace, Events):
            raise TypeError(
                f"sequence() takes a trace, not type {type(trace).__name__}; to get one: "
                f"with runtime.trace() as trace: sequence(trace)"
            )
        self._trace = trace
        self._limit = checked_limit(limit)
        self._kept: Events | None = None  # the events of a picture that does not move
        self._upto = 0  # events recorded when it was looked
        self._until: int | None = None
        self._filter = dict.fromkeys(_FIELDS, "")
        self._selected: int | None = None
        self._order: dict[Lane, None] = {}  # kernels as first seen
        self._types: dict[str, None] = {}
        self._messages = self._counted = self._told = 0
        self._missed = False  # whether the trace forgot some before they were counted
        self._drawn = Events()
        self._chosen: dict[str, Any] | None = None
        self._over = False  # nothing more becomes of the selected message
        self._made_of: tuple[Any, Any] | None = None  # what the picture was made of
        self._content_now: dict[str, Any] = {}
        self._revision = 0
        super().__init__(_Source(trace), hz=hz)

    def __repr__(self) -> str:
        return f"SequenceView(hz={self._hz:g}, limit={self._limit})"

    @property
    def trace(self) -> Events:
        """What it shows."""
        return self._trace

    @property
    def limit(self) -> int:
        """Messages drawn at most."""
        return self._limit

    # -- what the browser asks for: any thread -------------------------------------------------------------------------

    def _set(self, name: str, value: Any) -> None:
        with self._writing:
            match name:
                case "limit":
                    try:
                        self._limit = checked_limit(value)
                    except ValueError as error:
                        raise RefusedError(str(error)) from None
                case "until":
                    if value is not None and (type(value) is not int or value < 0):
                        raise RefusedError(f"until must be the number of an event, or null; not {shown(value)}")
                    self._until = value
                case "filter":
                    if (
                        not isinstance(value, dict)
                        or not value.keys() <= set(_FIELDS)
                        or not all(isinstance(text, str) and len(text) <= 200 for text in value.values())
                    ):
                        raise RefusedError(f"filter has texts as {', '.join(_FIELDS)}; not {shown(value)}")
                    self._filter = dict.fromkeys(_FIELDS, "") | value
                case "selected":
                    if value is not None and (type(value) is not int or not self._event(value)):
                        raise RefusedError(f"the trace keeps no event {shown(value)} any more: select another message")
                    self._selected, self._over, self._chosen = value, False, None
                case _:
                    super()._set(name, value)
            self._snapshot = True  # also where nothing else would send a frame
            self._adapt()

    # -- sampling and sending: with the lock ---------------------------------------------------------------------------

    @property
    def _shown(self) -> Events:
        return self._trace if self._kept is None else self._kept

    @property
    def _word(self) -> str | None:
        """What it is if it does not move."""
        if not isinstance(self._trace, Trace):
            return "recorded"
        return None if self._trace.recording and not self._source.closed else "not recording"

    def _look(self, frame: Frame) -> None:
        # A picture that stays needs its events also when the trace has forgotten them.
        self._kept = None if self._status == "live" else self._trace._stretch(len(self._trace))
        self._upto = self._trace.recorded

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        changed = self._make()
        news, self._told = self._upto - self._told, self._upto
        fields: dict[str, Any] = {
            "hz": self._hz,
            "live": self._word,
            "still": not isinstance(self._trace, Trace),
            "recorded": self._upto,
            "oldest": self._shown.left_out,
            "news": news,
            "messages": self._messages,
            "missed": self._missed,
            "revision": self._revision,
            "picture": self._content_now if changed or full else None,
        }
        return fields, []

    def _make(self) -> bool:
        """Bring the picture up to date; whether it has become another."""
        self._missed = self._missed or self._shown.left_out > self._counted
        self._messages += self._shown._count("send", self._counted, self._upto)
        self._counted = self._upto
        until = self._upto if self._until is None else min(self._until, self._upto)
        # What was until then stays as it was, also when the trace has forgotten it.
        made_of = (until, self._kept is None, self._until is None, self._limit, *self._filter.values())
        chosen = self._look_at_selected()
        if (made_of, chosen) == self._made_of:
            return False
        if self._made_of is None or made_of != self._made_of[0]:
            self._draw(until)
        self._made_of = made_of, chosen
        self._content_now |= {"selected": self._selected, "chosen": chosen}
        self._revision += 1
        return True

    def _draw(self, until: int) -> None:
        filtering = any(self._filter.values())
        depth = self._limit * DEPTH + 200
        if filtering:
            depth = max(depth, SEARCHED[self._word is not None or self._kept is not None])
        stretch = self._shown._stretch(depth, until)
        self._meet(stretch)
        numbered = list(enumerate(stretch, stretch.left_out))
        numbered.sort(key=lambda one: one[1].stamp)  # word of what happens on nodes of a cluster comes later
        if filtering:
            numbered = passing(numbered, self._filter)
        places = newest_messages(numbered, self._limit)
        if len(places) == self._limit:
            numbered = numbered[places[-1] :]
        numbered = [(at, e) for at, e in numbered if e.kind in _DRAWN]
        self._drawn = Events([e for _, e in numbered], numbered[0][0] if numbered else stretch.left_out)
        self._content_now = {
            "limit": self._limit,
            "until": self._until,
            "filter": self._filter,
            "searched": len(stretch) if filtering else None,
            "begin": stretch.left_out,
            "end": stretch.left_out + len(stretch),
            "count": len(places),
            "kernels": [_name(lane) for lane in self._order if lane is not None],
            "types": list(self._types),
            **strip(numbered, self._order, filtering),
        }

    def _meet(self, events: Events) -> None:
        """Notice kernels and types, in the order in which they are seen."""
        for e in events:
            for lane in _lanes_of(e):
                if lane not in self._order and len(self._order) < NAMES:
                    self._order[lane] = None
            if e.type and e.kind == "send" and e.type not in self._types and len(self._types) < NAMES:
                self._types[e.type] = None

    def _event(self, at: int) -> TraceEvent | None:
        """The event of that number in the order of recording, while it is kept."""
        found = self._shown._stretch(1, at + 1)
        return found[0] if len(found) and found.left_out == at else None

    def _look_at_selected(self) -> dict[str, Any] | None:
        """What there is to say of the selected message; what was seen of it stays."""
        at = self._selected
        if at is not None and not self._over and (event := self._event(at)) is not None:
            rest = self._shown._stretch(min(AHEAD, self._upto - at), min(at + AHEAD, self._upto))
            self._chosen, self._over = chosen(event, list(enumerate(rest, rest.left_out)))
        return self._chosen

    def _picture(self) -> dict[str, str]:
        self._make()
        drawn = self._drawn[-PICTURED:]
        drawn = Events(drawn, self._drawn.left_out + len(self._drawn) - len(drawn))
        if not len(drawn):
            image = ""
        else:
            # It brings its own background: an image knows nothing of the page's colours.
            data = base64.b64encode(drawn.to_svg(limit=PICTURED).encode()).decode()
            image = (
                f"<div style='overflow:auto;max-height:640px'><img style='display:block;max-width:none;background:#fff;"
                f"color-scheme:light;border-radius:6px' alt='{escape(self._words())}' "
                f"src='data:image/svg+xml;base64,{data}'></div>"
            )
        words = (
            f"<div style='padding:4px 8px'><b>Sequence</b> &ensp;<span style='color:{_INK2}'>"
            f"{escape(self._words())}</span></div>"
        )
        font = "font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif)"
        return {"text/html": f"<div style='color:var(--jp-content-font-color1,inherit);{font}'>{words}{image}</div>"}

    def _words(self) -> str:
        """What the picture shows, in a line."""
        count = self._content_now["count"]
        if not len(self._drawn):
            return f"{_plural(self._upto, 'event')} recorded, no message to show"
        left = max(self._messages - count, 0)
        crashes = sum(e.kind == "crash" for e in self._drawn)
        words = f"{_plural(count, 'message')} shown, {'at least ' * self._missed}{left:,} left out"
        words += f"; {crashes:,} crash{'es' * (crashes != 1)}" if crashes else ""
        filters = [f"{name} {text!r}" for name, text in self._filter.items() if text]
        return words + (f"; only {', '.join(filters)}" if filters else "")


_INK2 = "color-mix(in srgb, currentColor 72%, transparent)"

# -- what is drawn -----------------------------------------------------------------------------------------------------

Numbered = list[tuple[int, TraceEvent]]
"""Events with their numbers in the order of recording."""


def newest_messages(events: Numbered, limit: int) -> list[int]:
    """Where the first event of each of the newest messages stands, the newest first.

    Where there is a backlog, what is handled now was sent long ago: then it is shown as it is taken.
    """
    sent = {(e.home, e.number) for _, e in events if e.kind == "send"}
    places: list[int] = []
    taken: set[_Key] = set()
    for place in range(len(events) - 1, -1, -1):
        e = events[place][1]
        key = (e.home, e.number)
        if e.kind == "send" or (e.kind == "start" and key not in sent and key not in taken):
            taken.add(key)
            places.append(place)
            if len(places) == limit:
                break
    return places


def passing(events: Numbered, wanted: dict[str, str]) -> Numbered:
    """The messages to or from a kernel, of a type, with a text in them, with all that became of them; marks alike."""
    needle = wanted["text"].lower()
    tests: list[Callable[[TraceEvent], bool]] = []
    if kernel := wanted["kernel"]:
        tests.append(lambda e: kernel in (e.kernel_id, e.source))
    if type_ := wanted["type"]:
        tests.append(lambda e: e.type == type_)
    if needle:
        tests.append(lambda e: needle in f"{e.type} {e.detail} {full_text(e.message)}".lower())
    kept: Numbered = []
    found: set[_Key] = set()
    for at, e in events:
        key = (e.home, e.answers if e.kind == "reply" and e.answers is not None else e.number)
        known = key[1] is not None and key in found
        if not known and e.kind in ("send", "start", *_MARKS) and all(test(e) for test in tests):
            known = True
            if e.kind in ("send", "start"):
                found.add(key)
        if known:
            kept.append((at, e))
    return kept


def strip(events: Numbered, order: dict[Lane, None], filtering: bool) -> dict[str, Any]:
    """The lanes, and each event as ``[number, kind, seconds, …]``; `static/sequence.js` draws them from top to bottom.

    ====== =======================================================
    send   from lane, to lane, type, waited, delivery, fate
    reply  from lane, to lane or null, type, took, delivery
    start  lane, delivery, type, attempts
    end    lane, delivery
    others lane, delivery, words
    ====== =======================================================
    """
    there = {lane for _, e in events for lane in _lanes_of(e)}
    known = [lane for lane in order if lane in there] if filtering or len(order) > LANES else list(order)
    kernels = [lane for lane in (*known, *(there - order.keys())) if lane is not None]
    lanes = [*([None] if None in (there if filtering else known) else []), *kernels[:LANES]]
    others = len(kernels) - LANES
    place = {lane: i for i, lane in enumerate(lanes)}
    nodes = nodes_of((e for _, e in events), kernels)
    names = [{"name": OUTSIDE if lane is None else _name(lane), "node": nodes.get(lane, "")} for lane in lanes]
    if others > 0:
        names.append({"name": f"{others:,} other{'s' * (others > 1)}", "node": ""})
    sent: dict[_Key, int] = {}
    taken: dict[_Key, int] = {}
    fates: dict[_Key, str] = {}
    for _, e in events:
        key = (e.home, e.number)
        if e.kind == "send":
            sent[key] = e.time
        elif e.kind == "start":
            taken.setdefault(key, e.time)
            fates[key] = "in hand"
        elif e.kind in ("end", "crash", "drop") and e.number is not None:
            fates[key] = {"end": "handled", "crash": "failed"}.get(e.kind, "lost")
    first = events[0][1].time if events else 0
    items = []
    for at, e in events:
        lane = place.get((e.home, e.kernel_id), len(lanes))
        key = (e.home, e.number)
        item: list[Any] = [at, e.kind, (e.time - first) / 1e9]
        if e.kind == "send":
            waited = (taken[key] - e.time) / 1e9 if key in taken else None
            item += [place.get(_sender(e), len(lanes)), lane, e.type, waited, e.number, fates.get(key, "waiting")]
        elif e.kind == "reply":
            asked = sent.get((e.home, e.answers))
            target = None if e.answers is None else place.get(_sender(e), len(lanes))
            item += [lane, target, e.type, None if asked is None else (e.time - asked) / 1e9, e.answers]
        elif e.kind == "start":
            item += [lane, e.number, e.type, e.attempts]
        elif e.kind == "end":
            item += [lane, e.number]
        else:
            item += [lane, e.number, one_line(_mark_text(e))[:300]]
        items.append(item)
    return {"lanes": names, "items": items}


def _name(lane: Lane) -> str:
    return OUTSIDE if lane is None else one_line(lane[1])


# -- the selected message ----------------------------------------------------------------------------------------------

_whole = Repr()
_whole.maxstring = _whole.maxother = _whole.maxlong = LONGEST
_whole.maxlist = _whole.maxtuple = _whole.maxdict = _whole.maxset = _whole.maxfrozenset = _whole.maxdeque = 100
_whole.maxarray = 100


def full_text(message: Any) -> str:
    """A message in at most `LONGEST` characters; nothing where there is none."""
    if message is None:
        return ""
    try:
        text = _whole.repr(message)
    except Exception as error:  # noqa: BLE001  # of the message's own methods
        return f"<{type(message).__name__}, whose repr() raised {type(error).__name__}>"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def chosen(event: TraceEvent, rest: Numbered) -> tuple[dict[str, Any], bool]:
    """What there is to say of an event, in words; whether that stays so. `rest` are those from it on."""
    key = (event.home, event.number)
    facts: list[tuple[str, str]] = []
    caused: list[dict[str, Any]] = []
    over = True
    if event.kind in ("send", "start") and event.number is not None:
        own = [e for _, e in rest if (e.home, e.number) == key]
        (what,) = Events(own).deliveries
        facts += [("from", event.source or OUTSIDE), ("to", event.kernel_id), ("what became of it", what.fate)]
        facts += [("caused by", f"#{event.cause}")] if event.cause is not None else []
        starts = [e.time for e in own if e.kind == "start"]
        if what.sent is not None and starts:
            facts.append(("waited", duration((starts[0] - what.sent) / 1e9)))
        facts += [("handled in", duration(what.handled))] if what.handled is not None else []
        facts.append(("attempts", str(len(starts))))
        facts += [("failed", e.detail) for e in own if e.kind == "crash"][-3:]
        facts += [("lost", e.detail) for e in own if e.kind == "drop"]
        facts += [
            ("answered", full_text(e.message) or e.type)
            for _, e in rest
            if e.kind == "reply" and (e.home, e.answers) == key
        ][:3]
        caused = [
            {"at": at, "text": f"#{e.number} {e.type} → {e.kernel_id}"}
            for at, e in rest
            if e.kind == "send" and (e.home, e.cause) == key
        ]
        over = what.fate == "handled" or len(rest) >= AHEAD
        title = f"#{event.number} {event.type}"
    else:
        facts.append(("kernel", event.kernel_id))
        facts += [("message", f"#{event.number} {event.type}")] if event.number is not None else []
        if event.kind == "reply":
            facts.append(("answers", f"#{event.answers}" if event.answers is not None else "no message: it goes on"))
        facts += [("what happened", one_line(event.detail))] if event.detail else []
        title = f"{event.kind} {event.type}".strip() if event.kind != "drop" else f"dead letter {event.type}"
    more = max(len(caused) - CAUSED, 0)
    text = full_text(event.message) or ("the trace keeps no messages: only their types" if event.type else "")
    return {
        "title": one_line(title),
        "facts": [(name, value if len(value) <= LONGEST else value[: LONGEST - 1] + "…") for name, value in facts],
        "text": text,
        "caused": caused[:CAUSED],
        "moreCaused": more,
    }, over
