"""Priorities 0 to 255 are exact, first in first out inside one priority; other values raise in the sender."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from pydotcompute import message
from pydotcompute.exceptions import PriorityError, QueueFullError
from pydotcompute.runtime.mailbox import STRATEGIES, Mailbox
from pydotcompute.runtime.scheduler import SET, Scheduler

exactly = settings(derandomize=True, deadline=None)

# A priority, None for a message that has none, or an integer of NumPy.
PRIORITIES = st.one_of(
    st.sampled_from([0, 1, 127, 128, 128, 128, 129, 254, 255]),
    st.integers(0, 255),
    st.none(),
    st.integers(0, 255).map(np.uint8),
    st.integers(0, 255).map(np.int64),
)


class Item:
    """A message; without a priority it has none, not one of None."""

    def __init__(self, n, priority):
        self.n = n
        if priority is not None:
            self.priority = priority

    @property
    def rank(self):
        """In what order it leaves: higher priorities first, then lower numbers."""
        return (-int(getattr(self, "priority", 128)), self.n)

    def __repr__(self):
        return f"<{self.n} of priority {getattr(self, 'priority', None)!r}>"


class Kernel:
    """What a mailbox needs of its kernel."""

    id = "model"

    def __init__(self):
        self.buried = []

    def bury(self, entry, reason, kind="unhandled"):
        self.buried.append((entry[0], reason))


class MailboxModel(RuleBasedStateMachine):
    """A mailbox against sorted lists: what is in it, who waits in line, what was dropped."""

    waiting = Bundle("waiting")

    @initialize(capacity=st.integers(1, 6), strategy=st.sampled_from(STRATEGIES))
    def make(self, capacity, strategy):
        self.loop = asyncio.new_event_loop()
        self.kernel = Kernel()
        self.box = Mailbox(self.kernel, Scheduler(self.loop), capacity, strategy)
        self.capacity, self.strategy = capacity, strategy
        self.items = []  # in the mailbox
        self.line = []  # (item, wait) of the senders that wait
        self.buried = []
        self.peak = self.count = 0
        self.paused = self.halted = False

    def teardown(self):
        if hasattr(self, "loop"):
            self.loop.close()

    def new_item(self, priority):
        self.count += 1
        return Item(self.count, priority)

    def came(self, item):
        self.items.append(item)
        self.peak = max(self.peak, len(self.items))

    def let_in(self):
        while self.line and len(self.items) < self.capacity:
            item, wait = self.line.pop(0)
            assert wait.state == SET
            self.came(item)

    @rule(target=waiting, priority=PRIORITIES)
    def put(self, priority):
        item = self.new_item(priority)
        full = bool(self.line) or len(self.items) >= self.capacity
        if full and self.strategy == "reject":
            with pytest.raises(QueueFullError):
                self.box.put(item)
            return None
        wait = self.box.put(item)
        if not full:
            assert wait is None
            self.came(item)
        elif self.strategy == "block":
            self.line.append((item, wait))
            return (item, wait)
        else:
            lowest = min(self.items, key=lambda one: (-one.rank[0], one.n))
            if self.strategy == "drop_newest" or item.rank[0] > lowest.rank[0]:
                self.buried.append((item, self.strategy))
            else:
                self.items.remove(lowest)
                self.buried.append((lowest, self.strategy))
                self.came(item)
        return None

    @rule()
    def put_on_the_fast_way(self):
        """What `send` does for a message of default priority: it looks at `room` alone."""
        if len(self.box.plain) < self.box.room:
            assert not self.line
            assert len(self.items) < self.capacity
            item = self.new_item(128)
            self.box.plain.append((item, 0, None))
            self.box.peak = max(self.box.peak, len(self.box.plain))
            self.came(item)

    @rule(count=st.integers(1, 8))
    def put_many(self, count):
        items = [self.new_item(128) for _ in range(count)]
        took = self.box.put_many(items, 0)
        if took:
            assert not self.line
            assert len(self.items) + took <= self.capacity
        for item in items[:took]:
            self.came(item)

    @rule(bad=st.sampled_from([-1, 256, 128.0, 1.5, "128", True, 2**70, float("nan")]))
    def put_of_a_wrong_priority(self, bad):
        item = Item(0, bad)
        with pytest.raises(PriorityError):
            self.box.put(item)

    @rule(entry=consumes(waiting))
    def a_sender_gives_up(self, entry):
        if entry in self.line:
            item, wait = entry
            wait.cancel()
            self.line.remove((item, wait))
            # What the waiting coroutine does when it is resumed.
            coroutine = self.box.accepted(wait)
            with pytest.raises(asyncio.CancelledError):
                coroutine.send(None)

    @rule()
    def pull(self):
        entry = self.box.pull()
        if self.paused or not self.items:
            assert entry is None
            return
        first = min(self.items, key=lambda item: item.rank)
        assert entry[0] is first
        self.items.remove(first)
        self.let_in()

    @rule()
    def take_on_the_fast_way(self):
        """What `receive` does: it looks at `ready` alone."""
        if self.box.ready:
            assert not any((self.paused, self.halted))
            assert not self.line
            first = min(self.items, key=lambda item: item.rank)
            assert self.box.ready.popleft()[0] is first
            self.items.remove(first)

    @rule(paused=st.booleans())
    def pause(self, paused):
        self.paused = paused
        self.box.pause(paused)

    @rule(halted=st.booleans())
    def halt(self, halted):
        self.halted = halted
        self.box.halt(halted)

    @rule(capacity=st.integers(1, 6), strategy=st.sampled_from(STRATEGIES))
    def resize(self, capacity, strategy):
        self.capacity, self.strategy = capacity, strategy
        self.box.resize(capacity, strategy)
        self.let_in()

    @precondition(lambda self: self.items and not self.line)
    @rule()
    def bury_all(self):
        self.box.bury_all("buried")
        self.buried += [(item, "buried") for item in sorted(self.items, key=lambda item: item.rank)]
        self.items.clear()

    @invariant()
    def agrees(self):
        if not hasattr(self, "box"):
            return
        assert len(self.box) == len(self.items)
        assert self.box.blocked == len(self.line)
        assert self.kernel.buried == self.buried
        assert self.box.dropped == sum(reason != "buried" for _, reason in self.buried)
        assert max(self.box.peak, len(self.box)) == self.peak
        assert self.box.would_block == (
            self.strategy == "block" and (bool(self.line) or len(self.items) >= self.capacity)
        )


MailboxModel.TestCase.settings = settings(derandomize=True, deadline=None, max_examples=150, stateful_step_count=40)
TestMailboxBehavesAsItsModel = MailboxModel.TestCase


@exactly
@given(st.lists(st.integers(0, 255), max_size=60))
def test_what_is_queued_leaves_by_priority_and_then_in_order(priorities):
    loop = asyncio.new_event_loop()
    try:
        box = Mailbox(Kernel(), Scheduler(loop), 1000)
        items = [Item(n, priority) for n, priority in enumerate(priorities)]
        for item in items:
            assert box.put(item) is None
        out = []
        while (entry := box.pull()) is not None:
            out.append(entry[0])
        assert out == sorted(items, key=lambda item: item.rank)
    finally:
        loop.close()


# -- in a runtime --------------------------------------------------------------------------------------------------


@message
class Job:
    n: int


async def test_all_256_priorities_are_told_apart(runtime, start):
    seen = []

    async def worker(ctx):
        async for job in ctx:
            seen.append((job.priority, job.n))

    kernel = await start(worker, queue_size=2000)
    await kernel.deactivate()
    jobs = [Job(n, priority=(n * 89) % 256) for n in range(1024)]
    for job in jobs[:500]:
        await runtime.send("worker", job)
    await runtime.send_many("worker", jobs[500:])
    await kernel.reactivate()
    await runtime.wait_idle()
    assert seen == sorted(seen, key=lambda one: (-one[0], one[1]))
    assert len({priority for priority, _ in seen}) == 256


async def test_an_urgent_message_overtakes_those_that_are_queued(runtime, start, gate):
    begun, go_on, seen = gate(), gate(), []

    async def worker(ctx):
        async for job in ctx:
            seen.append(job.n)
            begun.open()
            await go_on.wait()

    await start(worker)
    await runtime.send_many("worker", [Job(0), Job(1)])
    await begun.wait()
    await runtime.send("worker", Job(2, priority=127))
    await runtime.send("worker", Job(3, priority=129))
    await runtime.send("worker", Job(4, priority=255))
    asked = asyncio.ensure_future(runtime.ask("worker", Job(5, priority=254)))
    while runtime["worker"].queue_depth < 5:
        await asyncio.sleep(0)
    go_on.open()
    await runtime.wait_idle()
    assert seen == [0, 4, 5, 3, 1, 2]
    await runtime.terminate("worker")
    await asyncio.gather(asked, return_exceptions=True)


async def test_a_message_without_a_priority_has_the_default_one(runtime, start):
    seen = []

    async def worker(ctx):
        async for one in ctx:
            seen.append(getattr(one, "n", one))

    kernel = await start(worker)
    await kernel.deactivate()
    for one in (Job(0, priority=127), "plain", Job(1), SimpleNamespace(priority=None, n="none"), Job(2, priority=129)):
        await runtime.send("worker", one)
    await kernel.reactivate()
    await runtime.wait_idle()
    assert seen == [2, "plain", 1, "none", 0]


@pytest.mark.parametrize(
    "bad",
    [-1, 256, 1.0, 128.0, "128", True, False, 2**64, float("nan"), np.float64(3), np.array([1, 2]), np.True_, [128]],
    ids=repr,
)
async def test_another_priority_raises_in_the_sender_and_names_the_range(runtime, start, bad):
    async def worker(ctx):
        async for _ in ctx:
            pass

    kernel = await start(worker)
    wrong = SimpleNamespace(priority=bad)
    for call in (
        lambda: runtime.send("worker", wrong),
        lambda: runtime.ask("worker", wrong),
        lambda: runtime.send_many("worker", [wrong]),
        lambda: kernel.send(wrong),
    ):
        with pytest.raises(PriorityError, match="integer from 0 to 255"):
            await call()
    assert kernel.statistics().received == 0


@pytest.mark.parametrize("good", [np.uint8(200), np.int64(128), np.int16(0)])
async def test_integers_of_numpy_are_priorities(runtime, start, good):
    async def worker(ctx):
        async for job in ctx:
            await ctx.send(job)

    await start(worker)
    job = SimpleNamespace(priority=good)
    assert await runtime.ask("worker", job) is job
    await runtime.send_many("worker", [job])
    assert await runtime.receive("worker") is job


async def test_a_body_learns_of_a_wrong_priority_when_it_tells(runtime, start):
    async def other(ctx):
        async for _ in ctx:
            pass

    async def worker(ctx):
        async for _ in ctx:
            try:
                await ctx.tell("other", SimpleNamespace(priority=300))
            except PriorityError as error:
                await ctx.send(str(error))

    await start(other)
    await start(worker)
    assert "not 300" in await runtime.ask("worker", 1)
