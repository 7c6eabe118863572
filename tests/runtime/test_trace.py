"""Traces of real kernels: everything is there, once, with what caused it."""

import asyncio
import gc
import weakref
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import RuntimeClosedError
from pydotcompute.runtime.kernel import definition_of
from pydotcompute.telemetry.trace import Events

pytestmark = pytest.mark.may_block  # starting a trace of a runtime on another loop waits for that loop


@message
class Ask:
    number: int
    way: int = 0


@message
class Answer:
    number: int


@message
class Number:
    n: np.int64


async def front(ctx):
    async for asked in ctx:
        got = await ctx.ask("middle", Ask(asked.number, 1, priority=asked.priority))
        await ctx.send(Answer(got.number))


async def middle(ctx):
    async for asked in ctx:
        got = await ctx.ask("back", Ask(asked.number, 2, priority=asked.priority))
        await ctx.send(Answer(got.number))


async def back(ctx):
    async for asked in ctx:
        if asked.number % 3 == 0:
            await asyncio.sleep(0)
        await ctx.send(Answer(asked.number))


async def chain_in(runtime: RingKernelRuntime) -> None:
    for body in (front, middle, back):
        kernel = await runtime.launch(ring_kernel(body.__name__)(body))
        await kernel.activate()


def check_complete(events: Events) -> None:
    """Each message was sent, queued, taken and handled once, in this order, and nothing else has happened to it."""
    assert events.left_out == 0
    stamps = [e.stamp for e in events]
    assert stamps == sorted(set(stamps))
    seen: dict[int, list[str]] = {}
    for e in events:
        if e.number is not None and e.kind != "reply":
            seen.setdefault(e.number, []).append(e.kind)
    assert all(kinds == ["send", "enqueue", "start", "end"] for kinds in seen.values())
    in_hand: dict[str, int] = {}
    for e in events:
        if e.kind == "start":
            assert e.kernel_id not in in_hand
            in_hand[e.kernel_id] = e.number
        elif e.kind == "end":
            assert in_hand.pop(e.kernel_id) == e.number
        if e.kind == "send" and e.cause is not None:
            assert in_hand[e.source] == e.cause  # it was being handled, there and then
        if e.kind == "reply":
            assert in_hand[e.kernel_id] == e.number
    assert not in_hand


def check_causes(events: Events, count: int) -> None:
    """Through the chain of three, each message was caused by the one with its number at the kernel before."""
    sends = {e.number: e for e in events.of(kind="send")}
    assert Counter(e.kernel_id for e in sends.values()) == {"front": count, "middle": count, "back": count}
    before = {"front": None, "middle": "front", "back": "middle"}
    for e in sends.values():
        assert e.source == before[e.kernel_id]
        if e.cause is None:
            assert e.kernel_id == "front"
        else:
            assert sends[e.cause].kernel_id == e.source
            assert sends[e.cause].message.number == e.message.number
    for e in events.of(kind="reply"):
        assert e.answers == e.number
        assert e.message.number == sends[e.number].message.number
        assert (e.cause, e.source) == (sends[e.number].cause, sends[e.number].source)
    for number in [e.number for e in sends.values() if e.cause is None][:5]:
        members = {e.number for e in events.chain(number)}
        assert {sends[n].message.number for n in members} == {sends[number].message.number}
        assert len(members) == 3


@given(st.lists(st.integers(0, 255), min_size=1, max_size=100), st.integers(1, 100))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("loop_mode", ["current", "thread"])
def test_causes_are_right_under_concurrent_asks(loop_mode, priorities, at_once):
    async def run() -> None:
        async with RingKernelRuntime(loop=loop_mode) as runtime:
            await chain_in(runtime)
            trace = runtime.trace()
            trace.start()
            limit = asyncio.Semaphore(at_once)

            async def ask(number: int, priority: int) -> None:
                async with limit:
                    answer = await runtime.ask("front", Ask(number, priority=priority))
                    assert answer.number == number

            await asyncio.gather(*(ask(number, priority) for number, priority in enumerate(priorities)))
            await runtime.wait_idle()
            trace.stop()
        check_complete(trace)
        check_causes(trace, len(priorities))

    asyncio.run(run())


async def test_a_hundred_concurrent_asks(runtime):
    await chain_in(runtime)
    trace = runtime.trace().start()
    await asyncio.gather(*(runtime.ask("front", Ask(number)) for number in range(100)))
    await runtime.wait_idle()
    trace.stop()
    check_complete(trace)
    check_causes(trace, 100)
    assert trace.of(kind="reply", kernel_id="back")[0].source == "middle"
    assert all(d.fate == "handled" and d.waited >= 0 and d.handled > 0 for d in trace.deliveries)


def test_it_works_from_synchronous_code_too():
    runtime = RingKernelRuntime(loop="thread")
    with runtime.trace() as trace:
        for body in (front, middle, back):
            runtime.sync.launch(ring_kernel(body.__name__)(body))
            runtime.sync.activate(body.__name__)
        assert trace.recording
        for number in range(20):
            assert runtime.sync.ask("front", Ask(number)).number == number
        runtime.sync.wait_idle()
    assert not trace.recording
    check_complete(trace)
    check_causes(trace, 20)
    assert [e.detail for e in trace.of("front", "state")] == ["LAUNCHED", "ACTIVE"]
    runtime.sync.close()
    with pytest.raises(RuntimeClosedError):
        trace.start()


async def test_a_trace_can_begin_in_the_middle(start, runtime, gate):
    opened, taken = gate(), gate()

    async def slow(ctx):
        async for asked in ctx:
            taken.open()
            await opened.wait()
            await ctx.send(Answer(asked.number))

    await start(slow)
    asks = [asyncio.ensure_future(runtime.ask("slow", Ask(n))) for n in range(3)]
    await taken.wait()
    while runtime["slow"].queue_depth < 2:
        await asyncio.sleep(0)
    trace = runtime.trace().start()
    opened.open()
    await asyncio.gather(*asks)
    await runtime.ask("slow", Ask(3))
    await runtime.wait_idle()
    trace.stop()
    kinds = Counter(e.kind for e in trace)
    assert kinds["send"] == kinds["enqueue"] == 1
    assert kinds["start"] == kinds["end"] == 3  # the one in hand went the short way
    assert [d.waited is None for d in trace.deliveries] == [True, True, False]
    assert [e.message.number for e in trace.of(kind="reply")] == [0, 1, 2, 3]


async def test_two_traces_at_once_see_the_same(runtime):
    await chain_in(runtime)
    both, only = runtime.trace(), runtime.trace(kernels=["back"], messages=False, limit=40)
    both.start()
    only.start()
    for number in range(12):
        await runtime.ask("front", Ask(number))
    await runtime.wait_idle()
    only.stop()
    await runtime.ask("front", Ask(12))
    await runtime.wait_idle()
    both.stop()
    assert [(e.kind, e.number, e.cause) for e in only] == [
        (e.kind, e.number, e.cause) for e in both.of("back")[20:60] if e.message.number < 12
    ]
    assert only.left_out == 20
    assert {e.message for e in only} == {None}
    check_complete(both)


async def test_only_those_kernels_go_the_long_way(runtime, start):
    await chain_in(runtime)
    trace = runtime.trace(kernels=["back", "later"]).start()
    assert [bool(runtime[k]._observers) for k in ("front", "middle", "back")] == [False, False, True]
    await start(back, "later")
    await runtime.ask("front", Ask(1))
    await runtime.ask("later", Ask(2))
    await runtime.wait_idle()
    trace.stop()
    assert {e.kernel_id for e in trace} == {"back", "later"}
    assert [e.message.number for e in trace.of(kind="send")] == [1, 2]
    assert "LAUNCHED" in [e.detail for e in trace.of("later")]


async def test_off_again_leaves_the_short_ways_on(runtime):
    await chain_in(runtime)
    trace = runtime.trace()
    before = [(runtime[k]._box.room, runtime[k]._box.ready is runtime[k]._box.plain) for k in ("front", "back")]
    trace.start()
    assert runtime["back"]._box.room == 0
    assert trace.start() is trace  # a second time does nothing
    await runtime.ask("front", Ask(1))
    trace.stop()
    trace.stop()
    recorded = len(trace)
    after = [(runtime[k]._box.room, runtime[k]._box.ready is runtime[k]._box.plain) for k in ("front", "back")]
    assert before == after == [(1024, True)] * 2
    assert [runtime[k]._observers for k in ("front", "middle", "back")] == [()] * 3
    assert runtime._observers == ()
    await runtime.ask("front", Ask(1))
    await runtime.wait_idle()
    assert len(trace) == recorded
    trace.start()  # and on again
    await runtime.ask("front", Ask(2))
    trace.stop()
    assert len(trace) > recorded


async def test_an_ask_that_is_answered_later_is_still_that_of_who_asked(runtime, start):
    async def second_first(ctx):
        first = await ctx.receive()
        second = await ctx.receive()
        for asked in (second, first):
            await ctx.send(Answer(asked.number, correlation_id=asked.message_id))

    async def asker(ctx):
        async for asked in ctx:
            await ctx.send(await ctx.ask("second_first", asked))

    await start(second_first)
    await start(asker, "one")
    await start(asker, "two")
    with runtime.trace() as trace:
        await asyncio.gather(runtime.ask("one", Ask(1)), runtime.ask("two", Ask(2)))
        await runtime.wait_idle()
    late, early = sorted(trace.of("second_first", "reply"), key=lambda e: e.message.number)
    sends = {e.number: e for e in trace.of("second_first", "send")}
    for e, source in ((late, "one"), (early, "two")):
        assert (e.source, sends[e.answers].source) == (source, source)
        assert sends[e.answers].message.number == e.message.number
        assert e.number == sends[early.answers].number  # what was in hand when it replied


async def test_connected_kernels_pass_the_cause_on(runtime, start):
    await start(back, "one")

    async def two(ctx):
        async for answer in ctx:
            if answer.number == 3:
                await ctx.send(answer)

    await start(two)
    await runtime.connect("one", "two")
    trace = runtime.trace().start()
    for number in range(5):
        await runtime.send("one", Ask(number))
    assert (await runtime.receive("two")).number == 3
    await runtime.wait_idle()
    trace.stop()
    first = {e.number: e for e in trace.of("one", "send")}
    second = trace.of("two", "send")
    assert [e.message.number for e in second] == list(range(5))
    for e in second:
        assert e.source == "one"
        assert first[e.cause].message.number == e.message.number
    assert {e.answers for e in trace.of(kind="reply")} == {None}
    assert len(trace.chain(second[3].number).of(kind="reply")) == 2


@pytest.mark.usefixtures("caplog")
async def test_crashes_retries_restarts_and_drops_are_seen(runtime, start):
    trace = runtime.trace().start()

    async def fragile(ctx):
        async for asked in ctx:
            if asked.number == 1:
                raise ValueError("not 1")

    await start(fragile, restart="on_failure", backoff=None, max_retries=1, queue_size=2, backpressure="drop_newest")
    await runtime.deactivate("fragile")
    for number in range(3):
        await runtime.send("fragile", Ask(number))
    await runtime.reactivate("fragile")
    await runtime.wait_idle()
    trace.stop()
    fates = [(d.message.number, d.fate, d.attempts) for d in trace.deliveries]
    assert fates == [(0, "handled", 0), (1, "failed", 2), (2, "dropped", 0)]
    assert [e.detail for e in trace.of(kind="crash")] == ["ValueError: not 1"] * 2
    assert [e.detail for e in trace.of(kind="restart")] == ["restart 1", "restart 2"]
    assert [e.detail.partition(":")[0] for e in trace.of(kind="drop")] == ["dropped", "failed"]
    states = [e.detail for e in trace.of(kind="state")]
    assert states == ["LAUNCHED", "ACTIVE", "DEACTIVATED", "ACTIVE"]
    assert [h.end.kind for h in trace.handlings] == ["end", "crash", "crash"]


async def test_a_trace_that_keeps_no_messages_lets_them_go(runtime, start, settle):
    class Heavy:
        pass

    async def sink(ctx):
        async for _ in ctx:
            pass

    await start(sink)
    trace = runtime.trace(messages=False).start()
    sent = Heavy()
    gone = weakref.ref(sent)
    await runtime.send("sink", sent)
    del sent
    await runtime.send("sink", None)  # the body's own variable holds the latest
    await runtime.wait_idle()
    await settle()
    gc.collect()
    assert gone() is None
    assert [e.type for e in trace.of(kind="send")] == ["Heavy", "NoneType"]
    trace.stop()


def double(state: None, msg: Number, out: Number) -> bool:
    out.n = 2 * msg.n
    return True


def increment(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n + 1
    return True


@pytest.fixture(scope="module")
def compiled() -> None:
    """The compiler, where it has not met these steps before, may take longer than a test may."""
    runtime = RingKernelRuntime(loop="thread")
    for step in (double, increment):
        runtime.sync.launch(definition_of(step, backend="cpu"))
    runtime.sync.close()


@pytest.fixture(params=["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        request.getfixturevalue("compiled")
    return request.param


async def test_compiled_kernels(backend, runtime, start):
    for step in (double, increment):
        await start(step, backend=backend)
    await runtime.connect("double", "increment")
    trace = runtime.trace().start()
    answers = await asyncio.gather(*(runtime.ask("double", Number(n)) for n in range(10)))
    assert [answer.n for answer in answers] == [2 * n for n in range(10)]
    for n in range(10):
        await runtime.send("double", Number(n))
    assert [(await runtime.receive("increment", timeout=5)).n for _ in range(10)] == [2 * n + 1 for n in range(10)]
    await runtime.wait_idle()
    trace.stop()
    kinds = {k: Counter(e.kind for e in trace.of(k)) for k in ("double", "increment")}
    assert kinds["double"] == {"send": 20, "enqueue": 20, "start": 20, "reply": 20, "end": 20}
    assert kinds["increment"] == {"send": 10, "enqueue": 10, "start": 10, "reply": 10, "end": 10}
    sends = {e.number: e for e in trace.of(kind="send")}
    for e in trace.of("increment", "send"):
        assert (e.source, e.message.n) == ("double", 2 * sends[e.cause].message.n)
    for kernel_id in kinds:
        handlings = [h for h in trace.handlings if h.start.kernel_id == kernel_id]
        assert all(one.end.time <= two.begun for one, two in pairwise(handlings))
    assert await runtime.ask("double", Number(4)) == Number(8)  # and on the short way again
