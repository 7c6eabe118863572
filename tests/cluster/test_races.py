"""What comes at a bad moment: calls that overtake each other, frames that make no sense, hosts that are lost."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel
from pydotcompute.cluster import wire
from pydotcompute.exceptions import (
    DefinitionError,
    KernelFailedError,
    MessageDecodeError,
    MessageEncodeError,
)


@message
class Number:
    n: np.int64


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def keeper(name: str = "keeper", **options: Any) -> Any:
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


def slow(name: str = "slow", seconds: float = 0.2, **options: Any) -> Any:
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
        (["done", 1, 10**9], "messages of 'keeper 0', and 0 were there"),
        (["counters", 1, row, {}, ""], "no counters of 'keeper 1'"),
        (["answers", 1, [[1]]], "ValueError"),
    ]
    async with RingKernelRuntime("current", cluster="ray", nodes=len(wrong)) as runtime:
        await runtime.join()
        for i, (item, words) in enumerate(wrong):
            kernel = await runtime.launch(keeper(f"keeper {i}"), node=f"node-{i + 1}")
            await kernel.activate()
            assert await kernel.ask("tell") == []
            link = runtime.nodes[f"node-{i + 1}"]._link
            assert link is not None
            link._come(wire.packed(link._received + 1, [item]))
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

    @ring_kernel("near")
    async def near(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.send(Local(n=n))

    @ring_kernel("far")
    async def far(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            try:
                await ctx.ask("near", n)
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
