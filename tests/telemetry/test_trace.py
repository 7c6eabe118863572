"""The recorder, what can be read from it, and its pictures: fed by hand, without a runtime."""

import json
import pickle
import re
import sys
import threading
from collections import Counter, defaultdict
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import message
from pydotcompute.telemetry.clock import HybridClock, Stamp
from pydotcompute.telemetry.observer import Delivery, Observer, delivery, on_behalf_of
from pydotcompute.telemetry.trace import KINDS, Events, Trace, TraceEvent

EVIL = [
    "<script>alert(1)</script>",
    "a'b\"c&d;e#f",
    "end",
    "two\nlines --> and ->> x: y; z",
    "%%{init: {}}%%",
    "\x00\x07\ud800\u202e",
    "</title></text></svg>",
]


@message
class Sample:
    value: int = 0


@message
class Mean:
    value: float = 0.0


def sent_to(trace: Observer, kernel_id: str, message: object = None, *, asks: bool = False) -> Delivery:
    """A message comes into a mailbox."""
    made = delivery((message or Sample(), 0, object() if asks else None), kernel_id)
    trace.sent(made)
    trace.queued(made)
    return made


def handled(trace: Observer, made: Delivery, reply: object = None) -> None:
    trace.started(made)
    if reply is not None:
        trace.replied(made, made.kernel_id, reply, made if made.is_ask else None)
    trace.ended(made)


def chain_of_three(trace: Observer) -> list[Delivery]:
    """outside asks parse, which asks stats, which tells alarm."""
    first = sent_to(trace, "parse", asks=True)
    trace.started(first)
    with on_behalf_of(first):
        second = sent_to(trace, "stats", asks=True)
    trace.started(second)
    with on_behalf_of(second):
        third = sent_to(trace, "alarm")
    trace.replied(second, "stats", Mean(), second)
    trace.ended(second)
    handled(trace, third, Mean())
    trace.replied(first, "parse", Mean(), first)
    trace.ended(first)
    return [first, second, third]


def everything(trace: Observer, kernel_id: str = "k", text: str = "why") -> None:
    """An event of each kind."""
    one = sent_to(trace, kernel_id, asks=True)
    handled(trace, one, Mean())
    two = sent_to(trace, kernel_id)
    trace.started(two)
    with on_behalf_of(two):
        sent_to(trace, kernel_id)
    trace.failed(kernel_id, ValueError(text), two)
    trace.lost(kernel_id, two.message, "failed", text, two)
    trace.restarted(kernel_id, 1)
    trace.changed(kernel_id, "FAILED")


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_each_kind_of_event_is_recorded_in_order():
    trace = Trace()
    everything(trace)
    assert {e.kind for e in trace} == set(KINDS)
    assert [e.stamp for e in trace] == sorted(e.stamp for e in trace)
    assert [e.time for e in trace] == sorted(e.time for e in trace)
    assert [e.detail for e in trace if e.detail] == ["ValueError: why", "failed: why", "restart 1", "FAILED"]
    assert len(trace) == len(list(trace)) == len(trace.events) == 14


def test_an_event_says_what_was_being_handled_when_its_message_was_sent():
    trace = Trace()
    first, second, third = chain_of_three(trace)
    for made, cause in ((first, None), (second, first), (third, second)):
        for e in trace:
            if e.number == made.number and e.kind != "reply":
                assert e.cause == (cause and cause.number)
                assert e.source == (cause and cause.kernel_id)
                assert e.kernel_id == made.kernel_id
                assert e.message is made.message


def test_a_reply_names_the_ask_and_who_asked():
    trace = Trace()
    first, second, third = chain_of_three(trace)
    to_stats, to_outbox, to_parse = trace.of(kind="reply")
    assert (to_stats.number, to_stats.answers, to_stats.source) == (second.number, second.number, "parse")
    assert (to_outbox.number, to_outbox.answers, to_outbox.source) == (third.number, None, None)
    assert (to_parse.number, to_parse.answers, to_parse.source) == (first.number, first.number, None)
    assert {e.type for e in trace.of(kind="reply")} == {"Mean"}


def test_a_late_reply_was_caused_by_what_its_kernel_has_in_hand():
    trace = Trace()
    made = sent_to(trace, "stats")
    with on_behalf_of(made):
        trace.lost("stats", Mean(), "late", "late reply: the ask had ended", None)
        trace.lost("other", Mean(), "late", "late reply: the ask had ended", None)
    here, elsewhere = trace.of(kind="drop")
    assert (here.cause, here.source, here.type) == (made.number, "stats", "Mean")
    assert (elsewhere.cause, elsewhere.source) == (None, None)
    assert here in trace.chain(made.number)
    assert elsewhere not in trace.chain(made.number)


def test_the_latest_are_kept_and_the_others_counted():
    trace = Trace(limit=10)
    assert (len(trace), trace.left_out) == (0, 0)
    made = [sent_to(trace, "k") for _ in range(20)]
    assert (len(trace), trace.left_out) == (10, 30)
    assert [e.number for e in trace] == [d.number for d in made[-5:] for _ in range(2)]
    assert trace.events.left_out == trace.of("k").left_out == trace[2:].left_out == 30
    assert "30 older left out" in repr(trace)


@pytest.mark.parametrize("still", [False, True], ids=["a trace", "its events"])
def test_the_latest_n_are_those_before_a_place_in_the_order_of_recording(still):
    trace = Trace(limit=10)
    made = [sent_to(trace, "k") for _ in range(20)]
    of = trace.events if still else trace
    assert of.recorded == 40
    assert (list(of.latest(3)), of.latest(3).left_out) == (list(of)[-3:], 37)
    assert (list(of.latest(3, until=36)), of.latest(3, until=36).left_out) == (list(of)[3:6], 33)
    assert list(of.latest(99)) == list(of)
    assert of.latest(99).left_out == 30
    assert (len(of.latest(0)), of.latest(0).left_out) == (0, 40)
    assert list(of.latest(3, until=99)) == list(of.latest(3))
    assert list(of.latest(3, until=31)) == list(of)[:1]
    assert list(of.latest(3, until=5)) == list(of.latest(3, until=-5)) == []
    assert [e.number for e in of.latest(2)] == [made[-1].number] * 2
    assert [of._count("send", *part) for part in ((0, 40), (38, 40), (0, 34), (40, 40))] == [5, 1, 2, 0]
    assert of._count("crash", 0, 40) == 0
    with pytest.raises(ValueError, match="n must be 0 or more"):
        of.latest(-1)


def test_nothing_recorded_has_no_latest():
    for nothing in (Trace(), Events()):
        assert (nothing.recorded, list(nothing.latest(5)), list(nothing.latest(5, until=3))) == (0, [], [])


def test_the_latest_are_read_while_others_are_recorded():
    trace = Trace(limit=50)
    done = threading.Event()

    def record():
        while not done.is_set():
            sent_to(trace, "k")

    thread = threading.Thread(target=record)
    thread.start()
    try:
        for _ in range(300):
            until = trace.recorded
            stretch = trace.latest(10, until)
            assert stretch.left_out + len(stretch) <= until
            assert len(stretch) <= 10
            assert [e.stamp for e in stretch] == sorted(e.stamp for e in stretch)
    finally:
        done.set()
        thread.join()


def told_late():
    """A trace of a kernel on another node, which took two messages, one after the other, and told of it later."""
    trace = Trace(clock=HybridClock("home"))
    one, other = sent_to(trace, "far"), sent_to(trace, "far")
    then = trace.events[0].stamp.wall
    near = sent_to(trace, "near")
    trace.started(near)
    for made, begun in ((one, 1), (other, 3)):
        trace.elsewhere(Stamp(then + begun * 10**6, 0, "node-1"), "started", made)
        trace.elsewhere(Stamp(then + (begun + 1) * 10**6, 0, "node-1"), "ended", made)
    trace.ended(near)
    return trace, one, other, near


def test_what_happened_elsewhere_has_its_place_and_time_although_it_is_told_later():
    trace, one, other, near = told_late()
    whole = list(trace)
    assert [e.stamp for e in whole] == sorted(e.stamp for e in whole)
    assert [(e.number, e.kind) for e in whole if e.node == "node-1"] == [
        (one.number, "start"),
        (one.number, "end"),
        (other.number, "start"),
        (other.number, "end"),
    ]
    assert {e.home for e in whole} == {"home"}
    first = trace.deliveries[0]
    assert first.handled == pytest.approx(1e-3)
    assert first.node == "home"
    assert [d.number for d in trace.deliveries] == [one.number, other.number, near.number]
    assert len(trace.chain(one.number)) == 4
    assert trace.recorded == len(whole) == 12
    # Told late, it is among the newest that were recorded, in its own order.
    latest = trace.latest(5)
    assert [(e.number, e.kind) for e in latest if e.node == "node-1"] == [
        (e.number, e.kind) for e in whole if e.node == "node-1"
    ]
    assert [e.stamp for e in latest] == sorted(e.stamp for e in latest)
    assert latest.left_out == 7
    assert [e.node for e in trace._stretch(5)] == ["node-1"] * 4 + ["home"]


def test_pictures_name_the_node_of_a_kernel_that_is_elsewhere():
    trace, *_ = told_late()
    assert "<title>node-1/far</title>" in trace.to_svg()
    assert "<title>near</title>" in trace.to_svg()
    assert "participant k1 as node-1/far" in trace.to_mermaid()
    names = [
        row["args"]["name"] for row in json.loads(trace.to_chrome())["traceEvents"] if row["name"] == "thread_name"
    ]
    assert names == ["outside", "far on node-1", "near"]


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None])
def test_limit_is_an_integer_of_at_least_1(wrong):
    with pytest.raises(ValueError, match="limit must be an integer of at least 1"):
        Trace(limit=wrong)


def test_messages_are_kept_unless_it_is_told_otherwise():
    trace, brief = Trace(), Trace(messages=False)
    known = Sample(1)
    the_id = known.message_id
    for observer in (trace, brief):
        handled(observer, sent_to(observer, "k", known, asks=True), Mean())
    assert [e.message for e in trace.of(kind="send")] == [known]
    assert [e.message for e in brief] == [None] * 5
    for observer in (trace, brief):
        assert [e.type for e in observer] == ["Sample", "Sample", "Sample", "Mean", "Sample"]
        assert [e.message_id for e in observer] == [the_id, the_id, the_id, None, the_id]


@pytest.mark.parametrize("messages", [True, False])
def test_no_message_id_is_made_for_the_trace(messages):
    trace = Trace(messages=messages)
    one = Sample()
    made = sent_to(trace, "k", one, asks=True)
    handled(trace, made, one)
    trace.failed("k", ValueError(), made)
    assert "message_id" not in vars(one)
    assert [e.message_id for e in trace] == [None] * len(trace)
    trace.to_svg(), trace.to_mermaid(), trace.to_chrome(), trace.tree(), trace.deliveries, repr(list(trace))
    assert "message_id" not in vars(one)


def test_kernels_are_ids():
    assert Trace().kernels is None
    assert Trace(kernels=["a", "b"]).kernels == {"a", "b"}
    assert Trace(kernels="stats").kernels == {"stats"}
    with pytest.raises(TypeError, match="ids of kernels, which are texts, not 3"):
        Trace(kernels=["a", 3])


def test_a_trace_without_a_runtime_cannot_be_started():
    with pytest.raises(RuntimeError, match=r"runtime\.trace\(\)"):
        Trace().start()
    Trace().stop()


def test_an_error_whose_text_cannot_be_had_is_named():
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    trace = Trace()
    trace.failed("k", Odd(), None)
    assert trace[0].detail == "Odd"


def test_it_can_be_read_while_another_thread_records():
    trace = Trace(limit=500)
    stop = threading.Event()
    made = delivery((Sample(), 0, None), "k")

    def record() -> None:
        while not stop.is_set():
            trace.sent(made)
            trace.ended(made)

    thread = threading.Thread(target=record)
    thread.start()
    try:
        seen = 0
        while seen < 5000:
            events, left_out = trace._all()
            assert all(one.stamp < two.stamp for one, two in pairwise(events))
            assert left_out >= seen or left_out == 0
            seen = left_out
    finally:
        stop.set()
        thread.join()


# -- what can be read --------------------------------------------------------------------------------------------------


def test_of_selects_by_kernel_and_kind():
    trace = Trace()
    chain_of_three(trace)
    assert {e.kernel_id for e in trace.of("stats")} == {"stats"}
    assert [e.kind for e in trace.of("stats")] == ["send", "enqueue", "start", "reply", "end"]
    assert [e.kernel_id for e in trace.of(kind="send")] == ["parse", "stats", "alarm"]
    assert [e.kernel_id for e in trace.of("alarm", "send")] == ["alarm"]
    with pytest.raises(ValueError, match=r"kind must be one of 'send', .*; not 'sent'"):
        trace.of(kind="sent")


def test_slices_are_events_too():
    trace = Trace()
    chain_of_three(trace)
    assert isinstance(trace[3:7], Events)
    assert list(trace[3:7]) == list(trace)[3:7]
    assert isinstance(trace[-1], TraceEvent)
    assert repr(trace[:1]) == "<1 event at 1 kernel: 1 message>"


def test_the_events_of_now_change_no_more():
    trace = Trace()
    before = trace.events
    sent_to(trace, "k")
    assert (len(before), len(trace)) == (0, 2)


def test_a_chain_is_what_caused_a_message_and_what_came_of_it():
    trace = Trace()
    first, second, third = chain_of_three(trace)
    other = sent_to(trace, "parse")
    with on_behalf_of(second):
        sibling = sent_to(trace, "log")
    numbers = {d.number for d in (first, second, third, sibling)}
    assert {e.number for e in trace.chain(first.number)} == numbers
    assert {e.number for e in trace.chain(second.number)} == numbers
    assert {e.number for e in trace.chain(third.number)} == {first.number, second.number, third.number}
    assert {e.number for e in trace.chain(other.number)} == {other.number}
    assert list(trace.chain(third.message)) == list(trace.chain(third.number))
    stamps = [e.stamp for e in trace.chain(first.number)]
    assert stamps == sorted(stamps)


def test_a_chain_of_what_is_not_there():
    trace = Trace(messages=False)
    made = sent_to(trace, "k")
    with pytest.raises(LookupError, match=r"no message 0 among these events$"):
        trace.chain(0)
    with pytest.raises(LookupError, match="give the number of its delivery if the trace keeps no messages"):
        trace.chain(made.message)


def test_chains_may_be_long():
    trace = Trace()
    made = sent_to(trace, "k")
    first = made.number
    for _ in range(5000):
        with on_behalf_of(made):
            made = sent_to(trace, "k")
        made.cause.cause = None  # else the links between 5,000 of them would be what is tested
    assert len(trace.chain(first)) == len(trace.chain(made.number)) == len(trace)
    assert "… 4,901 messages left out" in trace.tree()


def test_a_tree_has_each_message_below_its_cause():
    trace = Trace()
    first, second, third = chain_of_three(trace)
    waiting = sent_to(trace, "late")
    lines = trace.tree().splitlines()
    assert lines[0].startswith(f"outside → parse #{first.number} Sample  waited ")
    assert lines[1].startswith(f"   └─ parse → stats #{second.number} Sample  waited ")
    assert lines[2].startswith(f"      └─ stats → alarm #{third.number} Sample  waited ")
    assert lines[3] == f"outside → late #{waiting.number} Sample  queued"
    assert repr(trace.tree()) == str(trace.tree())
    assert trace.tree(limit=2).splitlines() == [*lines[:2], "… 2 messages left out"]
    assert str(Events().tree()) == "no messages"
    with pytest.raises(ValueError, match="limit must be"):
        trace.tree(limit=0)


def test_a_delivery_has_its_times_and_its_fate():
    trace = Trace()
    first, second, _ = chain_of_three(trace)
    dropped = sent_to(trace, "stats")
    trace.lost("stats", dropped.message, "dropped", "drop_oldest", dropped)
    blocked = delivery((Sample(), 0, None), "stats")
    trace.sent(blocked)
    known = {d.number: d for d in trace.deliveries}
    times = {(e.kind, e.number): e.time for e in trace}
    one = known[second.number]
    assert (one.kernel_id, one.type, one.cause, one.source) == ("stats", "Sample", first.number, "parse")
    assert one.message is second.message
    assert [one.sent, one.queued, one.started, one.ended] == [
        times[kind, second.number] for kind in ("send", "enqueue", "start", "end")
    ]
    assert one.waited == (one.started - one.queued) / 1e9
    assert one.handled == (one.ended - one.started) / 1e9
    assert one.fate == "handled"
    assert known[dropped.number].fate == "dropped"
    assert (known[blocked.number].fate, known[blocked.number].queued) == ("sent", None)


def test_a_message_that_is_tried_again_has_waited_once():
    trace = Trace()
    made = sent_to(trace, "k")
    trace.started(made)
    trace.failed("k", ValueError(), made)
    assert trace.deliveries[0].fate == "failed"
    again = Delivery(made)
    again.number, again.kernel_id, again.cause, again.attempts = made.number, "k", None, 1
    trace.started(again)
    (one,) = trace.deliveries
    assert (one.fate, one.attempts, one.ended, one.handled) == ("in hand", 1, None, None)
    trace.ended(again)
    (one,) = trace.deliveries
    first, second = trace.of(kind="start")
    assert one.waited == (first.time - one.queued) / 1e9
    assert one.handled == (one.ended - second.time) / 1e9
    assert [h.end.kind for h in trace.handlings] == ["crash", "end"]


def test_what_was_there_before_the_trace_has_no_waiting_time():
    trace = Trace()
    made = delivery((Sample(), 0, None), "k")
    handled(trace, made)
    (one,) = trace.deliveries
    assert (one.sent, one.queued, one.waited, one.fate) == (None, None, None, "handled")
    assert one.handled > 0
    later = Trace()
    later.ended(made)
    assert later.deliveries == later.handlings == []


@given(st.lists(st.integers(0, 3), max_size=40))
def test_handlings_of_a_kernel_never_overlap(steps):
    """A ring takes several messages at once, and hands them out in their order."""
    trace = Trace()
    ring: list[Delivery] = []
    for step in steps:
        if step < 2:
            ring.append(sent_to(trace, "k"))
            trace.started(ring[-1])
        elif ring:
            trace.ended(ring.pop(0))
    handlings = trace.handlings
    finished = [h for h in handlings if h.end is not None]
    assert len(finished) == len(trace.of(kind="end"))
    assert [h.start.number for h in handlings[len(finished) :]] == [d.number for d in ring[:1]]
    assert all(h.start.time <= h.begun <= h.end.time for h in finished)
    assert all(one.end.time <= two.begun for one, two in pairwise(finished))
    assert all(h.begun >= f.end.time for h in handlings[len(finished) :] for f in finished)


def test_what_ended_while_nothing_was_recorded_is_not_in_hand_for_ever():
    trace = Trace()
    trace.started(sent_to(trace, "k"))
    later = sent_to(trace, "k")
    handled(trace, later)
    assert [h.start.number for h in trace.handlings] == [later.number]


# -- several machines --------------------------------------------------------------------------------------------------


def on_two_nodes() -> tuple[Trace, Trace, list[int]]:
    now = [0]
    a, b = (Trace(clock=HybridClock(node, wall=lambda: now[0])) for node in ("left", "right"))
    return a, b, now


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=30))
def test_merged_events_are_in_the_order_of_their_stamps(steps):
    a, b, now = on_two_nodes()
    for left, time in steps:
        now[0] = time
        sent_to(a if left else b, "k")
    merged = Trace.merge(a, b)
    assert len(merged) == len(a) + len(b)
    assert all(one.stamp < two.stamp for one, two in pairwise(merged))
    assert [e for e in merged if e.node == "left"] == list(a)


def test_what_was_heard_of_comes_later_although_the_clock_there_is_slow():
    a, b, now = on_two_nodes()
    now[0] = 1000
    sent_to(a, "here")
    now[0] = 10  # the other machine's clock
    b.clock.update(a[-1].stamp)
    sent_to(b, "there")
    assert [e.kernel_id for e in Trace.merge(b, a)] == ["here", "here", "there", "there"]


def test_numbers_of_several_nodes_do_not_mix():
    a, b, _ = on_two_nodes()
    first, second, _third = chain_of_three(a)
    theirs = sent_to(b, "parse")
    theirs.number = first.number
    b.ended(theirs)
    merged = Trace.merge(a, b)
    with pytest.raises(ValueError, match=r"nodes 'left', 'right' have a delivery \d+ each"):
        merged.chain(first.number)
    assert {e.node for e in merged.chain(first.message)} == {"left"}
    assert {e.node for e in merged.chain(second.number)} == {"left"}


def test_merged_traces_say_what_all_of_them_left_out():
    a, b = Trace(limit=1), Trace(limit=3)
    for trace in (a, b):
        everything(trace)
    assert Trace.merge(a, b).left_out == 13 + 11


def test_events_travel_as_pickles():
    trace = Trace(messages=False)
    everything(trace)
    copied = pickle.loads(pickle.dumps(trace.events))
    assert list(copied) == list(trace)
    assert Trace.merge(copied).to_svg() == trace.to_svg()


# -- pictures ----------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def svg_of(events: Events, **options: int) -> tuple[ElementTree.Element, str]:
    """The picture, which is XML, and its texts without the hints."""
    root = ElementTree.fromstring(events.to_svg(**options))
    shown = ("".join([text.text or ""] + [part.tail or "" for part in text if part.tag == f"{SVG}title"]
                     + [part.text or "" for part in text if part.tag == f"{SVG}tspan"])
             for text in root.iter(f"{SVG}text"))  # fmt: skip
    return root, "\n".join(shown)


def test_a_picture_shows_lanes_messages_handlings_and_marks():
    trace = Trace()
    chain_of_three(trace)
    everything(trace, "k")
    root, text = svg_of(trace)
    for word in ("outside", "parse", "stats", "alarm", "Sample", "Mean", "ValueError: why", "restart 1", "failed"):
        assert word in text
    assert len(root.findall(f".//{SVG}rect")) == 5 + len(trace.of(kind="start"))  # with a head for each lane
    hints = [title.text for title in root.iter(f"{SVG}title")]
    assert any("Sample(value=0)" in hint and "sent while parse was handling" in hint for hint in hints)


def test_arrows_say_how_long_it_took():
    trace = Trace()
    first, _, _ = chain_of_three(trace)
    _, text = svg_of(trace)
    assert re.search(rf"^#{first.number} Sample.* [\d.]+ [nµm]?s$", text, re.MULTILINE)
    assert re.search(rf"^#{first.number} Mean.* [\d.]+ [nµm]?s$", text, re.MULTILINE)


def test_a_picture_needs_nothing_from_elsewhere_and_takes_the_colours_of_the_page():
    trace = Trace()
    everything(trace)
    picture = trace.to_svg()
    root = ElementTree.fromstring(picture)
    assert {node.tag.removeprefix(SVG) for node in root.iter()} <= {
        "svg",
        "g",
        "path",
        "rect",
        "text",
        "tspan",
        "title",
    }
    assert not re.search(r"href|url\(|@import|\bon\w+=", picture)
    assert picture.count("http") == 1  # the name of the language
    assert "currentColor" in picture
    assert "var(--jp-content-font-color1,inherit)" in picture
    assert not re.search(r"(fill|stroke)='?:?(black|white|#000|#fff)", picture)


def test_limit_is_how_much_is_drawn():
    trace = Trace()
    for _ in range(50):
        handled(trace, sent_to(trace, "k"))
    heights = []
    for limit in (3, 30, 150):
        root, text = svg_of(trace, limit=limit)
        heights.append(float(root.get("height")))
        assert ("events left out" in text) == (limit < 150)
    assert heights == sorted(set(heights))
    assert "… 196 events left out" in svg_of(trace, limit=3)[1]
    assert svg_of(trace[-8:], limit=6)[1].count("#") == 2
    for draw in (trace.to_svg, trace.to_mermaid):
        with pytest.raises(ValueError, match="limit must be"):
            draw(limit=0)


def test_a_full_trace_has_a_picture_of_bounded_size():
    trace = Trace(limit=5000)
    for i in range(1000):
        handled(trace, sent_to(trace, f"kernel-{i % 100}", asks=True), Mean())
    for i in range(1000):
        handled(trace, sent_to(trace, f"kernel-{i % 100}", asks=True), Mean())
    root, text = svg_of(trace)
    assert float(root.get("height")) < 8000
    assert float(root.get("width")) < 4000
    assert "34 other kernels" in text
    assert "5,000 older events left out" in text
    assert "… 4,750 events left out" in text


def test_long_names_are_cut_so_that_their_ends_show():
    trace = Trace()
    names = [f"a-stage-with-quite-a-long-name-that-ends-in-{i:02}" for i in range(5)]
    for name in names:
        sent_to(trace, name)
    _, text = svg_of(trace)
    assert all(f"{i:02}" in text for i in range(5))
    assert names[0] not in text.splitlines()
    assert names[0] in trace.to_svg()  # as a hint


@pytest.mark.parametrize("draw", ["to_svg", "to_mermaid", "to_chrome"])
def test_lanes_of_several_nodes_are_told_apart(draw):
    a, b, _ = on_two_nodes()
    for trace in (a, b):
        chain_of_three(trace)
    picture = getattr(Trace.merge(a, b), draw)()
    assert "left" in picture
    assert "right" in picture
    assert "left" not in a.to_svg()


def hostile(text: str) -> Trace:
    trace = Trace()
    kind = type(text.replace("\x00", "").encode("utf-8", "replace").decode() or "x", (), {"__repr__": lambda _: text})
    everything(trace, text, text)
    handled(trace, sent_to(trace, text, kind(), asks=True), kind())
    return trace


def check_that_pictures_are_harmless(trace: Trace) -> None:
    page = trace._repr_html_()
    assert "<script" not in page
    root = ElementTree.fromstring(trace.to_svg())
    assert {node.tag.removeprefix(SVG) for node in root.iter()} <= {
        "svg",
        "g",
        "path",
        "rect",
        "text",
        "tspan",
        "title",
    }
    first, *lines = trace.to_mermaid().rstrip("\n").split("\n")
    assert first == "sequenceDiagram"
    text = r"(?:[\w ✕….,()/=-]|: |#\d+;)*"
    known = re.compile(rf"    (?:participant k\d+ as|k\d+--?>>k\d+:|Note (?:over|right of) k\d+(?:,k\d+)?:) {text}")
    for line in lines:
        assert known.fullmatch(line), line
        assert not re.search(r"\bend\b", line)
    rows = json.loads(trace.to_chrome())["traceEvents"]
    assert len(rows) > len(trace) / 2
    assert len(trace.tree().splitlines()) == 4


@pytest.mark.parametrize("text", EVIL)
def test_hostile_names_are_texts_in_every_picture(text):
    check_that_pictures_are_harmless(hostile(text))


@given(st.text(min_size=1, max_size=30))
def test_any_text_is_a_text_in_every_picture(text):
    check_that_pictures_are_harmless(hostile(text))


def test_a_message_that_cannot_be_shown_is_named():
    class Odd:
        def __repr__(self) -> str:
            raise ValueError

    trace = Trace()
    handled(trace, sent_to(trace, "k", Odd()))
    assert "Odd" in trace.to_svg()
    assert "Odd" in trace.to_chrome()


def test_mermaid_has_an_arrow_for_each_message_and_reply():
    trace = Trace()
    first, second, third = chain_of_three(trace)
    assert trace.to_mermaid().splitlines() == [
        "sequenceDiagram",
        "    participant k0 as outside",
        "    participant k1 as parse",
        "    participant k2 as stats",
        "    participant k3 as alarm",
        f"    k0->>k1: Sample {first.number}",
        f"    k1->>k2: Sample {second.number}",
        f"    k2->>k3: Sample {third.number}",
        f"    k2-->>k1: Mean for {second.number}",
        "    Note right of k3: sends Mean",
        f"    k1-->>k0: Mean for {first.number}",
    ]
    assert trace.to_mermaid(limit=2).splitlines()[-1] == "    Note over k0,k1: … 12 events left out"


def test_an_empty_trace_has_pictures():
    trace = Trace()
    assert "no events" in trace.to_svg()
    assert "no events" in trace.to_mermaid()
    assert json.loads(trace.to_chrome())["traceEvents"] == []
    assert repr(trace) == "<trace, not recording: 0 events>"


def test_a_notebook_shows_the_picture_below_a_line_about_it():
    trace = Trace()
    everything(trace)
    page = trace._repr_html_()
    assert "14 events at 1 kernel in " in page
    assert "3 messages, 1 drop, 1 crash, 1 restart" in page
    assert trace.to_svg() in page


# -- Perfetto ----------------------------------------------------------------------------------------------------------


def rows_of(trace: Events) -> dict[str, list[dict]]:
    rows = defaultdict(list)
    for row in json.loads(trace.to_chrome())["traceEvents"]:
        rows[row["ph"]].append(row)
    return rows


def test_each_kernel_has_a_track_with_what_it_had_in_hand():
    trace = Trace()
    first, second, third = chain_of_three(trace)
    rows = rows_of(trace)
    names = {row["tid"]: row["args"]["name"] for row in rows["M"] if row["name"] == "thread_name"}
    assert sorted(names.values()) == ["alarm", "outside", "parse", "stats"]
    slices = {row["args"]["delivery"]: row for row in rows["X"] if row["cat"] == "handling"}
    assert {n: names[row["tid"]] for n, row in slices.items()} == {
        first.number: "parse",
        second.number: "stats",
        third.number: "alarm",
    }
    one, inner = slices[first.number], slices[second.number]
    assert one["ts"] < inner["ts"] < inner["ts"] + inner["dur"] < one["ts"] + one["dur"]
    assert inner["args"] == {
        "delivery": second.number,
        "caused by": first.number,
        "sent by": "parse",
        "message": "Sample(value=0)",
        "ends with": "end",
    }


def test_arrows_lead_from_the_send_to_the_start_and_from_the_reply_to_who_asked():
    trace = Trace()
    chain_of_three(trace)
    rows = rows_of(trace)
    names = {row["tid"]: row["args"]["name"] for row in rows["M"] if row["name"] == "thread_name"}
    ends = {row["id"]: row for row in rows["f"]}
    ways = Counter((row["cat"], names[row["tid"]], names[ends[row["id"]]["tid"]]) for row in rows["s"])
    assert ways == {
        ("message", "outside", "parse"): 1,
        ("message", "parse", "stats"): 1,
        ("message", "stats", "alarm"): 1,
        ("reply", "stats", "parse"): 1,
        ("reply", "parse", "outside"): 1,
    }
    for row in rows["s"] + rows["f"]:  # the viewer binds an arrow to the slice around it
        assert any(
            x["tid"] == row["tid"] and x["ts"] <= row["ts"] <= x["ts"] + x["dur"] for x in rows["X"]
        ), row  # fmt: skip
    assert all(ends[row["id"]]["ts"] >= row["ts"] for row in rows["s"])


@given(st.lists(st.integers(0, 4), max_size=30))
def test_slices_of_a_track_never_overlap_and_a_queue_is_never_less_than_empty(steps):
    trace = Trace()
    ring: list[Delivery] = []
    trace.ended(delivery((Sample(), 0, None), "k"))  # it came before the trace
    handled(trace, delivery((Sample(), 0, None), "k"))
    for step in steps:
        if step < 2:
            ring.append(sent_to(trace, "k", asks=True))
            trace.started(ring[-1])
        elif step == 2:
            sent_to(trace, "k")
        elif ring and step == 3:
            trace.replied(ring[0], "k", Mean(), ring[0])
            trace.ended(ring.pop(0))
        elif ring:
            trace.lost("k", ring[0].message, "failed", "", ring.pop(0))
    rows = rows_of(trace)
    tracks = defaultdict(list)
    for row in rows["X"]:
        tracks[row["tid"]].append((row["ts"], row["dur"]))
    for slices in tracks.values():
        assert all(dur >= 0 for _, dur in slices)
        assert all(one[0] + one[1] <= two[0] + 1e-3 for one, two in pairwise(sorted(slices)))
    waiting = sum(d.started is None for d in trace.deliveries)
    depths = [row["args"]["messages"] for row in rows["C"]]
    assert all(depth >= 0 for depth in depths)
    assert [0, *depths][-1] == waiting


def test_failures_are_marked():
    trace = Trace()
    everything(trace)
    marks = {row["cat"]: row for row in rows_of(trace)["i"]}
    assert set(marks) == {"drop", "crash", "restart", "state"}
    assert marks["crash"]["args"]["detail"] == "ValueError: why"
    assert marks["state"]["name"] == "failed"


@pytest.mark.parametrize("draw", ["to_svg", "to_mermaid"])
def test_diagrams_are_written_to_a_file(tmp_path, draw):
    trace = Trace()
    everything(trace, text="☃")
    (tmp_path / "diagram").write_text("what was there")
    text = getattr(trace, draw)(path=tmp_path / "diagram")
    assert (tmp_path / "diagram").read_text(encoding="utf-8") == text == getattr(trace, draw)()
    with pytest.raises(OSError, match="missing"):
        getattr(trace, draw)(path=tmp_path / "missing" / "diagram")


def test_to_chrome_writes_a_file(tmp_path):
    trace = Trace(limit=4)
    everything(trace)
    text = trace.to_chrome(tmp_path / "trace.json")
    assert (tmp_path / "trace.json").read_text(encoding="utf-8") == text
    assert json.loads(text)["otherData"] == {"left_out": 10}


# -- pandas ------------------------------------------------------------------------------------------------------------


@pytest.mark.needs_exporters
def test_a_frame_has_a_row_for_each_event():
    trace = Trace()
    first, second, _ = chain_of_three(trace)
    frame = trace.to_pandas()
    assert len(frame) == len(trace)
    assert list(frame["kind"]) == [e.kind for e in trace]
    sends = frame[frame["kind"] == "send"].set_index("kernel_id")
    assert sends.loc["stats", "cause"] == first.number
    assert sends.loc["stats", "message"] is second.message
    assert sends["cause"].isna().tolist() == [True, False, False]
    assert str(frame["time"].dt.tz) == "UTC"
    assert frame["time"].is_monotonic_increasing
    assert [time.value for time in frame["time"]] == [e.time for e in trace]
    assert set(frame["node"]) == {trace.clock.node}
    assert len(Events().to_pandas()) == 0


def test_a_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        Trace().to_pandas()
