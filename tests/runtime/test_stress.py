"""Everything at once, at random: each message is handled once, or is a dead letter, or raised in its sender.

The same holds for each reply: it is returned to one asker, or received once, or is a dead letter. Nothing hangs.
"""

import asyncio
import itertools
import os
import random
from collections import Counter

import pytest

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import PyDotComputeError
from pydotcompute.runtime.mailbox import STRATEGIES

SEEDS = range(int(os.environ.get("STRESS_SEEDS", "3")))
"""More of them find more: STRESS_SEEDS=200."""
STEPS = 1500
KERNELS = 6


@message
class Job:
    n: int


class Plain:
    """A job that has neither priority nor id."""

    def __init__(self, n):
        self.n = n


@message
class Reply:
    r: int


class World:
    """A runtime, what was sent into it, and what became of it."""

    def __init__(self, runtime, seed):
        self.runtime, self.rng = runtime, random.Random(seed)
        self.names = [f"kernel {n}" for n in range(KERNELS)]
        self.numbers, self.reply_numbers = itertools.count(), itertools.count()
        self.accepted, self.refused = set(), set()  # by their senders' account
        self.done = Counter()  # handled to the end, by the bodies' account
        self.sent_replies = set()
        self.got_replies = Counter()

    # -- bodies ----------------------------------------------------------------------------------------------------

    def make_body(self, kind, seed):
        world, rng = self, random.Random(seed)

        async def reply(ctx, job, named=False):
            one = Reply(next(world.reply_numbers), correlation_id=job.message_id if named else None)
            await ctx.send(one)
            world.sent_replies.add(one.r)

        async def handle(ctx, job):
            if kind == "echo":
                await reply(ctx, job)
            elif kind == "slow":
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                await reply(ctx, job)
            elif kind == "keep" and isinstance(job, Job):
                kept = vars(ctx.state).setdefault("kept", [])
                kept.append(job)
                if len(kept) > 3:
                    await reply(ctx, kept.pop(rng.randrange(4)), named=True)
            elif kind == "tell":
                await world.send(ctx.tell)
            elif kind == "ask":
                await world.ask(ctx.ask, timeout=rng.choice((0, 0.001, 0.01)))
                await reply(ctx, job)
            elif kind == "twice":
                await reply(ctx, job)
                await reply(ctx, job)
            elif kind == "fail" and rng.random() < 0.05:
                raise ZeroDivisionError
            elif kind == "return" and rng.random() < 0.05:
                return False
            return True

        async def body(ctx):
            style = rng.randrange(3)
            if style == 0:
                async for job in ctx:
                    go_on = await handle(ctx, job)
                    world.done[job.n] += 1
                    if not go_on:
                        return
            while not ctx.should_terminate:
                try:
                    job = await ctx.receive(timeout=rng.choice((0, 0.001, 60)) if style == 1 else None)
                except TimeoutError:
                    continue
                go_on = await handle(ctx, job)
                world.done[job.n] += 1
                if not go_on:
                    return

        return body

    def define(self, name):
        rng = self.rng
        kind = rng.choice(("echo", "slow", "keep", "tell", "ask", "twice", "fail", "return", "none"))
        decorate = ring_kernel(
            kernel_id=name, queue_size=rng.choice((1, 2, 5, 50)), backpressure=rng.choice(STRATEGIES)
        )
        return decorate(self.make_body(kind, rng.random()))

    # -- what is done with them ------------------------------------------------------------------------------------

    def job(self):
        n, rng = next(self.numbers), self.rng
        if rng.random() < 0.2:
            return Plain(n)
        return Job(n, priority=rng.randrange(256)) if rng.random() < 0.3 else Job(n)

    async def send(self, how):
        job = self.job()
        try:
            await how(self.rng.choice(self.names), job)
        except PyDotComputeError:
            self.refused.add(job.n)
        else:
            self.accepted.add(job.n)

    async def ask(self, how, timeout):
        job = self.job()
        try:
            reply = await how(self.rng.choice(self.names), job, timeout)
        except PyDotComputeError:
            return  # it may have been handled all the same, or never have come in
        self.accepted.add(job.n)
        self.got_replies[reply.r] += 1

    async def send_many(self):
        jobs = [self.job() for _ in range(self.rng.randrange(20))]
        try:
            await self.runtime.send_many(self.rng.choice(self.names), jobs)
        except PyDotComputeError:
            return
        self.accepted.update(job.n for job in jobs)

    async def receive(self):
        try:
            reply = await self.runtime.receive(self.rng.choice(self.names), timeout=self.rng.choice((0, 0.001, 0.01)))
        except PyDotComputeError:
            return
        self.got_replies[reply.r] += 1

    async def control(self):
        runtime, rng, name = self.runtime, self.rng, self.rng.choice(self.names)
        try:
            match rng.randrange(6):
                case 0:
                    await runtime.deactivate(name)
                case 1 | 2:
                    await runtime.reactivate(name)
                case 3:
                    self.define(name)
                case 4:
                    if rng.random() < 0.3:
                        await runtime.terminate(name, drain=rng.random() < 0.5, timeout=rng.choice((0, 0.01, 0.05)))
                case 5:
                    await runtime.wait_idle(name, timeout=rng.choice((0, 0.001)))
        except PyDotComputeError:
            pass
        for other in self.names:
            if runtime[other].state.over:
                try:
                    await runtime.launch(other)
                    await asyncio.sleep(0)
                    await runtime.activate(other)
                except PyDotComputeError:
                    pass  # another task was quicker

    def step(self):
        """One random deed."""
        choice = self.rng.random()
        if choice < 0.3:
            return self.send(self.runtime.send)
        if choice < 0.65:
            return self.ask(self.runtime.ask, self.rng.choice((None, 0, 0.001, 0.01, 1)))
        if choice < 0.75:
            return self.send_many()
        if choice < 0.9:
            return self.receive()
        return self.control()

    async def live(self):
        rng, flying = self.rng, set()
        for name in self.names:
            self.define(name)
            await (await self.runtime.launch(name)).activate()
        for _ in range(STEPS):
            task = asyncio.ensure_future(self.step())
            flying.add(task)
            task.add_done_callback(flying.discard)
            if rng.random() < 0.3:
                await asyncio.sleep(0)
            if flying and rng.random() < 0.1:
                rng.choice(list(flying)).cancel()
            if rng.random() < 0.01:
                await asyncio.sleep(0.002)
            while len(flying) > 200:
                await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED, timeout=0.05)
                for one in rng.sample(list(flying), min(10, len(flying))):
                    one.cancel()
        await self.runtime.close(drain=rng.random() < 0.7, timeout=rng.choice((0.05, 0.5)))
        outcomes = await asyncio.gather(*flying, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}

    # -- what became of it -----------------------------------------------------------------------------------------

    def check(self):
        letters = [letter.message for letter in self.runtime.dead_letters]
        assert self.runtime.dead_letters.total == len(letters)
        dead = Counter(letter.n for letter in letters if not isinstance(letter, Reply))
        ends = self.done + dead
        assert {n: count for n, count in ends.items() if count > 1} == {}
        assert {n for n in self.accepted if ends[n] != 1} == set()
        assert {n for n in self.refused if ends[n]} == set()

        dead_replies = Counter(letter.r for letter in letters if isinstance(letter, Reply))
        ends = self.got_replies + dead_replies
        assert {r: count for r, count in ends.items() if count > 1} == {}
        assert {r for r in self.sent_replies if ends[r] != 1} == set()

        for name, statistics in self.runtime.statistics().kernels.items():
            assert statistics.queue_depth == 0, name
            assert statistics.state in ("TERMINATED", "FAILED"), name
            assert sum(statistics.handle_histogram) == statistics.processed
            kernel = self.runtime[name]
            assert kernel._box.blocked == 0
            assert kernel._aside is None
            assert not kernel._watchers
        assert not self.runtime._scheduler.woken


@pytest.mark.filterwarnings("ignore::pydotcompute.exceptions.KernelRedefinedWarning")
@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_lost_doubled_or_stuck(loop_mode, seed):
    runtime = RingKernelRuntime(loop_mode, dead_letter_limit=1_000_000)
    world = World(runtime, seed)
    await world.live()
    world.check()
