"""The memory between the host and a ring kernel that lives on a GPU.

Everything is an int64 word, known by its address, as in `ring`. Four blocks for each kernel:

- its **seat**, in the memory of the device: where everything else lies, and the cursors. They outlive a launch, so
  that the loop may leave anywhere between two messages and be launched again.
- a **cell** for each block of threads, beside it: its queue's head and tail. While it runs, a block has a copy of what
  it needs of both on its **desk**, in shared memory, with what its first thread tells the others.
- its **control** words, in page-locked memory that both sides see. Each word has one writer.
- its **bridge**, which only the host knows: its poller, and the event loop while the kernel rests.

Messages go through a ring of slots in page-locked memory (**down**), of which the device copies as many as there are
at once into a ring of the same form in its own memory (**stage**): reading a word of the host's memory takes a GPU
about as long as reading many lines at once. What comes of a message goes through another ring (**up**), in the order
in which the blocks are done. Replies of other kernels on the same device wait in a ring in the device's memory
(**fed**), which these write themselves.

Nobody writes a slot that has not been read: the host counts. Only so many messages are on the device at a time as the
ring down has slots; of fed ones the host grants as many as the kernel's queue holds, and grants them anew when it has
seen them handled. For each of both there is a place in the ring up. A reply that belongs to no ask takes its place, in
the host's ring of replies or in the fed ring of another kernel, before its step runs.
"""

from __future__ import annotations

from .ring import LINE

# -- the seat: where things are, and how large -------------------------------------------------------------------------

CONTROL, DOWN, UP, STAGE, FED, CELLS, QUEUES, STATES, REPLIES, BUFFERS = range(10)
WORKERS, WINDOW_MASK, UP_MASK, FED_MASK, QUEUE_MASK, QUANTUM_NS, LEASE_NS = range(10, 17)
ROOM, ROOM_LIMIT, TARGET, TARGET_TAIL, TARGET_MASK = range(LINE + 1, LINE + 6)
"""Where a reply that belongs to no ask takes its place: addresses of a counter and of its limit. Where `TARGET` is not
0, replies go into that ring of another kernel."""

# -- the seat: what changes --------------------------------------------------------------------------------------------

STAGED, FED_NEXT = 2 * LINE, 2 * LINE + 1  # the next message to be copied from the host, and the next fed one
ORDER = 3 * LINE  # the launch that is to leave
LEFT = 4 * LINE  # how many blocks have left, ever
UP_TAIL = 5 * LINE
OUT_TAKEN = 6 * LINE  # places among the host's replies
FED_TAKEN = 7 * LINE  # places in the fed ring
FED_TAIL = 8 * LINE
SEAT_WORDS = 9 * LINE

# -- a cell ------------------------------------------------------------------------------------------------------------

CURSOR, QUEUED = 0, 1  # of the queue: head, and tail as far as entries are written
QUEUE_TAIL = LINE  # as far as the block may read them
DESK = 2 * LINE  # where there is no faster memory for it
CELL_WORDS = 6 * LINE

# -- a desk: what a block has at hand while it is on the device --------------------------------------------------------

SETTINGS = 2 * LINE
"""So many words as the seat begins with, at first. Those that follow are the block's own."""
COMMAND, COUNT, BASE, KIND, SOURCE, ENTRY, INSTANCE, ASKED, CODE, PLACE, PUSHED = range(2 * LINE, 2 * LINE + 11)
HEAD, TAIL_SEEN, LIMIT_SEEN, NEXT_STAGED, NEXT_FED, UP_COUNT, OUT_COUNT = range(3 * LINE, 3 * LINE + 7)
BEGAN, RENEWED, LOOKED, LEASE_SEEN, HOST_TAIL, FED_NOW, WAS_FED = range(3 * LINE + 7, 3 * LINE + 14)
DESK_WORDS = 4 * LINE

NOTHING, LEAVE, DELIVER, HANDLE = range(4)  # commands
FROM_HOST, FROM_KERNEL = range(2)  # kinds

# -- control words -----------------------------------------------------------------------------------------------------

DOWN_TAIL, STOP, LEASE, IS_FED = range(4)  # written by the host, and read together
OUT_LIMIT, FED_LIMIT = LINE, LINE + 1  # likewise
GONE = 2 * LINE  # written by the device: the last launch that all blocks have left
CONTROL_WORDS = 3 * LINE

# -- slots -------------------------------------------------------------------------------------------------------------

HEAD_OF_SLOT = 16
"""Bytes before the record: of the rings down and stage the instance that was named, or -1, and whether it was asked; of
a fed ring the sequence number, and nothing."""
HEAD_OF_UP = 32
"""Bytes before the reply: sequence number; entry (position * 2 + kind); nanoseconds * 8 + flags; instance."""
REPLIED, FAILED, WAS_PUSHED = 1, 2, 4

# -- the bridge --------------------------------------------------------------------------------------------------------

BRIDGE_SENT, BRIDGE_RUN, BRIDGE_ASKED, BRIDGE_UP = range(4)
BRIDGE_LAUNCH, BRIDGE_RESIDENT, BRIDGE_CLOSING, BRIDGE_FAULT, BRIDGE_FAILED_ENTRY, BRIDGE_FAILED_INSTANCE = range(4, 10)
BRIDGE_LEASE, BRIDGE_ACTIVE, BRIDGE_QUERIED = range(10, 13)
BRIDGE_CONTROL, BRIDGE_DOWN, BRIDGE_UP_RING, BRIDGE_WINDOW, BRIDGE_UP_MASK, BRIDGE_FED_MASK = range(LINE, LINE + 6)
BRIDGE_SLOT, BRIDGE_UP_SLOT, BRIDGE_TICKETS, BRIDGE_STAMPS, BRIDGE_FED_MARKS, BRIDGE_FED = range(LINE + 6, LINE + 12)
BRIDGE_FUNCTION, BRIDGE_STREAM, BRIDGE_BLOCKS, BRIDGE_X, BRIDGE_Y, BRIDGE_PARAMETERS = range(2 * LINE, 2 * LINE + 6)
BRIDGE_TARGET, BRIDGE_BASE, BRIDGE_FED_PLACES = range(2 * LINE + 6, 2 * LINE + 9)
BRIDGE_WORDS = 3 * LINE

DONE = -1
"""In place of the ticket of a message that was handled."""
NO_ENTRY = -2  # like that of a message of the host, at no position
ENDED = -1
"""In place of an error of CUDA: the launch is over, and the loop has not left."""
