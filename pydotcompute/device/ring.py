"""Rings of records between the host and native threads, and the kernels that read and write them.

Everything is an int64 word in memory that NumPy owns, known by its address. Four kinds of blocks, whose words are named
below, each group that one side writes on cache lines of its own:

- A **ring** holds `LIMIT` records at most, in a power of two of places. Positions count up from `START` and never wrap.
  One thread at a time writes it and one reads it. What the host sends comes in **runs**: messages that go to one
  instance, under one ticket. A run is published at once, so a batch of a thousand costs what one message costs, and its
  records lie as densely as in the array that they came from.
- A **kernel** has a ring of messages from the host (`INBOX`), rings of other kernels that were connected to it
  (`SOURCES`), a ring of replies (`OUT`) and one of answers to asks (`ANSWERS`). Head and tail live here and not in the
  loop, so that the loop may stop anywhere between two messages, and another go on.
- The **job** that a step is called with: which messages, which states, where replies go.
- A **pool** is what workers share: which kernels are ready, which workers sleep.

Who sends: writes, publishes, then makes the kernel ready unless a worker attends it (`notify`). Who stops attending:
says so, then looks again. Each needs a fence between its two steps, so that one of them sees the other. A fence waits
until all that was written has left the core, which takes longer than to write it; so the side that sends has none
(`light`), where the system lets the other side, which acts rarely, make up for it (`heavy`). A writer that waits for
room and a host that waits for an event are woken in the same way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.executor import RingPositions
from ..telemetry.counters import BUCKETS, COUNTERS

START = 0
"""The position at which new rings begin."""

LINE = 16
"""Words that are kept apart: two cache lines, since processors fetch lines in pairs."""

# -- the words of a ring -----------------------------------------------------------------------------------------------

TAIL, SEEN_HEAD, RUN_TAIL, SINCE_STAMP = range(4)  # of the writer
HEAD, SEEN_TAIL, RUN_HEAD, RUN_BEGUN = range(LINE, LINE + 4)  # of the reader
BUFFER, MASK, SIZE, LIMIT, RUNS, READER, WRITER = range(2 * LINE, 2 * LINE + 7)  # of neither, once it is made
BLOCKED = 3 * LINE  # the writer stopped for want of room and is to be notified; at times although it was already
RING_WORDS = 4 * LINE

# A run: it ends before position END.
END, INSTANCE, TICKET, STAMP = range(4)
RUN_WORDS = 8  # a cache line
STAMP_EVERY = 64
"""Of the messages that are put one by one, how many go without the time between two with it."""

# -- the words of a kernel ---------------------------------------------------------------------------------------------

SERVE, STATES, INBOX, OUT, ANSWERS, SOURCES, SOURCE_COUNT, ROW, INDEX, POOL, QUANTUM, BUFFERS, SCRATCH = range(13)
BRIDGE = 13  # of a GPU
GATE, PATIENCE = LINE, LINE + 1  # not 0: messages are let through; how often the next ask looks for its answer
PAUSED = 2 * LINE  # the host says: handle no further message
STATUS = 3 * LINE  # ASLEEP, READY: its bit in the pool is set, ATTENDED: by a worker, GONE
OWNER = 3 * LINE + 1  # of a GPU: NOBODY, POLLER: it is looking after it, HOST: it rests until it is let go
ARMED, HAPPENED = 4 * LINE, 4 * LINE + 1  # events
CHUNK, FAILED = 5 * LINE, 5 * LINE + 1  # of the loop
MESSAGES, MESSAGE_MASK, FIRST, LAST, TO_INSTANCE, REPLIES, REPLY_MASK, REPLY_TAIL, REPLY_LIMIT = range(
    6 * LINE, 6 * LINE + 9
)  # the job
KERNEL_WORDS = 7 * LINE

ASLEEP, READY, ATTENDED, GONE = range(4)
NOBODY, POLLER, HOST = range(3)
TOLD = 2  # FAILED, and the loop has done with the kernel
ANSWER, REPLY, ROOM, IDLE, FAILURE = 1, 2, 4, 8, 16  # as `runtime.executor.Event`

# -- the words of a pool -----------------------------------------------------------------------------------------------

KERNELS, READY_BITS, NOTED_BITS, BIT_WORDS, HOST_FD, ONE, READ_FDS, WRITE_FDS, SPIN, SPIN_PLACES, PASSES, FENCED = (
    range(12)
)
LAUNCH, QUERY, POLL = range(12, 15)  # of a GPU: how to launch and to ask what became of it; what a poller waits for
STOP, LEASE = LINE, LINE + 1
CROWD, NUDGED = LINE + 2, LINE + 3  # of a GPU: kernels without work make room for others; something has changed
SPINNERS, SPIN_TURNS = 2 * LINE, 2 * LINE + 1  # how many look around for work; how often one has begun to
SLEEPING = 3 * LINE  # a bit for each worker
SIGNALLED = 4 * LINE  # the host was woken and has not looked yet
POOL_WORDS = 5 * LINE

MAX_KERNELS = 4096
MOST_LEFT = 60
"""Kernels that a worker leaves before it looks at all of them again."""
WORKER_WORDS = 5 * LINE
"""Rounds made, whether it sleeps, when it last attended; on the next lines the kernels it has left, how many first."""
MAX_WORKERS = 62

BATCH = 256
"""Messages that are handled between two looks at the clock, at most."""
LEAST_PATIENCE = 8
WAYS = 3
"""How often an ask gives way to the worker that is to answer it."""
TURN = 1024
"""Messages that are handled between two looks at other kernels, at most."""

PROCESSED, REPLIED, BUSY, WAITED, HANDLED = (
    COUNTERS.fields[name][1] // 8  # type: ignore[index]
    for name in ("processed", "replied", "busy_ns", "waited", "handled")
)
"""Words of a row of counters, the last two the first of their histograms."""
LAST_BUCKET = BUCKETS - 1
QUEUED, NOTIFY, RESTING, WITHDRAW, CLOCK, FENCE, TELL, CLAIM = range(8)
"""What the host asks `loop.do` for."""
FULL, SHUT = 0, -1
"""What putting says when it has put nothing."""


def block(nbytes: int) -> NDArray[np.int64]:
    """Zeroed words, on a page of 128 bytes."""
    memory = np.zeros(nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 128
    return memory[start : start + nbytes].view(np.int64)


def address(array: NDArray[Any]) -> int:
    """Where it lies."""
    return array.ctypes.data  # not `__array_interface__`, which describes the fields of records too: ten times as slow


class Ring:
    """The memory of one ring for `limit` records of `size` bytes; `runs` for messages from the host."""

    __slots__ = ("address", "memory", "words")

    def __init__(self, size: int, limit: int, *, runs: bool = False) -> None:
        places = 1 << max(limit - 1, 1).bit_length()
        self.words = block(8 * RING_WORDS)
        self.address = address(self.words)
        self.memory = [block(places * size), block(8 * places * RUN_WORDS if runs else 0)]
        for word in (TAIL, SEEN_HEAD, RUN_TAIL, HEAD, RUN_HEAD):
            self.words[word] = START
        self.words[BUFFER], self.words[MASK], self.words[SIZE] = address(self.memory[0]), places - 1, size
        self.words[LIMIT], self.words[RUNS] = limit, address(self.memory[1]) if runs else 0

    @property
    def positions(self) -> RingPositions:
        """Where it stands."""
        words, limit = self.words, int(self.words[LIMIT])
        # The head is read first, and so never lies beyond the tail; both sides may go on before the tail is read.
        head, tail = int(words[HEAD]), int(words[TAIL])
        return RingPositions(int(words[MASK]) + 1, limit, max(head, tail - limit), tail)

    @property
    def is_done(self) -> bool:
        """Whether nobody writes it any more, and nothing is left in it."""
        return not self.words[WRITER] and bool(self.words[TAIL] == self.words[HEAD])
