"""What comes at a bad moment: calls that overtake each other, frames that make no sense, hosts that are lost."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel
from pydotcompute.cluster import wire
from pydotcompute.exceptions import (
    ClusterError,
    DefinitionError,
    KernelFailedError,
    KernelStateError,
    MessageDecodeError,
    MessageEncodeError,
    NodeLostError,
    PyDotComputeError,
    QueueTimeoutError,
    RuntimeClosedError,
)
from pydotcompute.telemetry.clock import process_clock


@message
class Number:
    n: np.int64


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def keeper(name: str = "notes", **options: Any) -> Any:
    """It keeps what it gets, and tells it."""

    @ring_kernel(name, **options)
    async def keeper(ctx: KernelContext[Any, Any]) -> None:
        kept: list[Any] = []
        async for one in ctx:
            if one == "tell":
                await ctx.send(kept)
            elif one == "die":
                raise ValueError("died")
            else:
                kept.append(one)

    return keeper


def slow(name: str = "snail", seconds: float = 0.2, **options: Any) -> Any:
    @ring_kernel(name, **options)
    async def slow(ctx: KernelContext[Any, Any]) -> None:
        async for one in ctx:
            await asyncio.sleep(seconds)
            await ctx.send(one)

    return slow


async def until(holds: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


def kill(runtime: RingKernelRuntime, name: str) -> None:
    pid = runtime.nodes[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# -- what makes no sense -----------------------------------------------------------------------------------------------


async def test_a_frame_of_a_host_that_makes_no_sense_is_refused_and_counted(ray: Any) -> None:
    row = bytes(8)
    wrong: list[tuple[list[Any], str]] = [
        (["done", 1, 10**9], "messages of 'notes 0', and 0 were there"),
        (["counters", 1, row, {}, ""], "no counters of 'notes 1'"),
        (["answers", 1, [[1, 1, None]]], "no answer to an ask"),
    ]
    async with RingKernelRuntime("current", cluster="ray", nodes=len(wrong)) as runtime:
        await runtime.join()
        for i, (item, words) in enumerate(wrong):
            kernel = await runtime.launch(keeper(f"notes {i}"), node=f"node-{i + 1}")
            await kernel.activate()
            assert await kernel.ask("tell") == []
            link = runtime.nodes[f"node-{i + 1}"]._link
            assert link is not None
            link._come(wire.packed(link._received + 1, [item], wire.FROM_HOST, process_clock().tick())[0])
            node = runtime.nodes[f"node-{i + 1}"]
            assert node.state == "lost"
            assert "a frame of it is refused" in node.reason
            assert words in node.reason
            assert await runtime.wait_ended(kernel.id, timeout=5) == "FAILED"
        assert runtime._the_cluster().refused == {f"node-{i + 1}": 1 for i in range(len(wrong))}


async def test_a_reply_of_an_unknown_class_harms_nobody_else(cluster: RingKernelRuntime) -> None:
    @ring_kernel("secretive")
    async def secretive(ctx: KernelContext[Any, Any]) -> None:
        from pydotcompute import message as a_message

        secret: Any = a_message(type("Secret", (), {"__annotations__": {"n": int}, "__module__": "somewhere"}))
        async for n in ctx:
            await ctx.send(secret(n=n))

    kernel = await cluster.launch(secretive, node="node-2")
    await kernel.activate()
    with pytest.raises(MessageDecodeError, match=r"no message type 'somewhere.Secret' is known"):
        await kernel.ask(1, timeout=10)
    await kernel.send(2)
    await until(lambda: len(cluster.dead_letters.of("secretive")) == 2)
    for letter in cluster.dead_letters.of("secretive"):
        assert (letter.kind, letter.is_reply) == ("undeliverable", True)
        assert "a reply of" in letter.message
    assert kernel.state == "ACTIVE"


async def test_a_body_is_told_of_a_reply_of_a_class_that_it_does_not_know(cluster: RingKernelRuntime) -> None:
    lock = threading.Lock()

    @message
    class Local:
        n: int

        def locked(self) -> Any:
            return lock  # with which the class cannot go to a node

    @ring_kernel("nearby")
    async def near(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.send(Local(n=n))

    @ring_kernel("distant")
    async def far(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            try:
                await ctx.ask("nearby", n)
            except MessageDecodeError as error:
                await ctx.send(str(error))

    await (await cluster.launch(near)).activate()
    kernel = await cluster.launch(far, node="node-2")
    await kernel.activate()
    assert "Local' is known" in await kernel.ask(1, timeout=10)


async def test_texts_that_no_file_takes_pass(cluster: RingKernelRuntime, capsys: pytest.CaptureFixture[str]) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @ring_kernel("odd")
    async def odd(ctx: KernelContext[Any, Any]) -> None:
        async for what in ctx:
            if what == "print":
                print("half \udcff of a pair")
            elif what == "text":
                raise ValueError("half \udcff of a pair")
            elif what == "mute":
                raise Mute
            elif what == "circle":
                first, second = ValueError("first"), ValueError("second")
                first.__cause__, second.__cause__ = second, first
                raise first
            await ctx.send(what)

    for what, words in {"print": "", "text": "half \udcff", "mute": "Mute", "circle": "first"}.items():
        kernel = await cluster.launch(odd, node="node-2")
        await kernel.activate()
        if words:
            with pytest.raises(KernelFailedError, match=words):
                await kernel.ask(what, timeout=10)
            assert await cluster.wait_ended("odd", timeout=5) == "FAILED"
        else:
            assert await kernel.ask(what, timeout=10) == what
            await kernel.terminate()
    out = capsys.readouterr().out
    assert "half" in out


async def test_code_that_cannot_travel_says_why(cluster: RingKernelRuntime) -> None:
    lock = threading.Lock()

    @ring_kernel("locking")
    async def locking(ctx: KernelContext[Any, Any]) -> None:
        async for _ in ctx:
            lock.acquire()

    kernel = await cluster.launch(locking, node="node-2")
    await kernel.activate()
    assert await cluster.wait_ended("locking", timeout=10) == "FAILED"
    assert type(kernel.exception) is DefinitionError
    assert "cannot go to node-2" in str(kernel.exception)
    assert "has to be made in its body, or by state=" in str(kernel.exception)


async def test_what_is_too_large_is_to_be_sent_in_parts(cluster: RingKernelRuntime) -> None:
    @ring_kernel("large")
    async def large(ctx: KernelContext[Any, Any]) -> None:
        async for one in ctx:
            await ctx.send(one if isinstance(one, np.ndarray) else np.zeros(one, "u1"))

    kernel = await cluster.launch(large, node="node-2")
    await kernel.activate()
    fits = np.arange(50_000_000 // 8)
    assert np.array_equal(await kernel.ask(fits, timeout=30), fits)
    with pytest.raises(MessageEncodeError, match="Send it in parts"):
        await kernel.send(np.zeros(80_000_000, "u1"))
    with pytest.raises(MessageEncodeError, match="Send it in parts"):
        await kernel.ask(80_000_000, timeout=30)
    await kernel.send(80_000_000)
    await until(lambda: cluster.dead_letters.of("large", "undeliverable"))


# -- calls that overtake each other ------------------------------------------------------------------------------------


async def test_pausing_keeps_its_place_among_other_calls(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(keeper(), node="node-2")
    await kernel.activate()

    async def on_its_loop() -> None:  # where nothing comes between two calls
        await kernel.deactivate()
        for _ in range(3):
            await kernel.reactivate()
            await kernel.deactivate()

    await cluster._hop(on_its_loop)
    await kernel.send(1)
    await asyncio.sleep(0.3)
    assert kernel.queue_depth == 1
    await kernel.reactivate()
    assert await kernel.ask("tell", timeout=5) == [1]


async def test_pausing_it_while_it_is_being_launched(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(keeper(), node="node-2")

    async def on_its_loop() -> None:
        await kernel.activate()
        pausing = asyncio.ensure_future(kernel.deactivate())
        await asyncio.sleep(0)
        await kernel.reactivate()
        await pausing

    await cluster._hop(on_its_loop)
    assert kernel.state == "ACTIVE"
    assert await kernel.ask("tell", timeout=5) == []


async def test_it_is_killed_restarted_and_defined_anew_while_it_is_being_launched(cluster: RingKernelRuntime) -> None:
    def define(factor: int) -> Any:
        @ring_kernel("early", restart="on_failure", backoff=None)
        async def early(ctx: KernelContext[Any, Any]) -> None:
            async for n in ctx:
                await ctx.send(n * factor)

        return early

    kernel = await cluster.launch(define(2), node="node-2")

    async def killed() -> None:
        await kernel.activate()
        await asyncio.sleep(0)
        await kernel.kill()

    await cluster._hop(killed)
    assert await kernel.ask(1, timeout=10) == 2
    assert kernel.restarts == 1
    await kernel.terminate()
    kernel = await cluster.launch(define(2), node="node-2")

    async def restarted() -> None:
        await kernel.activate()
        await asyncio.sleep(0)
        define(10)
        await kernel.restart()

    await cluster._hop(restarted)
    assert kernel.restarts == 1
    await until(lambda: kernel.version == 2)
    assert await kernel.ask(1, timeout=10) == 10


async def test_what_was_given_up_at_its_launch_is_gone_there(cluster: RingKernelRuntime) -> None:
    node = cluster.nodes["node-2"]
    for turn in range(5):
        kernel = await cluster.launch(keeper("brief"), node="node-2")

        async def briefly(turn: int = turn, kernel: Any = kernel) -> None:
            await kernel.activate()
            await asyncio.sleep(0.001 * turn)
            await kernel.terminate(drain=False, timeout=0.01)

        await cluster._hop(briefly)
        assert "brief" not in node.kernels
    kernel = await cluster.launch(keeper("brief"), node="node-2")
    await kernel.activate()
    await kernel.send(1)
    assert await kernel.ask("tell", timeout=10) == [1]


async def test_a_restart_by_hand_is_counted(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(keeper("renewed", restart="on_failure", backoff=None), node="node-2")
    await kernel.activate()
    await kernel.send(1)
    assert await kernel.ask("tell") == [1]
    await kernel.restart()
    assert await kernel.ask("tell") == []
    assert kernel.restarts == kernel.statistics().restarts == 1
    with pytest.raises(KernelFailedError):
        await kernel.ask("die")
    await until(lambda: kernel.restarts == 2)
    assert [what for _, what in kernel.restarted] == ["", "ValueError: died"]
    assert str(kernel.last_exception) == "died"


async def test_one_that_has_ended_is_restarted_where_it_was(cluster: RingKernelRuntime) -> None:
    @ring_kernel("homing")
    async def homing(ctx: KernelContext[Any, Any]) -> None:
        async for one in ctx:
            if one == "die":
                raise ValueError("died")
            await ctx.send(os.getpid())

    kernel = await cluster.launch(homing, node="node-2", delivery="at_least_once")
    await kernel.activate()
    with pytest.raises(KernelFailedError):
        await kernel.ask("die")
    await cluster.restart("homing")
    assert await cluster.ask("homing", 1) == cluster.nodes["node-2"].pid
    again: Any = cluster["homing"]
    assert again.placement == kernel.placement


async def test_a_group_counts_the_restarts_on_other_nodes(cluster: RingKernelRuntime) -> None:
    members = []
    for name in ("node-1", "node-2"):
        kernel = await cluster.launch(keeper(f"member {name}", restart="on_failure", backoff=None), node=name)
        await kernel.activate()
        await kernel.send(1)
        members.append(kernel)
    first, second = members
    group = await cluster.supervise(first.id, second.id, strategy="one_for_all", max_restarts=1)
    await first.send("die")
    await until(lambda: first.restarts == second.restarts == 1)
    assert await first.ask("tell", timeout=5) == await second.ask("tell", timeout=5) == []
    assert group.restarts == 1
    await second.send("die")
    for kernel in members:
        assert await cluster.wait_ended(kernel.id, timeout=10) == "FAILED"
    assert "after 1 restart in 60 s of its group" in str(first._unusable())
    await until(lambda: not {kernel.id for kernel in members} & set(cluster.nodes["node-1"].kernels))
    for kernel in members:
        again = await cluster.launch(keeper(kernel.id), node="node-1")
        await again.activate()
        assert await again.ask("tell", timeout=5) == []
    assert group.kernels == []


async def test_a_step_counts_what_was_handled_before_the_pause(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(slow(), node="node-2")
    await kernel.activate()
    await kernel.send_many(range(3))
    await until(lambda: kernel.queue_depth == 3)
    await asyncio.sleep(0.1)
    await kernel.deactivate()
    await kernel.wait_paused(timeout=5)
    assert kernel.queue_depth == 2
    await kernel.send(3)
    assert await kernel.step(3, timeout=5) == [1, 2, 3]


@pytest.mark.may_block  # what it does is on another loop, and it waits for that
async def test_a_breakpoint_comes_after_what_is_before_it(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(slow(), node="node-2")
    await kernel.activate()
    kernel.break_when(lambda n: n == 2)
    await kernel.send_many(range(5))
    assert await kernel.wait_paused(timeout=5) == 2
    assert kernel.queue_depth == 3
    assert await kernel.step(2, timeout=5) == [2, 3]
    kernel.break_when(None)
    await kernel.reactivate()
    await cluster.wait_idle("snail", timeout=5)


@pytest.mark.may_block  # as above
async def test_its_queue_is_changed_by_hand(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(keeper(), node="node-2")
    await kernel.activate()
    await kernel.deactivate()
    await kernel.send_many(range(3))
    kernel.inject(9, 1)
    kernel.move(0, 3)
    assert [queued.message for queued in kernel.queue()] == [9, 1, 2, 0]
    assert kernel.discard(1) == 1
    await kernel.reactivate()
    assert await kernel.ask("tell", timeout=5) == [9, 2, 0]


async def test_the_reply_to_an_ask_that_was_given_up_goes_to_nobody(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(slow("asked", 0.0, queue_size=4), node="node-2")
    await kernel.activate()
    await kernel.deactivate()
    for _ in range(3):
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(3, timeout=0.05)
    await kernel.reactivate()
    assert await kernel.ask(2, timeout=5) == 2
    await until(lambda: len(cluster.dead_letters.of("asked", "late")) == 3)
    assert len(kernel._out) == 0


# -- beside other kernels ----------------------------------------------------------------------------------------------


async def test_a_kernel_beside_it_that_fills_its_mailbox_holds_nobody_up(cluster: RingKernelRuntime) -> None:
    """Its body asks one in this process, whose answer comes on the way that its own messages take."""

    @ring_kernel("responsive")
    async def responsive(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.send(n)

    @ring_kernel("narrow", queue_size=2)
    async def narrow(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.send(await ctx.ask("responsive", n, timeout=20))

    @ring_kernel("flooding")
    async def flooding(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            for i in range(n):
                await ctx.tell("narrow", i)
            await ctx.send(n)

    for definition, where in ((responsive, {}), (narrow, {"node": "node-2"}), (flooding, {"node": "node-2"})):
        await (await cluster.launch(definition, **where)).activate()  # type: ignore[arg-type]

    async def read() -> None:
        while True:
            await cluster.receive("narrow")

    reading = asyncio.ensure_future(read())
    flood = asyncio.ensure_future(cluster.ask("flooding", 300, timeout=50))
    await until(lambda: cluster["narrow"].statistics().replied > 5)
    for n in range(8):
        assert await cluster.ask("narrow", n, timeout=20) == n
    other = await cluster.launch(keeper(), node="node-2")
    await other.activate()
    assert await other.ask("tell", timeout=5) == []
    assert not flood.done()
    assert await flood == 300
    reading.cancel()


async def test_bodies_publish_to_who_has_subscribed_elsewhere(cluster: RingKernelRuntime) -> None:
    @ring_kernel("publishing")
    async def publishing(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.tell("notes", n)
            await ctx.publish("news.all", -n)

    for definition, node in ((publishing, "node-2"), (keeper(), "node-1")):
        await (await cluster.launch(definition, node=node)).activate()
    await cluster.subscribe("news.#", "notes")
    await cluster.send_many("publishing", range(1, 100))
    await cluster.wait_idle("publishing", "notes", timeout=20)
    await until(lambda: cluster.edges().get(("publishing", "notes")) == 198)
    assert await cluster.ask("notes", "tell") == [sign * n for n in range(1, 100) for sign in (1, -1)]
    await cluster.unsubscribe("news.#", "notes")


async def test_kernels_on_nodes_are_connected(cluster: RingKernelRuntime) -> None:
    chain = ("first", "second")
    for name, node in zip(chain, ("node-1", "node-2"), strict=True):
        kernel = await cluster.launch(slow("snail", 0.0), kernel_id=name, node=node)
        await kernel.activate()
    await (await cluster.launch(keeper(), node="node-1")).activate()
    await cluster.connect("first", "second")
    await cluster.connect("second", "notes")
    await cluster.send_many("first", range(2000))
    await cluster.wait_idle("first", "second", "notes", timeout=20)
    assert await cluster.ask("notes", "tell") == list(range(2000))


async def test_its_health_is_known(cluster: RingKernelRuntime) -> None:
    kernel = await cluster.launch(slow("snail", 30.0), node="node-2")
    await kernel.activate()
    await kernel.send_many(range(3))
    await asyncio.to_thread(cluster.health, 0.2)
    await asyncio.sleep(0.3)
    health = (await asyncio.to_thread(cluster.health, 0.2)).kernels["snail"]
    assert health.stalled
    begun = time.monotonic()
    await kernel.deactivate()
    assert time.monotonic() - begun < 5  # the message in hand goes on
    await kernel.send(4)
    await asyncio.to_thread(cluster.health)
    await kernel.terminate(drain=False, timeout=0.1)


async def test_the_shortest_queue_counts_what_is_on_the_way(cluster: RingKernelRuntime) -> None:
    for name in ("node-1", "node-2"):
        kernel = await cluster.launch(slow("snail", 30.0), kernel_id=f"snail {name}", node=name)
        await kernel.activate()
    await cluster["snail node-1"].send_many(range(10))
    router = await cluster.router("snails", ["snail node-1", "snail node-2"], strategy="least_queue")
    try:
        for n in range(10):
            await cluster.send("snails", n)
        assert cluster["snail node-2"].queue_depth >= 9
    finally:
        await router.close()


async def test_a_state_that_has_no_encoding(cluster: RingKernelRuntime) -> None:
    @ring_kernel("stateful")
    async def stateful(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            ctx.state.function = len if n else None
            await ctx.send(n)

    kernel = await cluster.launch(stateful, node="node-2")
    with pytest.raises(KernelStateError, match="activate it first"):
        await kernel.snapshot()
    await kernel.activate()
    await kernel.ask(0)
    assert vars(await kernel.snapshot()) == {"function": None}
    await kernel.ask(1)
    with pytest.raises(MessageEncodeError, match="cannot go to another process"):
        await kernel.snapshot()
    assert await kernel.ask(0) == 0
    await kernel.terminate()
    with pytest.raises(KernelStateError, match="TERMINATED"):
        await kernel.snapshot()


def test_threads_share_it(hosts: RingKernelRuntime) -> None:
    hosts.sync.join()
    hosts.sync.launch(slow("snail", 0.0, queue_size=16), node="node-2")
    hosts.sync.activate("snail")
    got: list[int] = []

    def ask(thread: int) -> None:
        got.extend(hosts.sync.ask("snail", 100 * thread + n, timeout=20) for n in range(25))

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hosts.sync.terminate("snail")
    assert sorted(got) == [100 * thread + n for thread in range(8) for n in range(25)]


def resident(pid: int) -> int:
    """Bytes of memory that a process has of its own."""
    words = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.may_block  # it reads files of the system
async def test_memory_stays_bounded_however_much_is_sent(cluster: RingKernelRuntime) -> None:
    """A slow kernel is sent, and sends, ten times of what its queues hold."""

    @ring_kernel("bulky", queue_size=64)
    async def bulky(ctx: KernelContext[Any, Any]) -> None:
        async for one in ctx:
            await asyncio.sleep(0.001)
            await ctx.send(one)

    kernel = await cluster.launch(bulky, node="node-2")
    await kernel.activate()
    pids = [os.getpid(), cluster.nodes["node-2"].pid]
    part = np.zeros(100_000, "u1")
    sent = 0

    async def feed() -> None:
        nonlocal sent
        while True:
            await kernel.send_many([part] * 16)
            sent += 16

    async def read(n: int) -> None:
        for _ in range(n):
            await kernel.receive(timeout=20)

    feeding = asyncio.ensure_future(feed())
    await read(256)  # by then all that is made once was made
    before = [resident(pid) for pid in pids if pid is not None]
    at = sent
    await asyncio.sleep(0.5)  # in which nobody reads
    assert sent - at <= 4 * 64
    await read(1500)
    after = [resident(pid) for pid in pids if pid is not None]
    feeding.cancel()
    assert sent > 1500
    for was, now in zip(before, after, strict=True):
        assert now - was < 60e6, (before, after)
    await kernel.terminate(drain=False, timeout=1)


# -- lost hosts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def losable(ray: Any) -> Iterator[RingKernelRuntime]:
    """A runtime with some hosts, of which each test loses the first that is left."""
    runtime = RingKernelRuntime("thread", cluster="ray", nodes=5)
    runtime.sync.join()
    yield runtime
    runtime.sync.close(drain=False)


@pytest.fixture
def doomed(losable: RingKernelRuntime) -> str:
    """The name of a node that may be lost."""
    return next(name for name, node in losable.nodes.items() if node.state == "alive")


async def lose(runtime: RingKernelRuntime, name: str) -> None:
    pid = runtime.nodes[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: runtime.nodes[name].state == "lost")


async def test_statistics_go_on_after_a_loss(losable: RingKernelRuntime, doomed: str) -> None:
    kernel = await losable.launch(keeper("counted", restart="on_failure", backoff=None), node=doomed)
    await kernel.activate()
    await kernel.send_many(range(100))
    await until(lambda: kernel.statistics().processed == 100)
    await lose(losable, doomed)
    await kernel.send_many(range(10))
    assert await kernel.ask("tell", timeout=20) == list(range(10))
    await until(lambda: kernel.statistics().processed == 111)
    statistics = kernel.statistics()
    assert (statistics.received, statistics.restarts, statistics.errors) == (111, 1, 1)


async def test_asks_that_are_not_sent_again_fail_as_those_of_a_lost_node(
    losable: RingKernelRuntime, doomed: str
) -> None:
    kernel: Any = await losable.launch(slow("thinker", 60.0), node=doomed, delivery="at_least_once")
    await kernel.activate()
    asks = [asyncio.ensure_future(kernel.ask(n)) for n in range(3)]
    await until(lambda: kernel.flying == 3)
    await lose(losable, doomed)
    for ask in asks:
        with pytest.raises(NodeLostError, match=doomed):
            await ask
    assert [letter.message for letter in losable.dead_letters.of("thinker")] == [0, 1, 2]
    with pytest.raises(KernelFailedError):
        await kernel.send(1)


async def test_a_kernel_that_was_paused_is_paused_elsewhere(losable: RingKernelRuntime, doomed: str) -> None:
    definition = keeper("paused", restart="on_failure", backoff=None)
    kernel = await losable.launch(definition, node=doomed, delivery="at_least_once")
    await kernel.activate()
    await kernel.send(-1)
    assert await kernel.ask("tell") == [-1]
    await kernel.deactivate()
    await kernel.send_many(range(5))
    await lose(losable, doomed)
    await until(lambda: kernel.node is not None)
    assert kernel.state == "DEACTIVATED"
    assert kernel.queue_depth == 5
    await kernel.reactivate()
    assert await kernel.ask("tell", timeout=20) == list(range(5))


async def test_records_among_messages_keep_their_place_when_they_are_sent_again(
    losable: RingKernelRuntime, doomed: str
) -> None:
    @ring_kernel("echoing", restart="on_failure", backoff=None)
    def echoing(state: None, msg: Number, out: Number) -> bool:
        out.n = msg.n
        return True

    kernel = await losable.launch(echoing, node=doomed, delivery="at_least_once")
    await kernel.activate()
    assert (await kernel.ask(Number(n=1), timeout=30)).n == 1
    pid = losable.nodes[doomed].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    for n in range(0, 40, 4):
        await kernel.send(Number(n=n))
        records = np.zeros(3, Number.dtype)
        records["n"] = n + np.arange(1, 4)
        await kernel.send_batch(records)
    assert kernel.queue_depth == 40
    await lose(losable, doomed)
    await losable.wait_idle("echoing", timeout=30)
    got: list[int] = []
    while len(got) < 40:
        got += (await kernel.receive_batch(timeout=5))["n"].tolist()
    assert got == list(range(40))


async def test_kernels_that_lost_all_hosts_share_another_one(losable: RingKernelRuntime) -> None:
    left = [name for name, node in losable.nodes.items() if node.state == "alive"]
    kernels = []
    for i in range(6):
        kernel = await losable.launch(keeper(f"orphan {i}", restart="on_failure"), spread=True)
        await kernel.activate()
        kernels.append(kernel)
    assert await asyncio.gather(*(kernel.ask("tell", timeout=20) for kernel in kernels)) == [[]] * 6
    for name in left:
        pid = losable.nodes[name].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(losable.nodes[name].state == "alive" for name in left))
    assert await asyncio.gather(*(kernel.ask("tell", timeout=30) for kernel in kernels)) == [[]] * 6
    assert len({kernel.node for kernel in kernels}) == 1


@pytest.mark.may_block  # that is the point
async def test_a_loop_that_was_blocked_here_loses_no_node(ray: Any) -> None:
    async with RingKernelRuntime("current", cluster="ray", nodes=1, node_timeout=1.0) as runtime:
        kernel = await runtime.launch(keeper(), node="node-1")
        await kernel.activate()
        assert await kernel.ask("tell") == []
        time.sleep(2.5)
        await asyncio.sleep(0.5)
        assert runtime.nodes["node-1"].state == "alive"
        assert await kernel.ask("tell") == []


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_closing_while_all_is_in_flight(ray: Any) -> None:
    runtime = RingKernelRuntime("current", cluster="ray", nodes=2)
    await runtime.join()
    pids = [node.pid for node in runtime.nodes.values()]
    kernel = await runtime.launch(slow("snail", 0.5, queue_size=4), node="node-1")
    await kernel.activate()

    async def launch(n: int) -> Any:
        one = await runtime.launch(keeper(f"late {n}"), node="node-2")
        await one.activate()
        return await one.ask("tell")

    doing = [asyncio.ensure_future(kernel.ask(n)) for n in range(20)]
    doing += [asyncio.ensure_future(kernel.send(n)) for n in range(20)]
    doing += [asyncio.ensure_future(launch(n)) for n in range(5)]
    await asyncio.sleep(0.02)
    begun = time.monotonic()
    await runtime.close(drain=False, timeout=1)
    assert time.monotonic() - begun < 8
    for result in await asyncio.wait_for(asyncio.gather(*doing, return_exceptions=True), 5):
        assert not isinstance(result, BaseException) or isinstance(result, PyDotComputeError)
    await until(lambda: not any(pid is not None and alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("after", [0.0, 0.3])
async def test_closing_while_hosts_start(ray: Any, after: float) -> None:
    runtime = RingKernelRuntime("current", cluster="ray", nodes=2)
    launching = asyncio.ensure_future(runtime.launch(keeper(), node="node-1"))
    await asyncio.sleep(after)
    await asyncio.wait_for(runtime.close(), 5)
    with pytest.raises(RuntimeClosedError):
        await asyncio.wait_for(launching, 5)


async def test_hosts_of_a_join_that_failed_are_gone(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydotcompute.cluster.driver import Cluster

    greeted = Cluster._greeted
    pids: list[int] = []

    async def picky(self: Any, node: Any, handle: Any, num_gpus: int) -> Any:
        hello = await greeted(self, node, handle, num_gpus)
        pids.append(hello["pid"])
        if node.name == "node-2":
            raise ClusterError("node-2 does not please")
        return hello

    async with RingKernelRuntime("current", cluster="ray", nodes=2) as runtime:
        with monkeypatch.context() as patched:
            patched.setattr(Cluster, "_greeted", picky)
            with pytest.raises(ClusterError, match="does not please"):
                await runtime.join()
        assert len(pids) == 2
        await until(lambda: not any(map(alive, pids)))
        await runtime.join()
        assert [node.state for node in runtime.nodes.values()] == ["alive"] * 2


def test_runtimes_share_the_ray_that_one_of_them_has_started() -> None:
    """In a process of their own; the first is closed while it starts, the others start at once."""
    pytest.importorskip("ray")
    program = """
        import asyncio, threading, time
        import ray
        from pydotcompute import RingKernelRuntime, ring_kernel

        @ring_kernel("echo")
        async def echo(ctx):
            async for one in ctx:
                await ctx.send(one)

        def left():
            end = time.monotonic() + 60  # a Ray that was about to start ends when it has
            while time.monotonic() < end and any(one.name == "pydotcompute-ray" for one in threading.enumerate()):
                time.sleep(0.1)
            return ray.is_initialized(), [one.name for one in threading.enumerate() if "pydotcompute" in one.name]

        async def main():
            first = RingKernelRuntime(cluster="ray")
            launching = asyncio.ensure_future(first.launch(echo, spread=True))
            await asyncio.sleep(0.5)
            await first.close()
            try:
                await launching
            except Exception as error:
                print(type(error).__name__, *left())
            second, third = RingKernelRuntime(cluster="ray"), RingKernelRuntime(cluster="ray")
            await asyncio.gather(second.join(), third.join())
            for runtime in (second, third):
                await (await runtime.launch(echo, spread=True)).activate()
            try:
                async with RingKernelRuntime(cluster="ray", address="10.9.9.9:6379") as other:
                    await other.join()
            except Exception as error:
                print(str(error).partition(": ")[2])
            await second.close()
            print(await third.ask("echo", 3))
            await third.close()
            print(*left())

        asyncio.run(main())
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == [
        "RuntimeClosedError False []",
        "a process is in one at a time; leave address= out, or use another process",
        "3",
        "False []",
    ], done.stderr


async def test_a_host_gives_its_gpus_back_with_its_last_kernel(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine here says that it has a GPU, and none is asked of Ray."""
    from pydotcompute.cluster.ray import Engine

    places, host = Engine.places, Engine.host

    async def with_gpus(self: Any, loop: Any) -> list[Any]:
        return [replace(place, gpus=1) for place in await places(self, loop)]

    monkeypatch.setattr(Engine, "places", with_gpus)
    monkeypatch.setattr(Engine, "host", lambda self, name, place, num_gpus: host(self, name, place, 0))
    async with RingKernelRuntime("current", cluster="ray", nodes=1) as runtime:
        kernel = await runtime.launch(keeper(), num_gpus=1)
        await kernel.activate()
        assert await kernel.ask("tell", timeout=20) == []
        node = runtime.nodes[kernel.node]
        assert (node.name, node.gpus) == ("gpu-1", 1)
        await kernel.terminate()
        assert list(runtime.nodes) == ["node-1"]
        await until(lambda: not alive(node.pid))
