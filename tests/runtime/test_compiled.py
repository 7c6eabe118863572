"""What the runtime does about compiled ring kernels, whichever backend runs them: here the interpreted one.

That backends keep what they promise is tested in tests/device/conformance.py.
"""

import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import pydotcompute.runtime.compiled as compiled_module
from pydotcompute import KernelContext, Record, RingKernelRuntime, message, ring_kernel
from pydotcompute.device import backend as backends
from pydotcompute.device.interpreted import InterpretedBackend, InterpretedEngine, InterpretedExecutor
from pydotcompute.exceptions import (
    DefinitionError,
    InstanceError,
    KernelStateError,
    LoopError,
    MessageTypeError,
    QueueTimeoutError,
    RuntimeClosedError,
    StepError,
)
from pydotcompute.messages import to_records
from pydotcompute.runtime import KernelState, definitions
from pydotcompute.runtime.executor import PENDING, REFUSED
from pydotcompute.runtime.intake import PUMP_AGAIN, Intake
from pydotcompute.telemetry import COUNTERS


@message
class Number:
    n: np.int64


@message
class Text:
    text: str


class Tally(Record):
    handled: np.int64
    total: np.int64


def echo(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return True


def even(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return msg.n % 2 == 0


def tally(state: Tally, msg: Number, out: None) -> None:
    state.handled += 1
    state.total += msg.n


async def echo_body(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(number)


class Instant(InterpretedExecutor):
    """Answers an ask in the call itself when nothing else is queued, as a quick backend does."""

    def ask(self, message, instance, ticket):
        if self._ring or self._scheduled:
            return PENDING if self.put(message, instance, ticket) else REFUSED
        self._scheduled = True  # instead of the event loop
        try:
            if not self.put(message, instance, ticket):
                return REFUSED
            self._handled()
            [(_, reply)] = self.answers()
            return reply
        finally:
            self._scheduled = False


class Endless(InterpretedExecutor):
    """Its step does not come back."""

    resting = False


@pytest.fixture
def step(runtime, start):
    """``await step(echo, "id", queue_size=3)``: `start` on the interpreted backend."""

    async def step(body, kernel_id=None, **options):
        return await start(body, kernel_id, backend="interpreted", **options)

    return step


@pytest.fixture
def executors(monkeypatch):
    """``executors(Instant)``: the kind of executors that engines of the interpreted backend make from now on."""

    def executors(kind):
        def executor(self, program, row, notify):
            made = kind(self, program, row, notify)
            self.executors.add(made)
            return made

        monkeypatch.setattr(InterpretedEngine, "executor", executor)

    return executors


@pytest.fixture
def blocked_home(runtime):
    """``with blocked_home():`` the loop of a runtime that has a thread stands still."""

    class Blocked:
        def __enter__(self):
            self._go_on, entered = threading.Event(), threading.Event()

            def block():
                entered.set()
                self._go_on.wait(10)

            runtime._loop.call_soon_threadsafe(block)
            entered.wait(10)

        def __exit__(self, *_):
            self._go_on.set()

    return Blocked


def numbers(ns):
    return to_records(map(Number, ns))


# -- asks that are answered at once --------------------------------------------------------------------------------


async def test_an_ask_may_be_answered_in_its_own_step(runtime, step, executors, on_loop):
    executors(Instant)
    await step(even)

    async def ask():
        passes = 0

        def count():
            nonlocal passes
            passes += 1

        asyncio.get_running_loop().call_soon(count)
        replies = [await runtime.ask("even", Number(n), timeout) for n, timeout in enumerate((None, 1.0, None))]
        return replies, passes

    assert await on_loop(ask) == ([Number(0), None, Number(2)], 0)


async def test_asks_that_are_answered_at_once_let_the_loop_have_its_turn(runtime, step, executors, on_loop):
    executors(Instant)
    await step(echo)

    async def ask():
        asking, ticks = True, 0

        async def tick():
            nonlocal ticks
            while asking:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        replies = [(await runtime.ask("echo", Number(n))).n for n in range(1000)]
        asking = False
        await ticking
        return replies, ticks

    replies, ticks = await on_loop(ask)
    assert replies == list(range(1000))
    assert ticks >= 1000 // compiled_module.STREAK


async def test_others_get_their_answers_while_some_are_answered_at_once(runtime, step, executors):
    executors(Instant)
    await step(echo)
    replies = await asyncio.gather(*(runtime.ask("echo", Number(n)) for n in range(500)))
    assert [reply.n for reply in replies] == list(range(500))
    assert runtime["echo"]._asks == {}


async def test_kernels_that_hand_a_message_to_and_fro_are_not_idle_while_each_looks_so(runtime, monkeypatch):
    for name in ("ping", "pong"):
        await runtime.launch(ring_kernel(name, backend="interpreted")(echo))
    processed = COUNTERS.names.index("processed")
    rows = {kernel._executor: kernel._row for kernel in runtime.kernels.values()}
    looked, handed = None, 0

    def depth(executor):
        """Nothing, for until it is looked at again, the other one has the message."""
        nonlocal looked, handed
        if executor is not looked and handed < 50:
            looked, handed = executor, handed + 1
            rows[executor][processed] += 1
        return 0

    monkeypatch.setattr(InterpretedExecutor, "depth", property(depth))
    await runtime.wait_idle("ping", "pong", timeout=5)
    assert handed == 50


# -- from other threads and loops ----------------------------------------------------------------------------------


@pytest.mark.may_block
@pytest.mark.parametrize("loop_mode", ["thread"])
async def test_other_threads_need_not_the_loop_of_the_runtime(runtime, step, executors, blocked_home, in_thread):
    executors(Instant)
    await step(even)
    await step(tally, instances=2)

    def synchronous():
        assert runtime.sync.ask("even", Number(4)) == Number(4)
        assert runtime.sync.ask("even", Number(5), 1.0) is None
        runtime.sync.send("tally", Number(10), instance=0)
        runtime.sync.send_batch("tally", numbers([20, 30]), instance=1)

    with blocked_home():
        assert await runtime.ask("even", Number(6)) == Number(6)
        assert await runtime.ask("even", Number(7), 1.0) is None
        await runtime["tally"][0].send(Number(1))
        await runtime["tally"][1].send_batch(numbers([2, 3]))
        await in_thread(synchronous)
    await runtime.wait_idle()
    assert (await runtime.snapshot("tally"))["total"].tolist() == [11, 55]
    assert runtime["even"]._asks == {}


@pytest.mark.parametrize("way", ["coroutine", "blocking"])
@pytest.mark.parametrize("state", ["LAUNCHED", "DEACTIVATED"])
async def test_what_cannot_go_straight_in_goes_by_the_loop(runtime, start, in_thread, eventually, way, state):
    kernel = await start(even, backend="interpreted", activate=False)
    if state == "DEACTIVATED":
        await kernel.activate()
        await kernel.deactivate()

    def ask(n, **fields):
        if way == "coroutine":
            return runtime.ask("even", Number(n, **fields))
        return in_thread(runtime.sync.ask, "even", Number(n, **fields))

    asks = [asyncio.ensure_future(ask(2)), asyncio.ensure_future(ask(4, priority=3))]
    await eventually(lambda: kernel.queue_depth == 2)
    await (kernel.activate() if state == "LAUNCHED" else kernel.reactivate())
    assert await asyncio.gather(*asks) == [Number(2), Number(4)]


@pytest.mark.parametrize("wrong", [-1, 2, 99, 1 << 40, True, "1", 1.0])
async def test_wrong_instances_are_refused_wherever_they_are_named(runtime, step, in_thread, wrong):
    kernel = await step(tally, instances=2)

    async def of_another_loop():
        with pytest.raises(InstanceError, match="instances 0 to 1"):
            await runtime.send("tally", Number(1), instance=wrong)

    with pytest.raises(InstanceError, match=r"instances 0 to 1, and none "):
        kernel[wrong]
    for call in (runtime.send, runtime.ask):
        with pytest.raises(InstanceError):
            await call("tally", Number(1), instance=wrong)
    with pytest.raises(InstanceError):
        await runtime.send_batch("tally", numbers([1]), instance=wrong)
    with pytest.raises(InstanceError):
        await runtime.snapshot("tally", instance=wrong)
    await in_thread(asyncio.run, of_another_loop())
    for twin in (runtime.sync.send, runtime.sync.ask):
        with pytest.raises(InstanceError):
            await in_thread(lambda twin=twin: twin("tally", Number(1), instance=wrong))
    assert kernel.statistics().received == 0


@pytest.mark.parametrize("way", ["coroutine", "blocking"])
async def test_an_ask_of_another_thread_ends_with_its_time(runtime, step, in_thread, way):
    kernel = await step(echo)
    kernel._executor.pause()  # its messages stay in the ring

    def ask():
        return runtime.sync.ask("echo", Number(1), 0.01)

    async def awaiting():
        return await runtime.ask("echo", Number(1), 0.01)

    with pytest.raises(QueueTimeoutError, match=r"no reply from 'echo' within 0\.01 s"):
        await (in_thread(ask) if way == "blocking" else in_thread(asyncio.run, awaiting()))
    assert runtime.dead_letters.total == 0
    await kernel.deactivate()
    await kernel.reactivate()
    await runtime.wait_idle()
    assert (await runtime.ask("echo", Number(2))).n == 2
    assert [(letter.message, letter.reason) for letter in runtime.dead_letters] == [
        (Number(1), "late reply: the ask had ended")
    ]


@pytest.mark.may_block
@pytest.mark.parametrize("loop_mode", ["thread"])
async def test_an_asker_that_is_cancelled_before_the_loop_knows_it_leaves_a_dead_letter(runtime, step, blocked_home):
    kernel = await step(echo)
    with blocked_home():
        asking = asyncio.ensure_future(runtime.ask("echo", Number(1)))
        await asyncio.sleep(0)
        assert kernel.queue_depth == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert await runtime.ask("echo", Number(2)) == Number(2)
    assert [letter.message for letter in runtime.dead_letters] == [Number(1)]


async def test_a_blocking_twin_on_the_runtimes_own_loop_would_wait_for_itself(runtime, step, on_loop):
    await step(echo)

    async def call():
        for twin in (runtime.sync.ask, runtime.sync.send):
            with pytest.raises(LoopError, match=r"await runtime\."):
                twin("echo", Number(1))
        with pytest.raises(LoopError, match=r"await runtime\.send_batch"):
            runtime.sync.send_batch("echo", numbers([1]))
        with pytest.raises(LoopError, match=r"await runtime\.receive_batch"):
            runtime.sync.receive_batch("echo")

    await on_loop(call)


async def test_a_closed_runtime_takes_nothing_by_any_way(runtime, step, in_thread):
    await step(echo)
    await runtime.close()
    for call in (runtime.send, runtime.ask):
        with pytest.raises(RuntimeClosedError):
            await call("echo", Number(1))
    for twin in (runtime.sync.send, runtime.sync.ask):
        with pytest.raises(RuntimeClosedError):
            await in_thread(twin, "echo", Number(1))
    with pytest.raises(RuntimeClosedError):
        await runtime.send_batch("echo", numbers([1]))


# -- the mailbox in front of the ring ------------------------------------------------------------------------------


async def test_a_message_that_was_changed_after_it_was_sent_is_a_dead_letter(runtime, step):
    kernel = await step(echo)
    await kernel.deactivate()
    sent, asked = Number(1), Number(2)
    await runtime.send("echo", sent)
    asking = asyncio.ensure_future(runtime.ask("echo", asked))
    while kernel.queue_depth < 2:
        await asyncio.sleep(0)
    await runtime.send("echo", Number(3))
    sent.n, asked.n = "one", 2.5
    await kernel.reactivate()
    with pytest.raises(Exception, match=r"Number\.n must be np\.int64"):
        await asking
    assert await runtime.receive("echo") == Number(3)
    assert [letter.message for letter in runtime.dead_letters] == [sent, asked]
    statistics = kernel.statistics()
    assert (statistics.received, statistics.processed, statistics.dead_letters) == (3, 1, 2)


async def test_many_receivers_get_one_reply_each(runtime, step):
    await step(echo)
    receiving = [asyncio.ensure_future(runtime.receive("echo")) for _ in range(20)]
    await asyncio.sleep(0)
    await runtime.send_batch("echo", numbers(range(12)))
    while sum(task.done() for task in receiving) < 12:
        await asyncio.sleep(0)
    await runtime.send_batch("echo", numbers(range(12, 20)))
    replies = await asyncio.gather(*receiving)
    assert sorted(reply.n for reply in replies) == list(range(20))
    assert runtime["echo"].statistics().replies_unread == 0


@pytest.mark.parametrize("what", ["idleness", "the end"])
async def test_who_waits_does_not_keep_the_loop_busy(runtime, step, on_loop, what):
    kernel = await step(echo)
    if what == "idleness":
        await kernel.deactivate()
        await kernel.send(Number(1))

    async def passes_while_waiting():
        wait = runtime.wait_idle if what == "idleness" else runtime.wait_ended
        waiting = asyncio.ensure_future(wait("echo"))
        ready = []
        for _ in range(20):
            await asyncio.sleep(0)
            ready.append(len(asyncio.get_running_loop()._ready))
        waiting.cancel()
        return ready

    assert max((await on_loop(passes_while_waiting))[5:]) == 0


# -- batches of async ring kernels ---------------------------------------------------------------------------------


async def test_async_ring_kernels_take_and_send_batches_too(runtime, start):
    kernel = await start(echo_body, "echo")
    await kernel.send_batch(numbers(range(100)))
    replies = await kernel.receive_batch(60)
    assert replies.dtype == Number.dtype
    while len(replies) < 100:
        replies = np.concatenate([replies, await kernel.receive_batch()])
    assert replies["n"].tolist() == list(range(100))
    with pytest.raises(QueueTimeoutError):
        await kernel.receive_batch(timeout=0.01)


async def test_messages_without_a_layout_go_in_no_batch(runtime, start):
    async def free(ctx):
        async for any_message in ctx:
            await ctx.send(any_message)

    kernel = await start(free)
    with pytest.raises(DefinitionError, match=r"object.* is no record"):
        await kernel.send_batch(numbers([1]))
    await kernel.send_many([Text("a"), Number(1)])
    await runtime.wait_idle()
    with pytest.raises(DefinitionError, match=r"Text\.text: str has no fixed size"):
        await kernel.receive_batch()
    assert [await kernel.receive(), await kernel.receive()] == [Text("a"), Number(1)]


async def test_what_does_not_fit_is_refused_before_the_first_is_sent(runtime, step, in_thread):
    kernel = await step(echo)
    wrong = np.zeros(3, [("n", np.int32)])
    with pytest.raises(MessageTypeError, match=r"Number\.n must be int64, not int32"):
        await kernel.send_batch(wrong)
    with pytest.raises(MessageTypeError, match="NumPy array, not a list"):
        await in_thread(runtime.sync.send_batch, "echo", [Number(1)])
    with pytest.raises(MessageTypeError, match=r"Number\.n"):
        await kernel.send_many([Number(1), Number("2")])
    with pytest.raises(MessageTypeError, match=r"Number\.n"):
        await kernel.send_many([Number(1), Number("2", priority=3)])
    assert kernel.statistics().received == 0


# -- states --------------------------------------------------------------------------------------------------------


async def test_a_snapshot_of_an_async_ring_kernel_is_a_deep_copy(runtime, start):
    async def collector(ctx):
        async for number in ctx:
            ctx.state.append(number)
            await ctx.send(number)

    kernel = await start(collector, state=list)
    await kernel.ask(Number(1))
    copied = await kernel.snapshot()
    assert copied == [Number(1)]
    copied[0].n = 2
    await kernel.ask(Number(3))
    assert await runtime.snapshot("collector") == [Number(1), Number(3)]


async def test_a_kernel_that_never_had_a_state_has_none(runtime, start):
    kernel = await start(echo_body)
    await kernel.ask(Number(1))
    assert await kernel.snapshot() is None


async def test_async_ring_kernels_have_no_instances(runtime, start):
    kernel = await start(echo_body, "echo")
    with pytest.raises(InstanceError, match="'echo' is an async ring kernel: only compiled ones have instances"):
        kernel[0]
    with pytest.raises(InstanceError):
        await runtime.send("echo", Number(1), instance=0)


async def test_the_state_can_be_read_after_the_end(runtime, step):
    kernel = await step(tally, instances=2)
    await kernel[1].send_many([Number(1), Number(2)])
    await kernel.terminate()
    assert await kernel[1].snapshot() == Tally(handled=2, total=3)
    assert (await kernel.snapshot())["handled"].tolist() == [0, 2]


# -- life ----------------------------------------------------------------------------------------------------------


async def test_a_step_that_does_not_come_back_is_given_up(runtime, step, executors, monkeypatch, caplog):
    monkeypatch.setattr(compiled_module, "GRACE", 0.05)
    executors(Endless)
    kernel = await step(tally)
    kernel._executor.pause()
    asking = asyncio.ensure_future(kernel.ask(Number(1)))
    while not kernel.queue_depth:
        await asyncio.sleep(0)
    await kernel.terminate(timeout=0)
    assert kernel.state is KernelState.TERMINATED
    assert "the step of 'tally' does not come back" in caplog.text
    with pytest.raises(KernelStateError, match="TERMINATED"):
        await asking
    with pytest.raises(KernelStateError, match="state of 'tally' is lost"):
        await kernel.snapshot()


async def test_a_kernel_keeps_its_counters_when_another_takes_its_id(runtime, step):
    kernel = await step(even)
    await kernel.send_batch(numbers(range(10)))
    await kernel.terminate()
    before = kernel.statistics()
    assert (before.received, before.processed, before.replied, before.replies_unread) == (10, 10, 5, 5)
    another = await step(even)
    assert [letter.message.n for letter in runtime.dead_letters] == [0, 2, 4, 6, 8]
    assert another.statistics().received == 0
    after = kernel.statistics()
    assert (after.received, after.processed, after.replied, after.dead_letters) == (10, 10, 5, 5)
    assert sum(after.handle_histogram) == 10


def scaled(factor):
    def scaled(state: None, msg: Number, out: Number) -> bool:
        out.n = factor * msg.n
        return True

    return scaled


async def test_the_last_of_several_definitions_takes_over(runtime, step, settle):
    kernel = await step(scaled(1))
    for factor in (2, 3, 4):
        ring_kernel(backend="interpreted")(scaled(factor))
    await settle()
    assert kernel.definition is definitions()["scaled"]
    assert 1 < kernel.version <= 4
    assert await kernel.ask(Number(3)) == Number(12)


async def test_a_step_that_cannot_be_compiled_replaces_nothing(runtime, step, settle, monkeypatch):
    kernel = await step(echo)
    former = definitions()["echo"]

    def build(self, definition):
        raise StepError("cell In [3], line 2: no")

    monkeypatch.setattr(InterpretedBackend, "build", build)
    with pytest.raises(StepError, match="line 2"):
        ring_kernel("echo", backend="interpreted")(even)
    await settle()
    assert definitions()["echo"] is kernel.definition is former
    assert kernel.version == 1
    assert await kernel.ask(Number(1)) == Number(1)

    ring_kernel("other", backend="interpreted")(even)  # nothing runs under that id: it is compiled when it is launched
    with pytest.raises(StepError, match="line 2"):
        await runtime.launch("other")
    assert list(runtime.kernels) == ["echo"]


async def test_a_backend_has_one_engine_in_a_runtime(runtime, step, monkeypatch):
    closed = []
    monkeypatch.setattr(InterpretedEngine, "close", lambda engine: closed.append(engine))
    await step(echo)
    await step(even)
    engines = list(runtime._engines.values())
    assert len(engines) == 1
    await runtime.close()
    await runtime.close()
    assert closed == engines


def test_engines_are_closed_at_exit():
    script = """
import asyncio
import numpy as np
from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.device.interpreted import InterpretedEngine

close = InterpretedEngine.close
InterpretedEngine.close = lambda self: (print("closed", self.loop.is_running()), close(self))

@message
class Number:
    n: np.int64

@ring_kernel(backend="interpreted")
def echo(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return True

runtime = RingKernelRuntime("thread")
runtime.sync.launch("echo")
runtime.sync.activate("echo")
print(runtime.sync.ask("echo", Number(1)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["Number(n=1)", "closed", "True"]


# -- connections ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["cc", "ca", "ac", "aa"])
async def test_receiving_from_a_connected_kernel_says_where_its_replies_go(runtime, start, step, kinds):
    for kernel_id, kind in zip(("one", "two"), kinds, strict=True):
        await (step(echo, kernel_id) if kind == "c" else start(echo_body, kernel_id))
    await runtime.connect("one", "two")
    with pytest.raises(KernelStateError, match=r"go to 'two': to receive them, disconnect\('one'\) first"):
        await runtime.receive("one")
    with pytest.raises(KernelStateError, match="go to 'two'"):
        await runtime.receive_batch("one")
    await runtime.send("one", Number(1))
    assert await runtime.receive("two") == Number(1)
    await runtime.disconnect("one")
    await runtime.send("one", Number(2))
    assert await runtime.receive("one") == Number(2)
    with pytest.raises(KernelStateError, match="replies of 'one' go to no other kernel"):
        await runtime.disconnect("one")


async def test_a_reply_that_the_target_refuses_is_a_dead_letter(runtime, start, step):
    await start(echo_body, "one")
    two = await step(echo, "two", queue_size=1, backpressure="reject")
    await two.deactivate()
    await runtime.connect("one", "two")
    await runtime.send_many("one", [Number(1), Number(2), Number(3)])
    await runtime.wait_idle("one")
    assert [letter.message.n for letter in runtime.dead_letters] == [2, 3]
    assert {letter.kernel_id for letter in runtime.dead_letters} == {"one"}
    assert all("'two', to which it is connected" in letter.reason for letter in runtime.dead_letters)
    await two.reactivate()
    assert await two.receive() == Number(1)


@pytest.mark.parametrize("kinds", ["cc", "ca", "ac"])
async def test_idleness_of_a_chain_includes_what_is_on_its_way(runtime, start, step, kinds):
    for kernel_id, kind in zip(("one", "two"), kinds, strict=True):
        await (step(echo, kernel_id) if kind == "c" else start(echo_body, kernel_id))
    last = await step(tally, "last")
    await runtime.connect("two", "last")
    await runtime.connect("one", "two")
    for round_ in range(20):
        await runtime.send_batch("one", numbers(range(50)))
        await runtime.wait_idle()
        assert (await last.snapshot()).handled == 50 * (round_ + 1)


async def test_a_reply_that_comes_back_from_an_ended_target_can_be_received(runtime, start, step):
    one = await start(echo_body, "one")
    two = await step(echo, "two", queue_size=1)
    await two.deactivate()
    await runtime.connect("one", "two")
    await runtime.send_many("one", [Number(1), Number(2), Number(3)])
    while not two._box.blocked:
        await asyncio.sleep(0)
    await two.terminate(drain=False)
    replies = [(await one.receive()).n for _ in range(2)]
    assert replies == [2, 3]
    assert [letter.message.n for letter in runtime.dead_letters] == [1]


# -- the names of backends -----------------------------------------------------------------------------------------


def test_all_names_of_backends_are_known_to_the_error():
    with pytest.raises(DefinitionError) as caught:
        backends.choose("abacus")
    assert all(name in str(caught.value) for name in ("'auto'", "'cpu'", "'interpreted'"))


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_a_message_that_is_held_back_leaves_the_loop_to_others(monkeypatch, backend):
    pumped = []
    pump = Intake.pump
    monkeypatch.setattr(Intake, "pump", lambda self: (pumped.append(1), pump(self)))
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch(ring_kernel("held", backend=backend)(tally))
        await kernel.activate()
        await kernel.send(Number(1))
        await runtime.wait_idle()
        kernel._box.stop_before(lambda entry: True)  # as a replay does for a message whose turn has not come
        await kernel.send(Number(2))
        pumped.clear()
        begun = time.monotonic()
        await asyncio.sleep(0.3)
        assert 0 < len(pumped) <= (time.monotonic() - begun) / PUMP_AGAIN + 1
        kernel._box.stop_before(None)
        await runtime.wait_idle("held", timeout=5)
        assert (await kernel.snapshot()).total == 3
