"""Dead letters: what they say, how they look, where they can be written, and how they are sent again."""

import asyncio
import csv
import io
import json
import math
import sys
from collections import namedtuple
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from html.parser import HTMLParser
from threading import Thread
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import Record, RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import KernelNotFoundError, LoopError, QueueTimeoutError, RuntimeClosedError
from pydotcompute.runtime import DeadLetter, DeadLetters, KernelState, Letters
from pydotcompute.runtime.dead_letters import KINDS


@message
@dataclass
class Order:
    city: str
    data: object = None
    message_id: UUID = field(default_factory=uuid4)


@message
class Number:
    n: np.int64


class Tally(Record):
    total: np.int64


def kinds(letters):
    return [(letter.message, letter.kind, letter.is_reply) for letter in letters]


# -- kinds ---------------------------------------------------------------------------------------------------------


async def test_what_the_strategy_drops_is_dropped(runtime, start):
    async def worker(ctx): ...

    await start(worker, activate=False, queue_size=1, backpressure="drop_oldest")
    await runtime.send_many("worker", ["old", "new"])
    assert kinds(runtime.dead_letters) == [("old", "dropped", False)]


async def test_what_the_kernel_failed_with_and_what_it_never_came_to_differ(runtime, start):
    async def worker(ctx):
        async for m in ctx:
            raise ValueError(m)

    await start(worker, activate=False)
    await runtime.send_many("worker", ["boom", "next"])
    await runtime.activate("worker")
    assert await runtime.wait_ended("worker") is KernelState.FAILED
    assert kinds(runtime.dead_letters) == [("boom", "failed", False), ("next", "unhandled", False)]
    assert all(isinstance(letter.exception, ValueError) for letter in runtime.dead_letters)


async def test_a_late_reply_and_one_that_nobody_reads(loop_mode, gate):
    go, done = gate(), gate()

    async def worker(ctx):
        async for m in ctx:
            if m == "slow":
                await go.wait()
            await ctx.send(f"re: {m}")
            if m == "slow":
                done.open()

    async with RingKernelRuntime(loop_mode) as runtime:
        await (await runtime.launch(ring_kernel(worker))).activate()
        with pytest.raises(QueueTimeoutError):
            await runtime.ask("worker", "slow", timeout=0.01)
        go.open()
        await done.wait()
        await runtime.send("worker", "told")
    assert kinds(runtime.dead_letters) == [("re: slow", "late", True), ("re: told", "unread", True)]


async def test_counts_are_of_all_there_ever_were_and_of_a_selection_those_in_it(loop_mode):
    async def worker(ctx): ...

    async with RingKernelRuntime(loop_mode, dead_letter_limit=2) as runtime:
        for kernel_id in ("a", "b"):
            await runtime.launch(ring_kernel(kernel_id, queue_size=1, backpressure="drop_newest")(worker))
            await runtime.send_many(kernel_id, [f"{kernel_id}{i}" for i in range(3)])
        await runtime.terminate("b")
        letters = runtime.dead_letters
        nothing = dict.fromkeys(KINDS, 0)
        assert letters.counts == {**nothing, "dropped": 4, "unhandled": 1}
        assert [letter.message for letter in letters] == ["b2", "b0"]
        assert [letter.message for letter in letters.of(kind="unhandled")] == ["b0"]
        assert letters.of("b").counts == {**nothing, "dropped": 1, "unhandled": 1}
        assert [letter.message for letter in letters.of("b", "dropped")] == ["b2"]
        assert len(letters.of("a")) == 0
        with pytest.raises(ValueError, match=r"kind must be one of 'dropped', .*; not 'lost'"):
            letters.of(kind="lost")
        letters.clear()
        assert (len(letters), letters.total, letters.counts["dropped"]) == (0, 5, 4)


def test_threads_may_look_while_others_are_added():
    letters = DeadLetters(50, None)
    stop = False

    def look():
        while not stop:
            assert len(list(letters)) <= 50
            repr(letters)

    threads = [Thread(target=look) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for i in range(5000):
            letters.add(DeadLetter("k", i, "why"))
    finally:
        stop = True
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert [letter.message for letter in letters] == list(range(4950, 5000))


# -- sending again -------------------------------------------------------------------------------------------------


@pytest.fixture
async def dead(runtime, start):
    """``await dead("a", "b")``: a kernel `worker` that has failed before these messages, and was launched again."""
    seen = []

    async def dead(*messages):
        broken = True

        async def worker(ctx):
            async for m in ctx:
                if broken:
                    raise ValueError(m)
                seen.append(m)

        definition = ring_kernel(queue_size=4, backpressure="reject")(worker)
        await runtime.launch(definition)
        await runtime.send_many("worker", messages)
        await runtime.activate("worker")
        await runtime.wait_ended("worker")
        broken = False
        return definition

    dead.seen = seen
    return dead


async def test_messages_are_sent_again_oldest_first_and_are_dead_no_more(runtime, dead):
    definition = await dead("one", "two", "three")
    assert len(runtime.dead_letters) == 3
    await (await runtime.launch(definition)).activate()
    replayed = await runtime.dead_letters.replay()
    await runtime.wait_idle()
    assert (replayed.sent, replayed.refused) == (3, {})
    assert dead.seen == ["one", "two", "three"]
    assert (len(runtime.dead_letters), runtime.dead_letters.total) == (0, 3)


async def test_what_cannot_be_sent_stays_and_the_result_says_why(runtime, dead):
    definition = await dead("one", "two", "three")
    replayed = await runtime.dead_letters.replay()
    (why,) = replayed.refused
    assert "'worker' failed: ValueError: one" in why
    assert (replayed.sent, replayed.refused[why]) == (0, 3)
    assert [letter.message for letter in runtime.dead_letters] == ["one", "two", "three"]

    await runtime.launch(definition)
    await runtime.send_many("worker", ["x", "y"])
    replayed = await runtime.dead_letters.replay()  # room for two
    (why,) = replayed.refused
    assert "the mailbox of 'worker' is full (4)" in why
    assert (replayed.sent, replayed.refused[why]) == (2, 1)
    assert [letter.message for letter in runtime.dead_letters] == ["three"]


async def test_one_may_choose_what_is_sent_again_and_where(runtime, dead, start):
    taken = []

    async def other(ctx):
        async for m in ctx:
            taken.append(m)

    await start(other)
    await dead("one", "two", "three", "four")
    letters = runtime.dead_letters
    for choice, wanted in (
        ({"kind": "failed"}, ["one"]),
        ({"where": lambda letter: letter.message.startswith("t"), "limit": 1}, ["two"]),
        ({"kernel_id": "other"}, []),
        ({"kernel_id": "worker"}, ["three", "four"]),
    ):
        replayed = await letters.replay(**choice, to="other")
        await runtime.wait_idle("other")
        assert replayed.sent == len(wanted)
        assert taken == wanted
        taken.clear()
    assert len(letters) == 0
    with pytest.raises(KernelNotFoundError, match="no ring kernel 'othr'"):
        await letters.replay(to="othr")
    with pytest.raises(ValueError, match="limit must be an integer of at least 1, not 0"):
        await letters.replay(limit=0)
    with pytest.raises(ValueError, match="kind must be one of"):
        await letters.replay(kind="lost")


async def test_a_message_that_dies_again_is_a_new_dead_letter_and_is_not_tried_for_ever(runtime, start):
    async def worker(ctx): ...

    await start(worker, activate=False, queue_size=1, backpressure="drop_newest")
    await runtime.send_many("worker", [0, 1, 2, 3])
    before = list(runtime.dead_letters)
    replayed = await runtime.dead_letters.replay()
    after = list(runtime.dead_letters)
    assert replayed.sent == 3
    assert [letter.message for letter in after] == [1, 2, 3]
    assert not set(map(id, before)) & set(map(id, after))
    assert runtime.dead_letters.total == 6


async def test_replies_are_not_sent_again(loop_mode):
    async def worker(ctx):
        async for m in ctx:
            await ctx.send(m)

    async with RingKernelRuntime(loop_mode) as runtime:
        definition = ring_kernel(worker)
        await (await runtime.launch(definition)).activate()
        await runtime.send("worker", 1)
        await runtime.terminate("worker")
        await (await runtime.launch(definition)).activate()  # which buries the unread reply
        assert kinds(runtime.dead_letters) == [(1, "unread", True)]
        assert (await runtime.dead_letters.replay()).sent == 0
        assert len(runtime.dead_letters) == 1


async def test_what_waits_for_room_is_sent_once_by_two_replays_at_a_time(runtime, start):
    seen = []

    async def worker(ctx):
        async for m in ctx:
            seen.append(m)

    await start(worker, "short", activate=False, queue_size=1)
    await start(worker, "gone", activate=False)
    await runtime.send_many("gone", range(5))
    await runtime.terminate("gone", drain=False)
    replays = [asyncio.ensure_future(runtime.dead_letters.replay(to="short")) for _ in range(2)]
    await runtime.activate("short")
    first, second = await asyncio.gather(*replays)
    await runtime.wait_idle("short")
    assert first.sent + second.sent == 5
    assert sorted(seen) == [0, 1, 2, 3, 4]


async def test_a_replay_that_is_cancelled_leaves_what_it_has_not_sent(runtime, start, settle):
    async def worker(ctx):
        async for _ in ctx:
            ...

    await start(worker, "short", activate=False, queue_size=1)
    await start(worker, "gone", activate=False)
    await runtime.send_many("gone", range(3))
    await runtime.terminate("gone", drain=False)
    replay = asyncio.ensure_future(runtime.dead_letters.replay(to="short"))
    await settle()
    replay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replay
    await settle()
    assert [letter.message for letter in runtime.dead_letters] == [1, 2]
    await runtime.activate("short")
    assert (await runtime.dead_letters.replay(to="short")).sent == 2


async def test_the_blocking_twin(runtime, dead, in_thread, on_loop):
    definition = await dead("one", "two")
    await (await runtime.launch(definition)).activate()
    letters = runtime.dead_letters
    replayed = await in_thread(lambda: letters.replay_sync("worker", kind="unhandled"))
    assert replayed.sent == 1
    replayed = await in_thread(lambda: letters.replay_sync(where=lambda letter: letter.kind == "failed", limit=1))
    await runtime.wait_idle()
    assert (replayed.sent, dead.seen) == (1, ["two", "one"])

    async def from_its_own_loop():
        letters.replay_sync(to="worker")

    with pytest.raises(LoopError):
        await on_loop(from_its_own_loop)


async def test_a_message_for_one_instance_is_sent_to_that_instance_again(runtime):
    def tally(state: Tally, msg: Number, out: Number):
        state.total += msg.n
        out.n = state.total
        return True

    definition = ring_kernel("tally", backend="interpreted", instances=3, state=Tally)(tally)
    kernel = await runtime.launch(definition)
    await kernel[2].send(Number(5))
    await kernel[0].send(Number(3))
    await kernel.terminate()
    assert [letter.instance for letter in runtime.dead_letters] == [2, 0]
    assert "tally[2]" in repr(runtime.dead_letters)
    kernel = await runtime.launch(definition)
    await kernel.activate()
    assert (await runtime.dead_letters.replay()).sent == 2
    await runtime.wait_idle()
    assert [(await kernel[i].snapshot()).total for i in range(3)] == [3, 0, 5]
    await runtime.receive_batch("tally")


async def test_what_another_kernel_cannot_take_stays(runtime, start):
    async def texts(ctx):
        async for _ in ctx:
            ...

    async def worker(ctx): ...

    await start(texts, input_type=str)
    await start(worker, activate=False)
    await runtime.send_many("worker", ["one", 2])
    await runtime.terminate("worker")
    replayed = await runtime.dead_letters.replay(to="texts")
    assert (replayed.sent, dict(replayed.refused)) == (1, {"'texts' takes str, not int": 1})
    assert [letter.message for letter in runtime.dead_letters] == [2]


async def test_a_closed_runtime_takes_nothing(loop_mode):
    async def worker(ctx): ...

    async with RingKernelRuntime(loop_mode) as runtime:
        await runtime.launch(ring_kernel(worker))
        await runtime.send("worker", 1)
    assert len(runtime.dead_letters) == 1
    with pytest.raises(RuntimeClosedError):
        await runtime.dead_letters.replay()
    assert len(runtime.dead_letters) == 1


# -- tables and files ----------------------------------------------------------------------------------------------


class Hostile:
    def __repr__(self):
        raise RuntimeError("no")


def letter(what="hello", **options):
    options = {"reason": "drop_oldest", "kernel_id": "stats", "time": 1e9, **options}
    return DeadLetter(message=what, **options)


def test_as_text_they_are_a_table_of_the_latest():
    letters = Letters([letter(i, kind="dropped") for i in range(200)])
    lines = repr(letters).splitlines()
    assert lines[0] == "200 dead letters (200 dropped)"
    assert lines[1].split() == ["time", "kernel", "kind", "message", "reason"]
    assert lines[2] == "..."
    assert [line.split()[1:4] for line in lines[3:]] == [["stats", "dropped", str(i)] for i in range(180, 200)]
    assert repr(Letters()) == "0 dead letters"
    assert repr(Letters([letter()])).startswith("1 dead letter (1 unhandled)")


def test_a_row_of_text_is_short_whatever_the_letter_holds():
    letters = [
        letter(Hostile(), exception=ValueError("no such\ncity"), reason="it failed", instance=3),
        letter("x" * 10**6, kernel_id="k" * 1000, reason="y" * 1000),
        letter(type("list", (), {"__len__": lambda self: 7})(), is_reply=True, kind="late"),
        letter("\udc80 lone"),
    ]
    text = repr(Letters(letters))
    first, second, third, fourth = text.splitlines()[2:]
    assert max(map(len, text.splitlines())) < 400
    assert "stats[3]" in first
    assert first.endswith("it failed: ValueError: no such city")
    assert second.endswith("yyy…")
    assert "late reply" in third
    assert "\\udc80 lone" in fourth
    text.encode()


class Reader(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self.text = [], set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows:
            self.rows[-1][-1] += data


def test_in_a_page_they_are_a_table_without_tags_of_others():
    letters = [letter(i) for i in range(150)]
    letters.append(letter("<script>alert(1)</script>", kernel_id="<b>", reason="<i>", exception=ValueError("<u>")))
    page = Reader(Letters(letters)._repr_html_())
    assert not {"script", "i", "u"} & page.tags
    assert len(page.rows) == 101
    assert page.rows[0] == ["time", "kernel", "kind", "message", "reason"]
    assert page.rows[-1][1:] == ["<b>", "unhandled", "'<script>alert(1)</script>'", "<i>: ValueError: <u>"]
    assert "151 dead letters (151 unhandled)" in page.text
    assert "51 older not shown" in page.text
    assert Reader(Letters()._repr_html_()).text == "0 dead letters"


async def test_those_of_a_runtime_say_how_many_are_kept(loop_mode):
    async def worker(ctx): ...

    async with RingKernelRuntime(loop_mode, dead_letter_limit=3) as runtime:
        await runtime.launch(ring_kernel(worker))
        await runtime.send_many("worker", range(5))
    assert repr(runtime.dead_letters).startswith("5 dead letters (5 unhandled), 3 kept\n")
    assert "5 dead letters (5 unhandled), 3 kept" in runtime.dead_letters._repr_html_()


class Colour(Enum):
    RED = 1


Point = namedtuple("Point", "x y")


@dataclass
class Half:
    whole: object
    half: object = field(init=False)  # which nobody has set


ORDER = Order(
    "Zürich \udc80",
    [1, 2.5, None, True, (b"\0", {3: np.float32(0.5), "nan": math.nan}), np.zeros((2, 3), "int16"), Colour.RED],
    UUID(int=7),
)
ORDER_AS_JSON = {
    "city": "Zürich \udc80",
    "data": [1, 2.5, None, True, ["b'\\x00'", {"3": 0.5, "nan": "nan"}], "int16 array of shape (2, 3)", "Colour.RED"],
    "message_id": "00000000-0000-0000-0000-000000000007",
    "priority": 128,
    "correlation_id": None,
}


@pytest.fixture
def exported(tmp_path):
    def exported(suffix, *letters):
        path = tmp_path / f"letters{suffix}"
        assert Letters(letters).export(path) == len(letters)
        return path.read_text("utf-8")

    return exported


def test_as_json_lines(exported):
    error = ValueError("no such\ncity")
    lines = exported(".jsonl", letter(ORDER, exception=error, kind="failed", instance=2), letter(is_reply=True))
    first, second = map(json.loads, lines.splitlines())
    assert first == {
        "time": "2001-09-09T01:46:40.000000+00:00",
        "kernel_id": "stats",
        "kind": "failed",
        "is_reply": False,
        "instance": 2,
        "message_type": "Order",
        "message": ORDER_AS_JSON,
        "reason": "drop_oldest",
        "exception": "ValueError: no such\ncity",
    }
    assert datetime.fromisoformat(first["time"]) == datetime.fromtimestamp(1e9, UTC)
    assert (second["message"], second["is_reply"], second["exception"]) == ("hello", True, None)


def test_as_csv(exported):
    text = exported(".CSV", letter(ORDER, exception=ValueError('"no",\n'), kind="failed"), letter('a,"b"'))
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert json.loads(first["message"]) == ORDER_AS_JSON
    assert first["time"] == "2001-09-09T01:46:40.000000+00:00"
    assert first["exception"] == 'ValueError: "no",\n'
    assert (first["kind"], first["is_reply"], first["instance"]) == ("failed", "false", "")
    assert json.loads(second["message"]) == 'a,"b"'
    assert (second["kernel_id"], second["exception"]) == ("stats", "")


def nested(depth):
    value = "deep"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Hostile(), "<Hostile>"),
        (Half(1), {"whole": 1, "half": None}),
        (Order, str(Order)),
        (np.int64(3), 3),
        (np.longdouble(0.5), "0.5"),
        (np.zeros(1, [("a", "i4")])[0], "(0,)"),
        (math.inf, "inf"),
        (Point(1, 2), "Point(x=1, y=2)"),
        (10**30, 10**30),
        (
            {
                1,
            },
            "{1}",
        ),
    ],
)
def test_what_json_has_not_is_text(exported, value, written):
    assert json.loads(exported(".jsonl", letter(value)))["message"] == written


def test_what_is_deep_or_in_a_circle_is_text_from_some_depth_on(exported):
    circle = []
    circle.append(circle)
    for value in (nested(100), circle):
        found, depth = json.loads(exported(".jsonl", letter(value)))["message"], 0
        while isinstance(found, list):
            (found,) = found
            depth += 1
        assert depth == 20
        assert found.startswith("[[")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda some: st.lists(some) | st.dictionaries(st.text() | st.integers(), some) | st.tuples(some),
        max_leaves=20,
    ),
    st.text(),
    st.text(),
)
def test_every_letter_can_be_written_and_shown(tmp_path_factory, value, kernel_id, reason):
    letters = Letters([letter(value, kernel_id=kernel_id, reason=reason)])
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    letters.export(path)
    (line,) = path.read_bytes().splitlines()
    assert (json.loads(line)["kernel_id"], json.loads(line)["reason"]) == (kernel_id, reason)
    letters.export(path.with_suffix(".csv"))
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 2
    assert len(repr(letters).split("\n")) == 3
    letters._repr_html_().encode()


@pytest.mark.parametrize("name", ["letters.xlsx", "letters", ".jsonl"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"written as .jsonl or .csv: give '{name}'"):
        Letters([letter()]).export(str(tmp_path / name))
    assert not list(tmp_path.iterdir())


@pytest.mark.needs_exporters
def test_as_a_frame_of_pandas():
    error = ValueError("no")
    letters = Letters([letter(np.zeros(3), exception=error, kind="failed", instance=1), letter("b", is_reply=True)])
    frame = letters.to_pandas()
    assert list(frame.columns) == [
        "time", "kernel_id", "kind", "is_reply", "instance", "message", "reason", "exception",
    ]  # fmt: skip
    assert list(frame["kind"]) == ["failed", "unhandled"]
    assert list(frame["is_reply"]) == [False, True]
    assert frame["message"][0] is letters[0].message
    assert frame["exception"][0] is error
    assert (frame["instance"][0], frame["instance"][1]) == (1, None)
    assert frame["time"][0].to_pydatetime() == datetime.fromtimestamp(1e9, UTC)
    assert len(Letters().to_pandas()) == 0


def test_without_pandas_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        Letters().to_pandas()
