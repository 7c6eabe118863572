"""What observers are told of messages and kernels, and that nothing is left of them when they have gone."""

import asyncio
import gc

import numpy as np
import pytest

from pydotcompute import KernelContext, Observer, RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import KernelFailedError, MessageTypeError, RuntimeClosedError
from pydotcompute.telemetry.observer import Delivery, in_hand

pytestmark = pytest.mark.may_block  # observing a runtime on another loop waits for that loop


@message
class Number:
    n: np.int64


class Notes(Observer):
    """Writes down what it is told: (event, number of the message, ...)."""

    def __init__(self, *kernel_ids):
        self.notes = []
        self.causes = []
        if kernel_ids:
            self.kernels = frozenset(kernel_ids)

    def note(self, *what):
        self.notes.append(what)

    def sent(self, delivery):
        self.causes.append((delivery.message.n, delivery.cause and delivery.cause.message.n))
        self.note("sent", delivery.message.n)

    def queued(self, delivery):
        self.note("queued", delivery.message.n)

    def started(self, delivery):
        self.note("started", delivery.message.n)

    def replied(self, delivery, kernel_id, reply, answers):
        self.note("replied", delivery.message.n, reply.n, answers.message.n if answers else None)

    def ended(self, delivery):
        self.note("ended", delivery.message.n)

    def lost(self, kernel_id, message, kind, reason, delivery):
        self.note("lost", message.n, kind)

    def changed(self, kernel_id, state):
        self.note("changed", kernel_id, state)

    def of(self, *events):
        return [note for note in self.notes if note[0] in events]


async def double_async(ctx: KernelContext[Number, Number]):
    async for msg in ctx:
        await ctx.send(Number(2 * msg.n))


def double_step(state: None, msg: Number, out: Number) -> bool:
    out.n = 2 * msg.n
    return True


@pytest.fixture
def launch(runtime, kind):
    async def launch(kernel_id="double", *, activate=True, **options):
        if kind == "async":
            definition = ring_kernel(kernel_id, **options)(double_async)
        else:
            definition = ring_kernel(kernel_id, backend=kind, **options)(double_step)
        kernel = await runtime.launch(definition)
        if activate:
            await kernel.activate()
        return kernel

    return launch


async def test_an_observer_is_told_of_each_step_in_order(runtime, launch):
    notes = Notes()
    runtime.observe(notes)
    kernel = await launch()
    assert (await kernel.ask(Number(3))).n == 6
    await kernel.send(Number(4))
    assert (await kernel.receive()).n == 8
    await runtime.wait_idle()
    assert [note[:2] for note in notes.notes if note[0] != "changed"] == [
        (event, n) for n in (3, 4) for event in ("sent", "queued", "started", "replied", "ended")
    ]
    assert notes.of("replied") == [("replied", 3, 6, 3), ("replied", 4, 8, None)]
    await kernel.terminate()
    states = [state for _, _, state in notes.of("changed")]
    assert states == ["LAUNCHED", "ACTIVE", "TERMINATING", "TERMINATED"]


async def test_messages_that_came_before_start_and_end(runtime, launch):
    kernel = await launch(activate=False)
    await kernel.send(Number(1))
    notes = Notes()
    runtime.observe(notes)
    await kernel.activate()
    await kernel.receive()
    await runtime.wait_idle()
    assert [note[0] for note in notes.notes if note[0] != "changed"] == ["started", "replied", "ended"]


async def test_when_nobody_looks_any_more_the_short_ways_are_back(runtime, launch, kind):
    kernel = await launch()
    notes = Notes()
    runtime.observe(notes)
    await kernel.ask(Number(1))
    runtime.unobserve(notes)
    count = len(notes.notes)
    assert (await kernel.ask(Number(2))).n == 4
    await runtime.wait_idle()
    assert len(notes.notes) == count
    assert kernel._observers == ()
    assert kernel._box._is_open if kind != "async" else kernel._box.room > 0
    runtime.unobserve(notes)  # does nothing


async def test_only_the_kernels_named_are_observed(runtime, launch):
    notes = Notes("a")
    runtime.observe(notes)
    for name in "ab":
        await (await launch(name)).ask(Number(ord(name)))
    await runtime.wait_idle()
    assert {note[1] for note in notes.of("sent", "ended")} == {ord("a")}
    assert runtime["b"]._observers == ()


async def test_two_observers_see_the_same(runtime, launch):
    first, second = Notes(), Notes()
    kernel = await launch()
    runtime.observe(first)
    runtime.observe(second)
    await kernel.ask(Number(1))
    runtime.unobserve(first)
    await kernel.ask(Number(2))
    await runtime.wait_idle()
    assert [note[1] for note in first.of("ended")] == [1]
    assert [note[1] for note in second.of("ended")] == [1, 2]


async def test_an_observer_that_raises_is_taken_off_and_disturbs_nobody(runtime, launch, caplog):
    class Bad(Observer):
        def started(self, delivery):
            raise ValueError("bad observer")

    kernel, notes = await launch(), Notes()
    runtime.observe(Bad())
    runtime.observe(notes)
    assert (await kernel.ask(Number(1))).n == 2
    assert (await kernel.ask(Number(2))).n == 4
    await runtime.wait_idle()
    assert "taken off" in caplog.text
    assert runtime._observers == (notes,)
    assert [note[1] for note in notes.of("ended")] == [1, 2]


async def test_replies_of_an_observed_kernel_keep_their_order_and_their_bound(runtime, launch):
    kernel = await launch(queue_size=4)
    for n in range(3):
        await kernel.send(Number(n))
    notes = Notes()
    runtime.observe(notes)
    sending = asyncio.ensure_future(kernel.send_many([Number(n) for n in range(3, 40)]))
    replies = []
    for n in range(40):
        if n == 20:
            runtime.unobserve(notes)
        replies.append((await kernel.receive(timeout=5)).n)
        assert len(kernel._out) <= 4
    await sending
    assert replies == [2 * n for n in range(40)]


@pytest.mark.parametrize("priority", [128, 200])
async def test_drops_are_seen(runtime, launch, priority):
    notes = Notes()
    runtime.observe(notes)
    kernel = await launch(activate=False, queue_size=2, backpressure="drop_oldest")
    for n in range(4):
        await kernel.send(Number(n, priority=priority))
    assert notes.of("lost") == [("lost", 0, "dropped"), ("lost", 1, "dropped")]
    assert [note[1] for note in notes.of("sent")] == [0, 1, 2, 3]


async def test_a_refused_message_was_not_sent(runtime, launch):
    notes = Notes()
    runtime.observe(notes)
    kernel = await launch()
    with pytest.raises(MessageTypeError):
        await kernel.send("text")
    assert notes.of("sent", "queued", "lost") == []


async def test_what_is_sent_while_a_message_is_handled_was_caused_by_it(runtime, start, launch):
    await launch()

    async def front(ctx):
        async for msg in ctx:
            parts = await asyncio.gather(*(ctx.ask("double", Number(10 * msg.n + i)) for i in range(3)))
            await ctx.send(Number(sum(part.n for part in parts)))

    await start(front)
    notes = Notes()
    runtime.observe(notes)
    await asyncio.gather(*(runtime.ask("front", Number(n)) for n in range(1, 5)))
    assert sorted(notes.causes) == sorted(
        [(n, None) for n in range(1, 5)] + [(10 * n + i, n) for n in range(1, 5) for i in range(3)]
    )


async def test_a_thread_that_a_body_starts_acts_on_behalf_of_its_message(runtime, start, launch):
    await launch()

    async def front(ctx):
        async for msg in ctx:
            await ctx.send(await asyncio.to_thread(ask_in_thread, msg))

    def ask_in_thread(msg):
        return runtime.sync.ask("double", Number(msg.n + 100))

    await start(front)
    notes = Notes()
    runtime.observe(notes)
    assert (await runtime.ask("front", Number(1))).n == 202
    assert notes.causes == [(1, None), (101, 1)]


async def test_connected_kernels_hand_causes_on(runtime, launch):
    first, second = await launch("first"), await launch("second")
    notes = Notes()
    runtime.observe(notes)
    await first.connect("second")
    for n in range(1, 4):
        await first.send(Number(n))
    assert [(await second.receive(timeout=5)).n for _ in range(3)] == [4, 8, 12]
    expected = [(1, None), (2, None), (3, None), (2, 1), (4, 2), (6, 3)]
    assert sorted(notes.causes, key=str) == sorted(expected, key=str)


async def test_a_trace_that_begins_late_changes_how_connected_kernels_are_connected_and_back(runtime, launch):
    first, second = await launch("first"), await launch("second")
    await first.connect("second")
    await first.send(Number(1))
    assert (await second.receive(timeout=5)).n == 4
    notes = Notes()
    runtime.observe(notes)
    sending = asyncio.ensure_future(first.send_many([Number(n) for n in range(100)]))
    assert [(await second.receive(timeout=5)).n for _ in range(100)] == [4 * n for n in range(100)]
    await sending
    runtime.unobserve(notes)
    await first.send_many([Number(n) for n in range(100)])
    assert [(await second.receive(timeout=5)).n for _ in range(100)] == [4 * n for n in range(100)]


async def test_a_delayed_reply_names_the_ask_that_it_answers(runtime, start):
    async def lazy(ctx):
        first = await ctx.receive()
        second = await ctx.receive()
        await ctx.send(Number(0, correlation_id=first.message_id))
        await ctx.send(Number(1, correlation_id=second.message_id))

    notes = Notes()
    runtime.observe(notes)
    await start(lazy)
    await asyncio.gather(runtime.ask("lazy", Number(10)), runtime.ask("lazy", Number(20)))
    assert notes.of("replied") == [("replied", 20, 0, 10), ("replied", 20, 1, 20)]


async def test_nothing_is_in_hand_outside_of_a_body(runtime, launch):
    runtime.observe(Notes())
    kernel = await launch()
    await kernel.ask(Number(1))
    assert in_hand.get() is None


async def test_an_ask_that_fails_while_observed_fails_as_ever(runtime, start):
    async def explode(ctx):
        async for msg in ctx:
            raise ValueError(msg)

    notes = Notes()
    runtime.observe(notes)
    kernel = await start(explode)
    with pytest.raises(KernelFailedError, match="ValueError"):
        await kernel.ask(Number(1))
    assert notes.of("lost") == [("lost", 1, "failed")]


async def test_what_cannot_observe_says_so(runtime):
    with pytest.raises(TypeError, match="inherits from Observer"):
        runtime.observe(print)
    notes = Notes()
    runtime.observe(notes)
    with pytest.raises(ValueError, match="observes this runtime already"):
        runtime.observe(notes)
    await runtime.close()
    with pytest.raises(RuntimeClosedError):
        runtime.observe(Notes())
    runtime.unobserve(notes)


async def test_a_runtime_can_be_observed_before_it_starts():
    notes = Notes()
    runtime = RingKernelRuntime(loop="current")
    runtime.observe(notes)
    async with runtime:
        kernel = await runtime.launch(ring_kernel("double")(double_async))
        await kernel.activate()
        await kernel.ask(Number(1))
    assert [note[1] for note in notes.of("ended")] == [1]


def test_a_delivery_shows_what_it_is():
    made = Delivery(("text", 0, None))
    made.number, made.kernel_id = 7, "a"
    assert repr(made) == "<delivery 7 to 'a': 'text'>"


async def test_a_message_that_goes_on_for_ever_leaves_nothing_behind(runtime, start):
    async def ping(ctx):
        async for n in ctx:
            if n:
                await ctx.tell("pong" if ctx.kernel_id == "ping" else "ping", n - 1)

    runtime.observe(Observer())
    await start(ping, "ping")
    await start(ping, "pong")
    await runtime.send("ping", 1000)
    await runtime.wait_idle()
    gc.collect()
    assert sum(type(thing) is Delivery for thing in gc.get_objects()) < 20


async def test_a_body_that_begins_again_acts_on_nobodys_behalf(runtime, start, launch, eventually):
    causes = []

    class Causes(Observer):
        kernels = frozenset({"double"})

        def sent(self, delivery):
            causes.append(delivery.cause)

    await launch()

    async def eager(ctx):
        await ctx.tell("double", Number(1))
        async for _ in ctx:
            raise ValueError

    runtime.observe(Causes())
    runtime.observe(Notes("eager"))
    await start(eager, restart="on_failure", backoff=None)
    await runtime.send("eager", Number(2))
    await eventually(lambda: len(causes) == 2)
    assert causes == [None, None]


async def test_what_is_injected_was_sent_and_queued_once_wherever_it_is_put(runtime, launch):
    kernel, notes = await launch(activate=False), Notes()
    runtime.observe(notes)
    for n, at in ((1, 0), (2, 0), (3, 2)):
        kernel.inject(Number(n), at)
    kernel.move(0, 2)
    assert notes.of("sent", "queued") == [(event, n) for n in (1, 2, 3) for event in ("sent", "queued")]


async def test_a_kernel_that_sends_of_its_own_accord_is_the_source(runtime, start, launch):
    sources = []

    class Sources(Observer):
        kernels = frozenset({"second"})

        def sent(self, delivery):
            sources.append((delivery.message.n, delivery.source, delivery.cause))

    await launch("second")

    async def feed(ctx):
        await ctx.tell("second", Number(1))
        await asyncio.create_task(ctx.tell("second", Number(2)))

    runtime.observe(Sources())
    await start(feed)
    await runtime.wait_ended("feed")
    await runtime.send("second", Number(3))
    assert sources == [(1, "feed", None), (2, "feed", None), (3, None, None)]


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_an_observed_kernel_goes_on_when_what_was_in_its_ring_sent_no_reply(runtime, start, backend):
    def silent(state: None, msg: Number, out: Number) -> bool:
        out.n = msg.n
        return msg.n > 100

    kernel = await start(silent, backend=backend, queue_size=4)
    await kernel.deactivate()
    await kernel.wait_paused(timeout=5)
    for n in range(3):
        await kernel.send(Number(n))
    await kernel.reactivate()
    notes = Notes()
    runtime.observe(notes)
    await asyncio.wait_for(kernel.send_many([Number(n) for n in (1, 2, 3, 4, 101)]), 5)
    assert (await kernel.receive(timeout=5)).n == 101
