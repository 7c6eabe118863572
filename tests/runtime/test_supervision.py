"""Restarts: policies, limits, back-off, retries, groups; of async and of compiled ring kernels."""

import asyncio
import itertools
import logging
import time
from contextlib import suppress
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Backoff, KernelContext, Record, RingKernelRuntime, Shape, message, ring_kernel
from pydotcompute.exceptions import (
    DefinitionError,
    KernelFailedError,
    KernelKilledError,
    KernelNotFoundError,
    KernelStateError,
    QueueTimeoutError,
)
from pydotcompute.runtime import KernelState
from pydotcompute.runtime.dead_letters import error_text
from pydotcompute.telemetry.observer import Observer
from pydotcompute.testing import FakeClock


@message
class Number:
    n: np.int64


class Tally(Record):
    count: np.int64
    cells: Annotated[NDArray[np.int64], Shape(1)]


BAD = 13


async def count_async(ctx: KernelContext[Number, Number]):
    """Reply with how many it has handled; fail on 13."""
    async for msg in ctx:
        ctx.state.count = getattr(ctx.state, "count", 0) + 1
        if msg.n == BAD:
            raise ValueError("unlucky")
        await ctx.send(Number(ctx.state.count))


def count_step(state: Tally, msg: Number, out: Number) -> bool:
    state.count += 1
    state.cells[100 if msg.n == 13 else 0] += 1
    out.n = state.count
    return True


@pytest.fixture
def launch(runtime, kind):
    """``await launch("a", restart=...)``: a kernel of this kind that counts, launched and activated."""

    async def launch(kernel_id="counter", **options):
        if kind == "async":
            definition = ring_kernel(kernel_id, **options)(count_async)
        else:
            options = {"backend": kind, "state": Tally, "boundscheck": True, **options}
            definition = ring_kernel(kernel_id, **options)(count_step)
        kernel = await runtime.launch(definition)
        await kernel.activate()
        return kernel

    return launch


async def value(awaitable):
    return (await awaitable).n


async def test_a_failure_restarts_the_kernel_and_costs_one_message(runtime, launch):
    kernel = await launch(restart="on_failure", backoff=None)
    assert await value(kernel.ask(Number(1))) == 1
    with pytest.raises(KernelFailedError, match="goes on with the next"):
        await kernel.ask(Number(BAD))
    assert await value(kernel.ask(Number(2))) == 1  # a new state
    statistics = kernel.statistics()
    assert (kernel.restarts, statistics.restarts, statistics.errors, statistics.retried) == (1, 1, 1, 0)
    assert kernel.state is KernelState.ACTIVE
    assert kernel.exception is None
    assert kernel.last_exception is not None
    ((at, why),) = kernel.restarted
    assert kernel.history[-1][1] <= at <= time.time()
    assert why == error_text(kernel.last_exception)
    (letter,) = runtime.dead_letters
    assert (letter.kind, letter.message.n, letter.exception) == ("failed", BAD, kernel.last_exception)
    assert statistics.received == 3 == statistics.processed + statistics.dead_letters


async def test_what_is_queued_survives_a_restart_in_its_order(runtime, launch):
    kernel = await launch(restart="on_failure", keep_state=True)
    replies = await asyncio.gather(*(kernel.ask(Number(n)) for n in (1, 2, BAD, 3, 4)), return_exceptions=True)
    assert [getattr(reply, "n", None) for reply in replies] == [1, 2, None, 4, 5]
    assert isinstance(replies[2], KernelFailedError)


async def test_the_state_is_made_anew_or_kept_as_the_policy_says(launch, kind):
    fresh = await launch("fresh", restart="on_failure")
    kept = await launch("kept", restart="on_failure", keep_state=True)
    for kernel in (fresh, kept):
        await kernel.ask(Number(1))
        with pytest.raises(KernelFailedError):
            await kernel.ask(Number(BAD))
    assert await value(fresh.ask(Number(1))) == 1
    assert await value(kept.ask(Number(1))) == 3


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_a_message_is_tried_again_as_often_as_allowed(runtime, launch, retries):
    kernel = await launch(restart="on_failure", max_restarts=9, max_retries=retries, backoff=None)
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    assert await value(kernel.ask(Number(1))) == 1
    assert (kernel.restarts, kernel.statistics().retried) == (retries + 1, retries)
    assert [letter.message.n for letter in runtime.dead_letters] == [BAD]


async def test_an_ask_stays_pending_while_its_message_is_tried_again(runtime, start):
    tries = []

    async def third_time_lucky(ctx):
        async for msg in ctx:
            tries.append(msg)
            if len(tries) < 3:
                raise ValueError(len(tries))
            await ctx.send("at last")

    await start(third_time_lucky, restart="on_failure", max_retries=2, backoff=None)
    assert await runtime.ask("third_time_lucky", "please") == "at last"
    assert tries == ["please"] * 3
    assert not runtime.dead_letters


async def test_a_message_that_is_tried_again_comes_before_the_others_of_its_priority(runtime, start):
    seen, failed = [], []

    @message
    class Job:
        name: str

    async def work(ctx):
        async for job in ctx:
            seen.append(job.name)
            if job.name in ("a", "x") and job.name not in failed:
                failed.append(job.name)
                raise ValueError(job.name)

    kernel = await start(work, activate=False, restart="on_failure", max_retries=1, backoff=None)
    for job in (Job("a"), Job("b"), Job("x", priority=200), Job("y", priority=200)):
        await kernel.send(job)
    await kernel.activate()
    await runtime.wait_idle()
    assert seen == ["x", "x", "y", "a", "a", "b"]


async def test_a_storm_ends_in_failed_and_says_why(runtime, launch, caplog):
    kernel = await launch(restart="on_failure", max_restarts=2, max_retries=99, backoff=None)
    with pytest.raises(KernelFailedError, match=r"for good, after 2 restarts in 60 s"):
        await kernel.ask(Number(BAD))
    assert await runtime.wait_ended(kernel.id) is KernelState.FAILED
    assert kernel.restarts == 2
    assert kernel.statistics().errors == 3
    with pytest.raises(KernelFailedError, match="for good"):
        await kernel.send(Number(1))
    assert "for good, after 2 restarts in 60 s" in caplog.records[-1].getMessage()


async def test_restarts_that_have_left_the_window_do_not_count(runtime, start):
    async def explode(ctx):
        async for msg in ctx:
            raise ValueError(msg)

    with FakeClock(runtime) as clock:
        kernel = await start(explode, restart="on_failure", max_restarts=1, window=3600.0, backoff=None)
        for i in range(5):
            with pytest.raises(KernelFailedError, match="goes on"):
                await kernel.ask(i)
            await clock.advance(3601)
        assert kernel.restarts == 5
        for _ in range(2):
            with pytest.raises(KernelFailedError):
                await kernel.ask(6)
        assert await runtime.wait_ended(kernel.id) is KernelState.FAILED
    assert kernel.restarts == 6


async def test_restarts_wait_longer_and_longer(runtime, start):
    begun = []

    async def explode(ctx):
        begun.append(runtime._loop.time())
        async for msg in ctx:
            raise ValueError(msg)

    backoff = Backoff(first=10.0, factor=3.0, limit=100.0, jitter=0.0)
    with FakeClock(runtime):
        kernel = await start(explode, restart="on_failure", max_restarts=6, window=1e6, backoff=backoff)
        for i in range(6):
            await kernel.send(i)
        while len(begun) < 7:  # a restart is counted before its body begins
            await asyncio.sleep(1)
    assert kernel.restarts == 6
    waits = [round(b - a) for a, b in itertools.pairwise(begun)]
    assert waits == [0, 10, 30, 90, 100, 100]


async def test_a_poison_message_does_not_restart_for_ever(runtime, launch):
    kernel = await launch(restart="on_failure", max_restarts=50, max_retries=5, backoff=None)
    await kernel.send(Number(BAD))
    await kernel.send(Number(1))
    await runtime.wait_idle()
    assert kernel.restarts == 6
    assert kernel.state is KernelState.ACTIVE
    assert (await kernel.receive()).n == 1


async def test_never_is_the_default_and_fails_at_once(runtime, launch):
    kernel = await launch()
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    assert await runtime.wait_ended(kernel.id) is KernelState.FAILED
    assert kernel.restarts == 0
    assert kernel.last_exception is kernel.exception is not None


@pytest.mark.parametrize("restart", ["on_failure", "always"])
async def test_a_body_that_returns_begins_again_if_the_policy_is_always(runtime, start, restart):
    async def once(ctx):
        await ctx.send(await ctx.receive())

    kernel = await start(once, restart=restart, max_restarts=2, backoff=None)
    assert await runtime.ask("once", 1) == 1
    if restart == "on_failure":
        assert await runtime.wait_ended("once") is KernelState.TERMINATED
        return
    assert await runtime.ask("once", 2) == 2
    assert await runtime.ask("once", 3) == 3
    assert await runtime.wait_ended("once") is KernelState.TERMINATED
    assert kernel.restarts == 2


async def test_the_second_restart_waits_and_the_status_says_so(runtime, launch, eventually):
    kernel = await launch(restart="on_failure", max_restarts=9, backoff=Backoff(600.0, limit=900.0, jitter=0.0))
    for _ in range(2):
        with pytest.raises(KernelFailedError):
            await kernel.ask(Number(BAD))
    await eventually(lambda: "restart 2" in kernel.waiting_for)
    assert kernel.restarts == 1
    await kernel.send(Number(1))  # the mailbox is open
    assert kernel.queue_depth == 1
    with pytest.raises(KernelStateError, match="waits for restart 2"):
        await kernel.kill()
    await kernel.restart()  # at once
    assert (await kernel.receive(timeout=5)).n == 1
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    await kernel.send(Number(1))
    await kernel.terminate(timeout=1)
    assert kernel.state is KernelState.TERMINATED
    assert runtime.dead_letters[-1].message.n == 1


def test_backoff_doubles_up_to_its_limit_and_jitter_shortens():
    still = Backoff(first=1.0, factor=2.0, limit=5.0, jitter=0.0)
    assert [still.wait(n) for n in range(1, 7)] == [0, 1, 2, 4, 5, 5]
    assert still.wait(100_000) == 5
    waits = {Backoff(first=1.0, jitter=0.5).wait(2) for _ in range(100)}
    assert len(waits) > 50
    assert all(0.5 <= wait <= 1 for wait in waits)
    assert Backoff(first=1.0, factor=3.0, jitter=0.0).wait(3) == 3


@pytest.mark.parametrize("is_async", [True, False])
async def test_on_restart_is_told_before_the_new_body_begins(launch, is_async):
    told = []

    def hook(restart):
        told.append((restart.kernel.id, restart.number, str(restart.exception), restart.message.n))

    async def slow_hook(restart):
        await asyncio.sleep(0)
        hook(restart)

    kernel = await launch(restart="on_failure", backoff=None, on_restart=slow_hook if is_async else hook)
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    assert await value(kernel.ask(Number(1))) == 1
    ((kernel_id, number, text, n),) = told
    assert (kernel_id, number, n) == (kernel.id, 1, BAD)
    assert text


async def test_a_hook_that_raises_is_a_failure(runtime, launch):
    def hook(restart):
        raise RuntimeError("the hook")

    kernel = await launch(restart="on_failure", max_restarts=3, backoff=None, on_restart=hook)
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    assert await runtime.wait_ended(kernel.id) is KernelState.FAILED
    assert str(kernel.exception) == "the hook"
    assert kernel.restarts == 3


async def test_a_restart_by_hand_keeps_the_queue_and_counts(runtime, launch):
    kernel = await launch()
    await kernel.ask(Number(1))
    await kernel.deactivate()
    asked = asyncio.ensure_future(kernel.ask(Number(2)))
    while not kernel.queue_depth:
        await asyncio.sleep(0)
    await kernel.restart()
    assert kernel.state is KernelState.DEACTIVATED
    await kernel.reactivate()
    assert (await asked).n == 1
    await kernel.restart(keep_state=True)
    assert await value(kernel.ask(Number(2))) == 2
    assert kernel.restarts == 2
    assert not runtime.dead_letters


async def test_a_kernel_that_has_failed_can_be_restarted_by_hand(runtime, launch):
    kernel = await launch()
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    await runtime.wait_ended(kernel.id)
    await kernel.restart()
    assert runtime[kernel.id].state is KernelState.ACTIVE
    assert await value(runtime.ask(kernel.id, Number(1))) == 1


async def test_a_restart_by_hand_has_a_timeout(runtime, start, gate):
    go_on = gate()

    async def slow(ctx):
        async for _ in ctx:
            await go_on.wait()

    kernel = await start(slow)
    await kernel.send(1)
    while not kernel.busy:
        await asyncio.sleep(0)
    with pytest.raises(QueueTimeoutError, match="not begun again"):
        await kernel.restart(timeout=0.01)
    go_on.open()
    await runtime.wait_idle()
    await kernel.restart()  # the first was still to come
    assert not runtime.dead_letters


async def test_what_cannot_be_restarted_or_killed_says_so(runtime, start):
    async def body(ctx):
        async for _ in ctx:
            pass

    kernel = await start(body, activate=False)
    with pytest.raises(KernelStateError, match="activate it"):
        await kernel.restart()
    with pytest.raises(KernelStateError, match="activate it first"):
        await kernel.kill()
    with pytest.raises(KernelNotFoundError):
        await runtime.restart("nobody")
    await kernel.activate()
    with pytest.raises(TypeError, match="must be an exception"):
        await kernel.kill("now")
    await kernel.terminate()
    with pytest.raises(KernelStateError, match="TERMINATED"):
        await kernel.kill()


async def test_a_kill_fails_the_kernel_with_the_error_given(runtime, launch):
    kernel = await launch()
    await kernel.kill()
    assert await runtime.wait_ended(kernel.id) is KernelState.FAILED
    assert isinstance(kernel.exception, KernelKilledError)
    other = await launch("other", restart="on_failure")
    await other.kill(ZeroDivisionError("mine"))
    assert await value(other.ask(Number(1))) == 1
    assert isinstance(other.last_exception, ZeroDivisionError)
    assert not runtime.dead_letters


async def test_a_kill_in_the_middle_of_a_message_costs_that_message(runtime, start, gate):
    begun = gate()

    async def slow(ctx):
        async for _ in ctx:
            begun.open()
            await asyncio.sleep(3600)

    kernel = await start(slow, restart="on_failure")
    asked = asyncio.ensure_future(kernel.ask("it"))
    await begun.wait()
    await kernel.kill()
    with pytest.raises(KernelFailedError, match="was killed"):
        await asked
    assert [(letter.message, letter.kind) for letter in runtime.dead_letters] == [("it", "failed")]
    assert kernel.state is KernelState.ACTIVE


async def test_asks_that_were_put_aside_fail_at_a_restart_unless_the_state_is_kept(runtime, start):
    @message
    class Note:
        text: str

    async def lazy(ctx):
        async for note in ctx:
            if note.text == "fail":
                raise ValueError("told to")
            if note.text == "answer":
                for old in ctx.state.notes:
                    await ctx.send(Note("late", correlation_id=old.message_id))
            else:
                ctx.state.notes = [*getattr(ctx.state, "notes", []), note]

    for keep_state in (False, True):
        kernel = await start(lazy, f"lazy{keep_state}", restart="on_failure", keep_state=keep_state)
        asked = asyncio.ensure_future(kernel.ask(Note("first")))
        while not kernel.unanswered:
            await kernel.send(Note("next"))
            await runtime.wait_idle()
        await kernel.send(Note("fail"))
        await runtime.wait_idle()
        if keep_state:
            await kernel.send(Note("answer"))
            assert (await asked).text == "late"
        else:
            with pytest.raises(KernelFailedError, match="started again before it had replied"):
                await asked


# -- groups ------------------------------------------------------------------------------------------------------------


async def test_one_for_all_restarts_the_siblings_once(runtime, launch):
    kernels = [await launch(f"k{i}", restart="on_failure", backoff=None) for i in range(4)]
    group = await runtime.supervise(*(kernel.id for kernel in kernels), strategy="one_for_all", max_restarts=5)
    for kernel in kernels:
        await kernel.ask(Number(1))
    with pytest.raises(KernelFailedError):
        await kernels[1].ask(Number(BAD))
    for kernel in kernels:
        while kernel.restarts < 1:
            await asyncio.sleep(0)
    assert [await value(kernel.ask(Number(1))) for kernel in kernels] == [1] * 4  # all states are new
    assert [kernel.restarts for kernel in kernels] == [1] * 4
    assert group.restarts == 1
    assert [kernel.statistics().errors for kernel in kernels] == [0, 1, 0, 0]


async def test_siblings_finish_the_message_in_hand_before_they_begin_again(runtime, start, launch, gate, kind):
    begun, go_on = gate(), gate()

    async def slow(ctx):
        async for _ in ctx:
            begun.open()
            await go_on.wait()
            await ctx.send("done")

    sibling = await start(slow)
    kernel = await launch(restart="on_failure")
    await runtime.supervise("slow", kernel.id, strategy="one_for_all")
    asked = asyncio.ensure_future(sibling.ask("it"))
    await begun.wait()
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    go_on.open()
    assert await asked == "done"
    while sibling.restarts < 1:
        await asyncio.sleep(0)
    assert not [letter for letter in runtime.dead_letters if letter.kernel_id == "slow"]


async def test_one_for_one_leaves_the_siblings_alone_and_shares_the_limit(runtime, launch):
    a, b = [await launch(name, restart="on_failure", max_restarts=99, backoff=None) for name in "ab"]
    group = await runtime.supervise("a", "b", max_restarts=3)
    for kernel in (a, b, a):
        with pytest.raises(KernelFailedError):
            await kernel.ask(Number(BAD))
    assert (a.restarts, b.restarts, group.restarts) == (2, 1, 3)
    with pytest.raises(KernelFailedError, match="3 restarts in 60 s of its group"):
        await b.ask(Number(BAD))
    assert await runtime.wait_ended("b") is KernelState.FAILED
    assert a.state is KernelState.ACTIVE


async def test_one_for_all_ends_all_when_one_fails_for_good(runtime, launch):
    kernels = [await launch(name, restart="on_failure", max_restarts=9, backoff=None) for name in "abc"]
    await runtime.supervise("a", "b", "c", strategy="one_for_all", max_restarts=1)
    for _ in range(2):
        with pytest.raises(KernelFailedError):
            await kernels[0].ask(Number(BAD))
    for kernel in kernels:
        assert await runtime.wait_ended(kernel.id) is KernelState.FAILED
    with pytest.raises(KernelFailedError, match="together with 'a'"):
        await kernels[1].send(Number(1))
    assert isinstance(kernels[2].exception, KernelKilledError)


async def test_two_failures_at_once_restart_each_sibling_once(runtime, start, gate):
    go_on, arrived = gate(), []

    async def fails_together(ctx):
        async for msg in ctx:
            arrived.append(ctx.kernel_id)
            await go_on.wait()
            if msg == "fail":
                raise ValueError(ctx.kernel_id)

    kernels = [await start(fails_together, name, restart="on_failure", backoff=None) for name in "abcd"]
    group = await runtime.supervise(*"abcd", strategy="one_for_all", max_restarts=9)
    for kernel in kernels:
        await kernel.send("fail" if kernel.id in "ab" else "work")
    while len(arrived) < 4:
        await asyncio.sleep(0)
    go_on.open()
    for kernel in kernels:
        while kernel.restarts < 1:
            await asyncio.sleep(0)
    await runtime.wait_idle()
    assert [kernel.restarts for kernel in kernels] == [1] * 4
    assert group.restarts == 1


async def test_a_group_shows_what_it_is_and_refuses_what_cannot_be(runtime, launch):
    await launch("a")
    await launch("b")
    with pytest.raises(ValueError, match="at least one"):
        await runtime.supervise()
    with pytest.raises(ValueError, match="one_for_one, one_for_all"):
        await runtime.supervise("a", strategy="all")
    with pytest.raises(ValueError, match="max_restarts"):
        await runtime.supervise("a", max_restarts=0)
    with pytest.raises(ValueError, match="window"):
        await runtime.supervise("a", window=-1)
    with pytest.raises(KernelNotFoundError):
        await runtime.supervise("a", "nobody")
    group = await runtime.supervise("a", "b", strategy="one_for_all", max_restarts=4, window=9)
    assert (group.kernel_ids, group.max_restarts, group.window) == (("a", "b"), 4, 9)
    assert repr(group) == "<supervision group one_for_all of 'a', 'b', 0 restarts>"
    with pytest.raises(KernelStateError, match="in a group already"):
        await runtime.supervise("b", "a")


# -- definitions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"restart": "sometimes"}, "never, on_failure, always"),
        ({"max_restarts": 5}, "add restart='on_failure'"),
        ({"keep_state": True}, "add restart='on_failure'"),
        ({"restart": "always", "max_restarts": -1}, "max_restarts"),
        ({"restart": "always", "max_retries": 1.5}, "max_retries"),
        ({"restart": "always", "window": 0}, "window"),
        ({"restart": "always", "backoff": "soon"}, "backoff"),
        ({"restart": "always", "keep_state": 1}, "keep_state"),
        ({"restart": "always", "on_restart": 1}, "on_restart"),
    ],
)
def test_options_that_cannot_be_are_refused(options, text):
    with pytest.raises(DefinitionError, match=text):
        ring_kernel("counter", **options)(count_async)


def test_a_long_backoff_is_not_cut_short():
    policy = ring_kernel("counter", restart="on_failure", backoff=600)(count_async).policy
    assert 300 <= policy.backoff.wait(2) <= 600
    with pytest.raises(DefinitionError, match="limit of a Backoff must be at least first=60"):
        Backoff(60.0)


@pytest.mark.parametrize("field", ["first", "factor", "limit", "jitter"])
def test_a_backoff_that_cannot_be_is_refused(field):
    with pytest.raises(DefinitionError, match=field):
        Backoff(**{field: -1.0})


async def test_a_redefinition_takes_over_at_a_restart_too(runtime, start, gate):
    go_on = gate()

    def body_of(version):
        async def body(ctx):
            async for _ in ctx:
                if version == "old":
                    await go_on.wait()
                    raise ValueError("old")
                await ctx.send(version)

        return body

    kernel = await start(body_of("old"), "swapped", restart="on_failure", max_retries=1)
    asked = asyncio.ensure_future(kernel.ask(1))
    while not kernel.busy:
        await asyncio.sleep(0)
    ring_kernel("swapped", restart="on_failure", max_retries=1)(body_of("new"))
    go_on.open()
    assert await asked == "new"
    assert kernel.version == 2


async def test_termination_ends_restarts(runtime, start, gate):
    begun = gate()

    async def explode(ctx):
        async for _ in ctx:
            begun.open()
            await asyncio.sleep(0)
            raise ValueError("boom")

    kernel = await start(explode, restart="always", max_restarts=1000, backoff=None, max_retries=1000)
    await kernel.send(1)
    await begun.wait()
    await kernel.terminate(timeout=5)
    assert kernel.state.over


@pytest.mark.may_block
async def test_an_observer_sees_failures_and_restarts(runtime, launch, on_loop):
    seen = []

    class Watch(Observer):
        kernels = frozenset({"counter"})

        def failed(self, kernel_id, error, delivery):
            seen.append(("failed", kernel_id, delivery.message.n))

        def restarted(self, kernel_id, number):
            seen.append(("restarted", kernel_id, number))

        def lost(self, kernel_id, message, kind, reason, delivery):
            seen.append(("lost", kind, message.n))

    runtime.observe(Watch())
    kernel, other = [await launch(name, restart="on_failure", backoff=None) for name in ("counter", "other")]
    for one in (kernel, other):
        with pytest.raises(KernelFailedError):
            await one.ask(Number(BAD))
    assert seen == [("failed", "counter", BAD), ("lost", "failed", BAD), ("restarted", "counter", 1)]


async def test_each_failure_is_in_the_log_with_what_comes_of_it(launch, caplog):
    caplog.set_level(logging.ERROR)
    kernel = await launch(restart="on_failure", max_restarts=3, backoff=None)
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    (record,) = caplog.records
    assert "'counter' failed and is started again (1 of 3 in 60 s)" in record.getMessage()
    assert record.exc_info[1] is kernel.last_exception


@pytest.mark.parametrize("backend", ["interpreted", pytest.param("cpu", marks=pytest.mark.needs_numba)])
async def test_a_state_that_cannot_be_made_anew_ends_the_kernel(runtime, start, backend):
    made = []

    def make():
        made.append(1)
        if len(made) > 2:  # the first is made at the definition, the second at the launch
            raise RuntimeError("no more states")
        return Tally()

    options = {"restart": "on_failure", "max_restarts": 9, "backoff": None}
    kernel = await start(count_step, "counter", backend=backend, state=make, boundscheck=True, **options)
    with pytest.raises(KernelFailedError, match="no more states"):
        await kernel.ask(Number(BAD))
    assert await runtime.wait_ended("counter") is KernelState.FAILED
    assert kernel.restarts == 0
    assert [letter.message.n for letter in runtime.dead_letters] == [BAD]


@pytest.mark.parametrize("passes", range(1, 9))
async def test_what_a_connected_kernel_failed_with_is_not_lost_when_it_is_terminated(runtime, launch, passes):
    await launch("source")
    target = await launch("target")
    await runtime.connect("source", "target")
    asks = [asyncio.ensure_future(target.ask(Number(n))) for n in (BAD, 1)]
    for _ in range(passes):
        await asyncio.sleep(0)
    with suppress(KernelFailedError, KernelStateError):  # it has ended of itself
        await runtime.terminate("target", drain=False, timeout=2)
    results = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 5)
    assert all(isinstance(result, KernelStateError | KernelFailedError | Number) for result in results)
    lost = [letter for letter in runtime.dead_letters if letter.kernel_id == "target" and not letter.is_reply]
    statistics = target.statistics()
    assert statistics.received == statistics.processed + len(lost)


@pytest.mark.parametrize("kind", ["async", "interpreted"])
async def test_a_new_definition_brings_a_new_limit(launch, kind):
    kernel = await launch(restart="on_failure", max_restarts=1, backoff=None)
    with pytest.raises(KernelFailedError):
        await kernel.ask(Number(BAD))
    options = {} if kind == "async" else {"backend": kind, "state": Tally, "boundscheck": True}
    ring_kernel("counter", restart="on_failure", max_restarts=2, backoff=None, **options)(kernel.definition.body)
    while kernel.version < 2:
        await asyncio.sleep(0)
    for _ in range(2):
        with pytest.raises(KernelFailedError, match="goes on with the next"):
            await kernel.ask(Number(BAD))
    assert kernel.restarts == 3


async def test_a_kernel_that_was_to_begin_again_has_the_time_to_end_that_terminate_gives_it():
    @ring_kernel
    async def slow(ctx: KernelContext[Number, Number]):
        async for _ in ctx:
            await asyncio.sleep(4)

    async with RingKernelRuntime() as runtime:
        with FakeClock():
            kernel = await runtime.launch(slow)
            await kernel.activate()
            await kernel.send_many([Number(n) for n in range(5)])
            await asyncio.sleep(1)
            restart = asyncio.ensure_future(kernel.restart(timeout=100))
            await asyncio.sleep(0.1)
            await kernel.terminate(timeout=60)
            with pytest.raises(KernelStateError, match="TERMINATED"):
                await restart
    assert (kernel.state, kernel.statistics().processed) == (KernelState.TERMINATED, 5)
