"""`runtime.replay()`: messages come again in their order, and what differs is found."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import pydotcompute.runtime.recording as recording_module
import pydotcompute.runtime.replay as replay_module
from pydotcompute import Record, RingKernelRuntime, message
from pydotcompute.exceptions import (
    KernelNotFoundError,
    KernelStateError,
    MessageDecodeError,
    QueueTimeoutError,
    RecordingError,
)
from pydotcompute.messages.message import registry, type_name
from pydotcompute.runtime.kernel import definition_of
from pydotcompute.testing import FakeClock

pytestmark = pytest.mark.may_block  # starting a recording on another loop waits for that loop


@message
@dataclass
class Number:
    n: Any


@message
@dataclass
class Other:
    n: Any
    time: float = 0.0
    parts: list[Any] = field(default_factory=list)


@message
class Sample:
    n: np.int64


class Sum(Record):
    n: np.int64


class Duck:
    priority = 128

    def __init__(self, n):
        self.n = n


class Total:
    """The state of a kernel whose replies show in which order it got its messages."""

    def __init__(self):
        self.hash = 0

    def add(self, n):
        self.hash = (31 * self.hash + n + 7) % 1_000_003
        return self.hash


async def chained(ctx):
    async for number in ctx:
        await ctx.send(Number(ctx.state.add(number.n)))


async def doubled(ctx):
    async for number in ctx:
        await ctx.send(Number(2 * number.n))


@pytest.fixture(autouse=True)
def not_so_patient(monkeypatch):
    monkeypatch.setattr(replay_module, "LATE", 0.2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pdclog"


@pytest.fixture
async def launched(loop_mode):
    """``runtime = await launched({"id": body}, connected=[("id", "other")])``: kernels in a runtime of their own."""
    runtimes = []

    async def launched(bodies, connected=(), **options):
        runtime = await RingKernelRuntime(loop=loop_mode).__aenter__()
        runtimes.append(runtime)
        for kernel_id, body in bodies.items():
            await runtime.launch(definition_of(body, kernel_id=kernel_id, state=Total, **options))
        for source, target in connected:
            await runtime.connect(source, target)
        for kernel_id in bodies:
            await runtime.activate(kernel_id)
        return runtime

    yield launched
    for runtime in runtimes:
        await runtime.close(drain=False, timeout=1)


@pytest.fixture
def recorded(launched, path):
    """``await recorded(bodies, play, ...)``: record what `play(runtime)` does."""

    async def recorded(bodies, play, connected=(), kernels=None, **options):
        runtime = await launched(bodies, connected, **options)
        with runtime.record(path, kernels=kernels):
            await play(runtime)
            await runtime.wait_idle()

    return recorded


def asks(*numbers, kernel_id="k", make=Number):
    async def play(runtime):
        for n in numbers:
            await runtime.ask(kernel_id, make(n))

    return play


def bodies(reply):
    """A kernel ``k`` that replies with what this makes of each message."""

    async def body(ctx):
        async for number in ctx:
            for one in reply(number):
                await ctx.send(one)

    return {"k": body}


# -- the same again ----------------------------------------------------------------------------------------------------


async def test_nothing_differs_where_nothing_has_changed(recorded, launched, path):
    async def play(runtime):
        for n in range(20):
            await runtime.ask("k", Number(n))
            await runtime.send("k", Number(100 + n))

    await recorded({"k": chained}, play)
    runtime = await launched({"k": chained})
    replay = await runtime.replay(path)
    assert replay
    assert replay.ok
    assert (replay.differences, replay.messages, replay.replies, replay.notes) == ((), 40, 40, ())
    assert "no differences; 40 messages sent, 40 replies compared" in repr(replay)
    assert runtime._observers == ()
    assert runtime["k"].statistics().processed == 40
    assert len(runtime["k"]._out) == 0  # nobody else would take the replies


async def test_from_synchronous_code(loop_mode, recorded, launched, path, in_thread):
    await recorded({"k": doubled}, asks(1, 2))
    runtime = await launched({"k": doubled})
    replay = await in_thread(lambda: runtime.sync.replay(path))
    assert (replay.ok, replay.messages) == (True, 2)


async def test_messages_are_handled_in_the_recorded_order_whatever_made_it(recorded, launched, path):
    async def play(runtime):
        await runtime.send("k", Number(0))
        await runtime.deactivate("k")  # so that priorities change the order
        for n in range(1, 30):
            await runtime.send("k", Number(n, priority=n * 37 % 256))
        await runtime.reactivate("k")
        await runtime.wait_idle()
        for n in range(30):
            await runtime.ask("k", Number(n, priority=n))

    await recorded({"k": chained}, play)
    replay = await (await launched({"k": chained})).replay(path)
    assert replay.ok, replay
    assert replay.replies == 60


@pytest.mark.parametrize("seed", range(3))
async def test_so_are_those_that_other_kernels_send(recorded, launched, path, seed):
    async def forking(ctx):
        async for number in ctx:
            for target in ("b", "c", "b")[: number.n % 4]:
                await ctx.tell(target, Number(ctx.state.add(number.n), priority=number.n * 31 % 256))
            if number.n % 3:
                await asyncio.sleep(0)
            await ctx.send(Number(ctx.state.hash))

    async def play(runtime):
        dice = random.Random(seed)
        pending = []
        for n in range(150):
            target = dice.choice("abc")
            one = Number(n, priority=dice.randrange(256))
            if dice.random() < 0.5:
                await runtime.send(target, one)
            else:
                pending.append(asyncio.ensure_future(runtime.ask(target, one)))
            if dice.random() < 0.3 and pending:
                await pending.pop()
        await asyncio.gather(*pending)

    kernels = {"a": forking, "b": chained, "c": chained, "d": chained}
    await recorded(kernels, play, connected=[("b", "d"), ("c", "d")])
    runtime = await launched(kernels, connected=[("b", "d"), ("c", "d")])
    replay = await runtime.replay(path)
    assert replay.ok, replay
    assert replay.messages == 150  # those of other kernels are not sent twice
    assert replay.replies > 250


async def test_what_is_not_replayed_itself_sends_nothing(recorded, launched, path):
    kernels = {"a": doubled, "b": chained}
    await recorded(kernels, asks_then_sends, connected=[("a", "b")])
    runtime = await launched(kernels)
    replay = await runtime.replay(path, kernels=["b"])
    assert (replay.ok, replay.messages, replay.replies) == (True, 8, 8), replay
    assert runtime["a"].statistics().processed == 0
    replay = await runtime.replay(path, kernels="a")
    assert (replay.ok, replay.messages, replay.replies) == (True, 12, 12), replay
    with pytest.raises(RecordingError, match=r"no message that 'x' has handled .*some: 'a', 'b'"):
        await runtime.replay(path, kernels=["a", "x"])


async def asks_then_sends(runtime):
    for n in range(4):
        await runtime.ask("a", Number(n))
    for n in range(8):
        await runtime.send("a", Number(n))


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_compiled_kernels_too(recorded, launched, path, backend):
    def summed(state: Sum, msg: Sample, out: Sample) -> bool:
        state.n = 3 * state.n + msg.n
        out.n = state.n
        return msg.n % 2 == 0

    def twice(state: None, msg: Sample, out: Sample) -> bool:
        out.n = 2 * msg.n
        return True

    def compiled(factor):
        async def launch():
            runtime = await launched({})
            await runtime.launch(definition_of(summed, kernel_id="sum", state=Sum, backend=backend, instances=2))
            body = twice if factor == 2 else thrice
            await runtime.launch(definition_of(body, kernel_id="twice", backend=backend, queue_size=8))
            await runtime.launch(definition_of(summed, kernel_id="end", state=Sum, backend=backend))
            await runtime.connect("twice", "end")
            for kernel_id in ("sum", "twice", "end"):
                await runtime.activate(kernel_id)
            return runtime

        return launch()

    def thrice(state: None, msg: Sample, out: Sample) -> bool:
        out.n = 3 * msg.n
        return True

    runtime = await compiled(2)
    with runtime.record(path):
        for n in range(10):
            await runtime.ask("sum", Sample(n), instance=n % 2)
            await runtime.send("twice", Sample(n))
            await runtime.send("end", Sample(n, priority=n))
        await runtime.wait_idle()
    replay = await (await compiled(2)).replay(path)
    assert replay.ok, replay
    assert (replay.messages, replay.replies) == (30, 30)
    differences = (await (await compiled(3)).replay(path)).differences
    assert {(one.kernel_id, one.kind) for one in differences} >= {("twice", "reply"), ("end", "reply")}
    assert not any(one.kernel_id == "sum" for one in differences)


# -- what differs ------------------------------------------------------------------------------------------------------


async def replayed(recorded, launched, path, before, after, *numbers, **options):
    await recorded(bodies(before), asks(*numbers))
    return await (await launched(bodies(after))).replay(path, **options)


async def test_another_reply_is_found(recorded, launched, path):
    replay = await replayed(
        recorded, launched, path, lambda m: [Number(m.n)], lambda m: [Number(m.n + (m.n == 2))], 1, 2, 3
    )
    assert not replay
    [difference] = replay.differences
    assert (difference.kernel_id, difference.kind) == ("k", "reply")
    assert (difference.message, difference.expected, difference.got) == (Number(2), Number(2), Number(3))
    assert difference.text == "n: 3, recorded was 2"
    assert "1 difference; 3 messages sent" in repr(replay)
    assert "n: 3, recorded was 2" in repr(replay)
    html = replay._repr_html_()
    assert "n: 3, recorded was 2" in html
    assert html.startswith("<div")


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (1.0, 1.0, None),
        (float("nan"), float("nan"), None),
        (0.1 + 0.2, 0.3, "n: 0.3, recorded was 0.30000000000000004"),
        (np.float32([1, np.nan]), np.float32([1, np.nan]), None),
        (np.float32([1, 2]), np.float32([1, 3]), "n: array("),
        (np.float32([1, 2]), np.float64([1, 2]), "n: array("),
        (np.float32([1, 2]), [1, 2], "n: [1, 2], recorded was array("),
        ([1, {"a": 2}], [1, {"a": 3}], "n[1]['a']: 3, recorded was 2"),
        ([1, 2], [1, 2, 3], "n: [1, 2, 3], recorded was [1, 2]"),
        ((1, 2), [1, 2], "n: [1, 2], recorded was (1, 2)"),
        (Other(1), Other(1), None),
        (Other(1), Other(2), "n.n: 2, recorded was 1"),
        (Other(1), Number(1), f"n: {type_name(Number)}, recorded was {type_name(Other)}"),
        ("x", None, "n: None, recorded was 'x'"),
    ],
)
async def test_fields_are_compared_by_their_values(before, after, text):
    unlike = replay_module._unlike(Number(before), Number(after), ("message_id", "correlation_id"))
    assert unlike == "" if text is None else unlike.startswith(text)


async def test_ids_are_not_compared_and_fields_may_be_left_out(recorded, launched, path):
    clock = iter(range(100))

    def reply(m):
        return [Other(m.n, time=next(clock), correlation_id=m.message_id)]

    await recorded(bodies(reply), asks(1, 2))
    runtime = await launched(bodies(reply))
    assert [one.text for one in (await runtime.replay(path)).differences] == [
        "time: 2, recorded was 0",
        "time: 3, recorded was 1",
    ]
    assert (await runtime.replay(path, ignore=["time"])).ok
    assert (await runtime.replay(path, ignore="time")).ok


async def test_replies_that_are_missing_or_that_nobody_recorded(recorded, launched, path):
    replay = await replayed(
        recorded,
        launched,
        path,
        lambda m: [m, m] if m.n == 1 else [m],
        lambda m: [m] if m.n == 1 else [m, Number(9)],
        1,
        2,
    )
    missing, extra = replay.differences
    assert (missing.kind, missing.message, missing.expected, missing.got) == (
        "missing reply",
        Number(1),
        Number(1),
        None,
    )
    assert (extra.kind, extra.message, extra.expected, extra.got) == ("extra reply", Number(2), None, Number(9))


async def test_a_reply_that_goes_elsewhere(recorded, launched, path):
    async def late(ctx):
        async for number in ctx:
            await ctx.send(Number(number.n, correlation_id=number.message_id))
            await ctx.send(number)

    async def early(ctx):
        async for number in ctx:
            await ctx.send(Number(number.n, correlation_id=Number(0).message_id))  # of no ask
            await ctx.send(number)

    await recorded({"k": late}, asks(1))
    [to_box, to_ask] = (await (await launched({"k": early})).replay(path)).differences
    assert to_box.text == "went to the outbox, recorded was to the ask"
    assert to_ask.text == "went to the ask, recorded was to the outbox"


async def test_failures_are_compared(recorded, launched, path):
    def raising(*fails):
        async def body(ctx):
            async for number in ctx:
                for n, error in fails:
                    if number.n == n:
                        raise error("no")
                await ctx.send(number)

        return {"k": body}

    async def play(runtime):
        for n in range(5):
            await runtime.send("k", Number(n))

    options = {"restart": "on_failure", "backoff": None, "max_restarts": 9, "window": 1.0}
    await recorded(raising((1, ValueError), (2, ValueError), (3, ValueError)), play, **options)
    same = await launched(raising((1, ValueError), (2, ValueError), (3, ValueError)), **options)
    assert (await same.replay(path)).ok
    other = await launched(raising((2, KeyError), (3, ValueError), (4, ValueError)), **options)
    replay = await other.replay(path)
    assert [(one.message.n, one.kind, one.text) for one in replay.differences] == [
        (1, "failure", "no failure, recorded was ValueError"),
        (1, "extra reply", "Number(n=1) was not recorded"),
        (2, "failure", "KeyError: 'no', recorded was ValueError"),
        (4, "failure", "ValueError: no, recorded was none"),
        (4, "missing reply", "recorded was Number(n=4)"),
    ]


async def test_a_kernel_that_fails_for_good_takes_no_more(recorded, launched, path):
    async def failing(ctx):
        async for number in ctx:
            if number.n == 1:
                raise ValueError("not 1")
            await ctx.send(number)

    await recorded(bodies(lambda m: [m]), asks(0, 1, 2))
    replay = await (await launched({"k": failing})).replay(path)
    assert [(one.message.n, one.kind) for one in replay.differences] == [
        (1, "failure"),
        (1, "missing reply"),
        (2, "refused"),
    ]
    assert "not 1" in replay.differences[2].text
    assert replay.messages == 2


async def test_messages_among_kernels_that_did_not_come_or_that_nobody_recorded(recorded, launched, path):
    def telling(which):
        async def body(ctx):
            async for number in ctx:
                if which(number.n):
                    await ctx.tell("end", number)

        return {"k": body, "end": chained}

    async def play(runtime):
        for n in range(4):
            await runtime.send("k", Number(n))
            await runtime.send("end", Number(10 + n))

    await recorded(telling(lambda n: n in (1, 2)), play)
    replay = await (await launched(telling(lambda n: n in (2, 3)))).replay(path)
    messages = [one for one in replay.differences if "message" in one.kind]
    assert [(one.kernel_id, one.kind, one.message) for one in messages] == [
        ("end", "missing message", Number(1)),
        ("end", "extra message", Number(3)),
    ]
    assert "'k' did not send it" in messages[0].text


# -- what is left out, and what else is there --------------------------------------------------------------------------


async def test_what_was_not_handled_is_left_out(recorded, launched, path, gate):
    go = gate()

    async def slow(ctx):
        async for number in ctx:
            await ctx.send(number)
            if number.n == 1:
                await go.wait()
            await ctx.send(number)

    runtime = await launched({"k": slow})
    with runtime.record(path):
        await runtime.send("k", Number(0))
        await runtime.send("k", Number(1))
        await runtime.send("k", Number(2))
        for _ in range(3):
            await runtime.receive("k")
    go.open()
    replay = await (await launched({"k": slow})).replay(path)
    assert (replay.ok, replay.messages, replay.replies) == (True, 2, 3)
    assert replay.notes == ("1 message left out that no kernel had handled when the recording ended",)


async def test_messages_without_encoding_are_left_out_and_told(recorded, launched, path):
    async def play(runtime):
        await asks(1, make=Duck)(runtime)
        await asks(2)(runtime)

    await recorded(bodies(lambda m: [Duck(m.n)]), play)
    runtime = await launched(bodies(lambda m: [Duck(m.n)]))
    replay = await runtime.replay(path)
    assert (replay.ok, replay.messages, replay.replies) == (True, 1, 1)
    [note] = replay.notes
    assert "1 of" in note
    assert "Duck left out: it has no encoding, put @message on the class" in note
    assert f"note: {note}" in repr(replay)
    assert "Duck left out" in replay._repr_html_()
    other = await launched(bodies(lambda m: [Number(1)]))
    [difference] = (await other.replay(path)).differences
    assert "recorded was" in difference.text


async def test_a_state_that_was_not_fresh_is_told(launched, path):
    runtime = await launched({"k": chained})
    await runtime.ask("k", Number(1))
    with runtime.record(path):
        await runtime.ask("k", Number(2))
    replay = await (await launched({"k": chained})).replay(path)
    assert not replay
    assert replay.notes == (
        "'k' had handled 1 message before it was recorded, and may have had another state than now",
    )


async def test_what_a_replay_does_not_do_again_is_told(launched, path):
    async def ticking(ctx):
        await ctx.send(Number(0))
        await ctx.tell("k", Number(1))
        async for number in ctx:
            await ctx.send(number)

    runtime = await launched({"k": doubled})
    with runtime.record(path):
        await runtime.ask("k", Number(1))
        await runtime.restart("k")
        await runtime.terminate("k")
        await runtime.launch(definition_of(doubled, kernel_id="k"))
        await runtime.activate("k")
        await runtime.launch(definition_of(ticking, kernel_id="t"))
        await runtime.activate("t")
        await runtime.ask("t", Number(5))
        await runtime.wait_idle()
    replay = await (await launched({"k": doubled, "t": ticking})).replay(path)
    assert replay.ok, replay
    assert set(replay.notes) == {
        "1 reply not compared, of no message in the recording",
        "'k' was launched again while it was recorded, and is not while it is replayed",
        "1 message did not come that kernels had sent with nothing in hand",
    }


async def test_a_recording_without_messages_is_replayed_at_once(recorded, launched, path):
    async def nothing(runtime): ...

    await recorded({"k": doubled}, nothing)
    assert (await (await launched({})).replay(path)).ok


async def test_a_breakpoint_of_the_user_stays(recorded, launched, path):
    kernels = {"k": doubled, "end": chained}
    await recorded(kernels, asks_of_k, connected=[("k", "end")])
    runtime = await launched(kernels, connected=[("k", "end")])
    runtime["end"].break_when(lambda number: number.n == 100)
    assert (await runtime.replay(path)).ok
    await runtime.send("end", Number(100))
    assert (await runtime.wait_paused("end")).n == 100
    runtime["end"].break_when(None)


async def asks_of_k(runtime):
    for n in range(3):
        await runtime.send("k", Number(n))


async def test_a_torn_log_is_replayed_and_a_damaged_one_is_not(recorded, launched, path):
    await recorded({"k": doubled}, asks(1, 2, 3))
    data = path.read_bytes()
    runtime = await launched({"k": doubled})
    path.write_bytes(data[:-3])
    replay = await runtime.replay(path)
    assert (replay.ok, replay.messages) == (True, 3)
    assert replay.notes[0].startswith("the recording is torn at byte")
    path.write_bytes(data[:200] + b"\xff" + data[201:])
    with pytest.raises(RecordingError, match=r"damaged at byte .* reads what comes before"):
        await runtime.replay(path)


async def test_classes_that_are_gone_are_an_error_before_anything_is_sent(recorded, launched, path, monkeypatch):
    await recorded({"k": doubled}, asks(1, 2, 3))
    runtime = await launched({"k": doubled})
    monkeypatch.delitem(registry, type_name(Number))
    with pytest.raises(MessageDecodeError, match=r"no message type .*Number' is known"):
        await runtime.replay(path)
    assert runtime["k"].statistics().received == 0


async def test_kernels_that_are_missing_or_do_not_run_are_an_error(recorded, launched, path):
    kernels = {"a": doubled, "b": doubled, "c": doubled}

    async def play(runtime):
        for kernel_id in kernels:
            await runtime.ask(kernel_id, Number(1))

    await recorded(kernels, play)
    runtime = await launched({"b": doubled})
    with pytest.raises(KernelNotFoundError, match="not launched here: 'a', 'c'; launch and activate them first"):
        await runtime.replay(path)
    await runtime.deactivate("b")
    with pytest.raises(KernelStateError, match="'b' is DEACTIVATED: a replay needs it to be ACTIVE"):
        await runtime.replay(path, kernels=["b"])
    assert runtime._observers == ()
    with pytest.raises(FileNotFoundError):
        await runtime.replay(path.with_name("other"))


async def test_replies_are_left_to_who_reads_them(recorded, launched, path):
    async def play(runtime):
        for n in range(10):
            await runtime.send("k", Number(n))
            await runtime.receive("k")

    await recorded({"k": doubled}, play)
    runtime = await launched({"k": doubled}, queue_size=3)
    await runtime.send("k", Number(100))
    await runtime.wait_idle()
    assert (await runtime.replay(path)).ok  # although the outbox is small
    assert (await runtime.receive("k")).n == 200  # the reply that was there before
    read = []

    async def reader():
        while True:
            read.append((await runtime.receive("k")).n)

    reading = asyncio.ensure_future(reader())
    await asyncio.sleep(0)
    assert (await runtime.replay(path)).ok
    await runtime.wait_idle()
    while len(read) < 10:
        await asyncio.sleep(0)
    reading.cancel()
    assert read == [2 * n for n in range(10)]


async def test_others_may_send_meanwhile(recorded, launched, path):
    await recorded({"k": doubled}, asks(*range(50)))
    runtime = await launched({"k": doubled})
    replay, *replies = await asyncio.gather(runtime.replay(path), *(runtime.ask("k", Number(n)) for n in range(50)))
    assert replay.ok
    assert [reply.n for reply in replies] == [2 * n for n in range(50)]


async def test_back_pressure_that_drops_or_rejects_loses_nothing(recorded, launched, path):
    for strategy in ("drop_oldest", "drop_newest", "reject"):
        path.unlink(missing_ok=True)
        await recorded({"k": chained}, asks(*range(40)), backpressure=strategy, queue_size=2)
        replay = await (await launched({"k": chained}, backpressure=strategy, queue_size=2)).replay(path)
        assert (replay.ok, replay.messages) == (True, 40), strategy


async def test_tasks_of_a_kernel_may_send_later(recorded, launched, path):
    async def body(ctx):
        async def later(number):
            await asyncio.sleep(0.02)
            await ctx.tell("end", number)

        tasks = []
        async for number in ctx:
            tasks.append(asyncio.ensure_future(later(number)))

    kernels = {"k": body, "end": chained}

    async def play(runtime):
        await runtime.send("k", Number(1))
        while runtime["end"].statistics().processed == 0:
            await asyncio.sleep(0)
        await runtime.send("end", Number(2))

    await recorded(kernels, play)
    replay = await (await launched(kernels)).replay(path)
    assert (replay.ok, replay.replies) == (True, 2), replay


# -- time --------------------------------------------------------------------------------------------------------------


async def test_the_rhythm_is_that_of_the_recording_times_its_speed(launched, path, monkeypatch):
    now = 0
    monkeypatch.setattr(recording_module, "clock", lambda: now)
    runtime = await launched({"k": doubled})
    with runtime.record(path):
        for n in (0, 1, 5):
            now = int((3 + n) * 1e9)
            await runtime.ask("k", Number(n))
    arrivals = []

    async def noting(ctx):
        async for number in ctx:
            arrivals.append((number.n, asyncio.get_running_loop().time()))
            await ctx.send(Number(2 * number.n))

    runtime = await launched({"k": noting})
    for speed, seconds in ((1.0, 5.0), (2, 2.5), (None, 0.0)):
        arrivals.clear()
        with FakeClock(runtime):
            replay = await runtime.replay(path, speed=speed)
        assert replay.ok
        assert round(replay.seconds, 1) == seconds
        begun = arrivals[0][1]
        since = [(n, round(at - begun, 1)) for n, at in arrivals]
        assert since == [(0, 0.0), (1, seconds / 5), (5, seconds)]
    for speed in (0, -1, float("nan"), float("inf"), "fast"):
        with pytest.raises(ValueError, match="speed must be a number above 0"):
            await runtime.replay(path, speed=speed)


async def test_it_gives_up_when_nothing_happens_any_more(recorded, launched, path, gate):
    never = gate()

    async def stuck(ctx):
        async for number in ctx:
            if number.n == 2:
                await never.wait()
            await ctx.send(number)

    await recorded(bodies(lambda m: [m]), asks(1, 2, 3))
    runtime = await launched({"k": stuck})
    with (
        FakeClock(runtime),
        pytest.raises(QueueTimeoutError, match=r"has happened for 0\.5 s, after 2 of 3 messages: 'k' is ACTIVE"),
    ):
        await runtime.replay(path, timeout=0.5)
    assert runtime._observers == ()
    never.open()
    with pytest.raises(ValueError, match="timeout"):
        await runtime.replay(path, timeout=-1)


async def test_a_recording_can_be_made_of_a_replay(recorded, launched, path):
    await recorded({"k": doubled, "end": chained}, asks(1, 2, 3), connected=[("k", "end")])
    runtime = await launched({"k": doubled, "end": chained}, connected=[("k", "end")])
    again = path.with_name("again.pdclog")
    with runtime.record(again):
        assert (await runtime.replay(path)).ok
    assert (await (await launched({"k": doubled, "end": chained}, connected=[("k", "end")])).replay(again)).ok
