"""What the runtime says, unasked, when something stands still or goes nowhere."""

import asyncio
import logging
import threading

import pytest

import pydotcompute.runtime.kernel as kernel_module
import pydotcompute.runtime.runtime as runtime_module
from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.exceptions import KernelStateError, QueueTimeoutError


@pytest.fixture
def told(caplog):
    caplog.set_level(logging.WARNING, "pydotcompute")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "pydotcompute"]


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(runtime_module, "PATIENCE", 0.05)
    monkeypatch.setattr(runtime_module, "GRACE", 0.05)
    monkeypatch.setattr(kernel_module, "PATIENCE", 0.05)


@pytest.mark.may_block
@pytest.mark.parametrize("way", ["await", "sync"])
async def test_a_body_that_blocks_the_others_is_named_to_who_waits(way, impatient, told, in_thread, eventually):
    release = threading.Event()

    @ring_kernel(kernel_id="greedy")
    async def greedy(ctx):
        await ctx.receive()
        release.wait(10)

    @ring_kernel(kernel_id="polite")
    async def polite(ctx):
        async for one in ctx:
            await ctx.send(one)

    async with RingKernelRuntime("thread") as runtime:
        for name in ("greedy", "polite"):
            await runtime.launch(name)
            await runtime.activate(name)
        await runtime.send("greedy", 1)
        if way == "await":
            asked = asyncio.ensure_future(runtime.ask("polite", 2))
        else:
            asked = asyncio.ensure_future(in_thread(runtime.sync.ask, "polite", 2))
        await eventually(told)
        release.set()
        assert await asked == 2
    (text,) = told()
    assert "'greedy'" in text
    assert "await asyncio.sleep(0)" in text


async def test_who_only_waits_long_is_told_nothing(impatient, told, in_thread):
    @ring_kernel(kernel_id="slow")
    async def slow(ctx):
        async for one in ctx:
            await asyncio.sleep(0.3)
            await ctx.send(one)

    async with RingKernelRuntime("thread") as runtime:
        await runtime.launch("slow")
        await runtime.activate("slow")
        assert await runtime.ask("slow", 1) == 1
        assert await in_thread(runtime.sync.ask, "slow", 2) == 2
    assert told() == []


async def test_a_kernel_whose_replies_nobody_takes_says_so_once(impatient, told, runtime, start, eventually):
    async def shout(ctx):
        async for one in ctx:
            await ctx.send(one)

    kernel = await start(shout, queue_size=1)
    await kernel.send(1)
    await kernel.send(2)
    await eventually(told)
    assert await kernel.receive() == 1
    assert await kernel.receive() == 2
    (text,) = told()
    assert "'shout' stands still: nobody takes its replies (1 unread)" in text
    assert "receive()" in text


async def test_a_body_that_has_to_be_cancelled_is_named(told, runtime, start):
    async def deaf(ctx):
        await asyncio.Event().wait()

    await start(deaf)
    await runtime.terminate("deaf", timeout=0.02)
    (text,) = told()
    assert "'deaf' did not end within 0.02 s and is cancelled" in text
    assert "should_terminate" in text


async def test_a_body_that_returns_its_reply_learns_how_to_send_it(told, runtime, start):
    async def double(ctx):
        return 2 * await ctx.receive()

    kernel = await start(double)
    with pytest.raises(KernelStateError, match="its body has returned"):
        await kernel.ask(1)
    (text,) = told()
    assert "returned a value" in text
    assert "ctx.send" in text


async def test_an_ask_that_gets_no_reply_says_what_the_kernel_did(runtime, start, gate):
    go_on = gate()

    async def silent(ctx):
        async for _ in ctx:
            pass

    async def deaf(ctx):
        await go_on.wait()
        async for _ in ctx:
            pass

    await start(silent)
    await start(deaf)
    with pytest.raises(QueueTimeoutError, match=r"idle; it took the message and went on without a reply.*ctx\.send"):
        await runtime.ask("silent", 1, timeout=0.05)
    with pytest.raises(QueueTimeoutError, match=r"1 queued, not receiving$"):
        await runtime.ask("deaf", 1, timeout=0.05)
    go_on.open()
