"""`runtime.health()`: whether the runtime lives, and its kernels do their work."""

import asyncio
import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import QueueTimeoutError
from pydotcompute.runtime import health as health_module

LONG = 3600.0


@message
@dataclass
class Number:
    n: np.int64


@pytest.fixture
def busy(start, gate):
    """``kernel, begun, go = await busy()``: a kernel that keeps each message in hand until `go` is opened."""

    async def busy(kernel_id="busy", **options):
        begun, go = gate(), gate()

        async def body(ctx):
            async for _ in ctx:
                begun.open()
                await go.wait()

        return await start(body, kernel_id, **options), begun, go

    return busy


async def idle(ctx):
    async for _ in ctx:
        ...


async def test_a_runtime_whose_kernels_run_is_live_and_ready(runtime, start):
    assert runtime.health().ready  # no kernel, nothing amiss
    await start(idle)
    health = runtime.health()
    assert health
    assert (health.live, health.ready, health.reason) == (True, True, "")
    assert 0 <= health.loop_lag < 0.5
    kernel = health["idle"]
    assert (kernel.state, kernel.ready, kernel.stalled) == ("ACTIVE", True, False)
    assert (kernel.quiet, kernel.error, kernel.restarts, kernel.reason) == (None, "", 0, "")


async def test_a_kernel_that_handles_nothing_of_what_is_queued_is_stalled(runtime, busy):
    kernel, begun, go = await busy()
    await kernel.send(1)
    await begun.wait()
    assert runtime.health(stalled_after=0).ready  # it has a message in hand, and none waits
    await kernel.send_many([2, 3])
    assert runtime.health().ready
    assert runtime.health(stalled_after=LONG).ready
    health = runtime.health(stalled_after=0)
    assert (health.live, health.ready) == (True, False)
    assert (health["busy"].stalled, health["busy"].ready) == (True, False)
    assert health["busy"].reason.startswith("is stalled: it has one message in hand for 0.")
    assert health["busy"].reason.endswith("2 queued")
    assert health.reason.startswith("'busy' is stalled")
    assert 0 < health["busy"].quiet < 20
    go.open()
    await runtime.wait_idle()
    assert runtime.health(stalled_after=0).ready


@pytest.mark.parametrize(
    ("verb", "has", "waits_for"),
    [
        ("tell", 2, "room in the mailbox of 'busy'"),
        ("ask", 2, "room in the mailbox of 'busy'"),
        ("ask", 0, "the reply of 'busy'"),
    ],
)
async def test_who_waits_for_another_says_for_what(runtime, start, busy, eventually, verb, has, waits_for):
    kernel, begun, go = await busy(queue_size=2)
    await kernel.send(0)
    await begun.wait()
    await kernel.send_many(range(has))

    async def asker(ctx):
        async for n in ctx:
            await getattr(ctx, verb)("busy", n)
            return

    await start(asker)
    await runtime.send_many("asker", [1, 2])
    said = f"1 queued, waiting for {waits_for}"
    await eventually(lambda: runtime.health(stalled_after=0)["asker"].reason.endswith(said))
    assert "waiting" not in runtime.health(stalled_after=0)["busy"].reason
    with pytest.raises(QueueTimeoutError, match=f"'asker' ACTIVE, 1 queued>, waiting for {waits_for}$"):
        await runtime.wait_idle("asker", timeout=0.05)
    go.open()


async def test_a_body_that_does_not_receive_is_stalled(runtime, start, gate):
    go = gate()

    async def deaf(ctx):
        await go.wait()
        async for _ in ctx:
            ...

    kernel = await start(deaf)
    await kernel.send(1)
    health = runtime.health(stalled_after=0)
    assert health["deaf"].reason.startswith("is stalled: it has handled nothing for 0.")
    assert runtime.health(stalled_after=LONG).ready
    go.open()
    await runtime.wait_idle()
    assert runtime.health(stalled_after=0).ready


async def test_the_time_before_it_was_activated_does_not_count(runtime, start, gate):
    go, before = gate(), 0.02

    async def deaf(ctx):
        await go.wait()

    await start(deaf, activate=False)
    await runtime.send("deaf", 1)
    await asyncio.sleep(before)  # the message has waited for so long
    await runtime.activate("deaf")
    assert runtime.health(stalled_after=before).ready
    assert not runtime.health(stalled_after=0).ready
    go.open()


async def test_replies_that_nobody_takes_stall_it(runtime, start, settle):
    async def echo(ctx):
        async for m in ctx:
            await ctx.send(m)

    kernel = await start(echo, queue_size=2)
    await kernel.send_many([1, 2])
    await settle()
    await kernel.send_many([3, 4])
    await settle()
    assert runtime.health(LONG)["echo"].reason == "waits for replies unread: 2 in the outbox, take them with receive()"
    reason = runtime.health(0)["echo"].reason
    assert reason.startswith("is stalled")
    assert reason.endswith("waiting for replies unread: 2 in the outbox, take them with receive()")
    for _ in range(4):
        await kernel.receive()


async def test_who_is_paused_or_not_activated_is_not_ready_but_not_stalled(runtime, start):
    await start(idle, "new", activate=False)
    await start(idle, "paused")
    await runtime.deactivate("paused")
    await runtime.send_many("paused", [1, 2])
    await runtime.send("new", 1)
    health = runtime.health(stalled_after=0)
    assert (health.live, health.ready) == (True, False)
    for kernel_id, reason in (("paused", "is paused: it waits for reactivate()"), ("new", "is not activated")):
        kernel = health[kernel_id]
        assert (kernel.ready, kernel.stalled, kernel.reason) == (False, False, reason)
    assert health.reason == "'new' is not activated; 'paused' is paused: it waits for reactivate()"


async def test_who_has_failed_keeps_the_runtime_from_being_ready_and_who_has_ended_does_not(runtime, start):
    async def body(ctx):
        async for m in ctx:
            raise ValueError(m)

    await start(body, "bad")
    await start(idle, "done")
    await runtime.terminate("done")
    await runtime.send("bad", "no such city")
    await runtime.wait_ended("bad")
    health = runtime.health()
    assert health.reason == "'bad' failed: ValueError: no such city"
    assert (health["bad"].ready, health["bad"].error) == (False, "ValueError: no such city")
    assert (health["done"].ready, health["done"].should_run, health["done"].reason) == (False, False, "has ended")
    await runtime.restart("bad")
    assert runtime.health().ready


async def test_who_waits_to_be_started_again_is_not_ready_until_it_is(runtime, start, settle):
    async def body(ctx):
        async for m in ctx:
            raise ValueError(m)

    kernel = await start(body, "shaky", restart="on_failure", backoff=LONG)
    await kernel.send("one")
    await settle()
    health = runtime.health(0)
    assert health.ready  # the first restart comes at once
    assert (health["shaky"].restarts, health["shaky"].error) == (1, "ValueError: one")
    await kernel.send_many(["two", "three"])
    await settle()
    shaky = runtime.health(0)["shaky"]
    assert (shaky.ready, shaky.stalled, shaky.error) == (False, False, "ValueError: two")
    assert shaky.reason.startswith("waits to be started again: restart 2 (3 restarts in 60 s at most), in ")


async def test_a_kernel_that_was_given_up_says_after_what(runtime, start, settle):
    async def body(ctx):
        raise ValueError("no")

    await start(body, "shaky", restart="on_failure", max_restarts=2, backoff=None)
    await runtime.wait_ended("shaky")
    assert runtime.health()["shaky"].reason == "failed for good, after 2 restarts in 60 s: ValueError: no"


async def test_quiet_is_the_time_since_it_took_its_last_message(runtime, start):
    kernel = await start(idle)
    assert runtime.health()["idle"].quiet is None
    await kernel.send(1)
    await runtime.wait_idle()
    assert runtime.health()["idle"].quiet == 0.0  # it has taken one since the last look
    first = runtime.health()["idle"].quiet
    assert 0 < first < runtime.health()["idle"].quiet
    await kernel.send(2)
    await runtime.wait_idle()
    assert runtime.health()["idle"].quiet == 0.0


async def test_a_closed_runtime_is_not_live(loop_mode):
    runtime = RingKernelRuntime(loop=loop_mode)
    assert (runtime.health().live, runtime.health().reason) == (False, "the runtime has no event loop")
    async with runtime:
        await (await runtime.launch(ring_kernel(idle))).activate()
        assert runtime.health().live
    health = runtime.health()
    assert (health.live, health.ready, health.reason, health.loop_lag) == (False, False, "the runtime is closed", None)
    assert health["idle"].state == "TERMINATED"


def test_a_loop_that_is_gone_is_not_live():
    runtime = RingKernelRuntime(loop="current")

    async def enter():
        await runtime.__aenter__()

    asyncio.run(enter())
    assert runtime.health().reason == "the runtime has no event loop any more"


@pytest.mark.may_block
async def test_a_loop_that_stands_still_is_not_live_and_the_body_that_blocks_it_is_named(monkeypatch):
    monkeypatch.setattr(health_module, "LATE", 0.05)
    blocked, go = threading.Event(), threading.Event()

    async def body(ctx):
        async for _ in ctx:
            blocked.set()
            go.wait(20)

    async with RingKernelRuntime(loop="thread") as runtime:
        await (await runtime.launch(ring_kernel("blocks")(body))).activate()
        assert runtime.health().live
        sent = asyncio.ensure_future(runtime.send("blocks", 1))
        try:
            await asyncio.to_thread(blocked.wait, 20)
            health = await asyncio.to_thread(runtime.health)
            again = runtime.health()
        finally:
            go.set()
        for seen in (health, again):
            assert (seen.live, seen.ready) == (False, False)
            assert seen.reason.startswith("its event loop stands still for 0.")
            assert seen.reason.endswith("s: the body of 'blocks' computes or blocks without an `await`")
        assert 0.05 <= health.loop_lag <= again.loop_lag
        await sent
        await runtime.wait_idle()
        assert runtime.health().live


async def test_any_thread_may_ask(runtime, start, in_thread, on_loop):
    await start(idle)
    assert (await in_thread(runtime.health)).ready

    async def at_home():
        return runtime.health()

    health = await on_loop(at_home)
    assert (health.ready, health.loop_lag) == (True, 0.0)


@pytest.mark.parametrize("wrong", [-1, math.nan, True, "5", None])
async def test_an_impossible_time_is_refused(runtime, wrong):
    with pytest.raises(ValueError, match="stalled_after must be a number of seconds of at least 0, not"):
        runtime.health(stalled_after=wrong)


async def test_as_a_table_those_that_are_not_ready_come_first(runtime, start, monkeypatch):
    for i in range(3):
        await start(idle, f"fine{i}")
    await start(idle, "<b>new</b>", activate=False)
    health = runtime.health()
    lines = repr(health).splitlines()
    assert lines[0] == "live, not ready: '<b>new</b>' is not activated"
    assert lines[1].split() == ["kernel", "state", "ready", "quiet", "restarts", "reason"]
    assert [line.split()[0] for line in lines[2:]] == ["<b>new</b>", "fine0", "fine1", "fine2"]
    html = health._repr_html_()
    assert "&lt;b&gt;new&lt;/b&gt;" in html
    assert "<b>new" not in html
    monkeypatch.setattr(health_module, "ROWS", 2)
    assert repr(health).splitlines()[-1] == "and 2 more"
    assert "fine0" in health._repr_html_()
    assert "fine1" not in health._repr_html_()
    assert "2 more" in health._repr_html_()
    await runtime.activate("<b>new</b>")
    assert repr(runtime.health()).startswith("ready\n")


async def test_health_is_frozen(runtime, start):
    await start(idle)
    health = runtime.health()
    with pytest.raises(AttributeError):
        health.live = False
    with pytest.raises(TypeError):
        health.kernels["other"] = None


# -- compiled ring kernels -----------------------------------------------------------------------------------------


async def test_a_compiled_kernel_is_stalled_when_two_looks_find_it_where_it_was(runtime):
    def echo(state: None, msg: Number, out: Number):
        out.n = msg.n
        return True

    kernel = await runtime.launch(ring_kernel("echo", backend="interpreted", queue_size=2)(echo))
    await kernel.activate()
    assert runtime.health(0).ready
    await kernel.send_many([Number(1), Number(2)])
    await runtime.wait_idle("echo")  # both replies are unread: the outbox is full
    assert runtime.health(0).ready
    await kernel.send_many([Number(3), Number(4)])
    assert runtime.health(LONG).ready
    first = runtime.health(LONG)["echo"]
    assert (first.stalled, first.ready) == (False, True)
    second = runtime.health(stalled_after=1e-9)["echo"]
    assert second.stalled
    assert second.reason.startswith(
        "is stalled: it has handled nothing for 0.0 s, 2 queued, waiting for replies unread"
    )
    for _ in range(4):
        await kernel.receive()
    await runtime.wait_idle("echo")
    assert runtime.health(0).ready


async def test_a_compiled_kernel_that_works_is_not_stalled(runtime):
    def step(state: None, msg: Number, out: Number):
        out.n = msg.n
        return True

    kernel = await runtime.launch(ring_kernel("echo", backend="interpreted")(step))
    await kernel.activate()
    for i in range(5):
        assert (await kernel.ask(Number(i))).n == i
        health = runtime.health(0)
        assert health.ready
        assert health["echo"].quiet is None or health["echo"].quiet == 0.0
    await kernel.deactivate()
    await kernel.send(Number(1))
    runtime.health(0)
    assert runtime.health(0)["echo"].reason == "is paused: it waits for reactivate()"
