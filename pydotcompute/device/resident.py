"""The loop of a ring kernel that lives on a GPU, for the text of the program that is compiled around a step.

`bridge` tells what the words mean. This module is not imported: `cuda` runs its text with the names that it uses, among
them `handled`, which runs the step, and `instance_of`, and with the sizes of the records.

Block 0 is the **porter**: it copies messages from the host and hands them to the blocks that work. Where there is only
one block, that does both. The first thread of a block decides what to do, and tells the others through its cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydotcompute.device.bridge import (
    ASKED,
    BASE,
    CELL_WORDS,
    CELLS,
    CODE,
    COMMAND,
    CONTROL,
    COUNT,
    CURSOR,
    DELIVER,
    DOWN,
    DOWN_TAIL,
    ENTRY,
    FAILED,
    FED,
    FED_MASK,
    FED_NEXT,
    FROM_HOST,
    FROM_KERNEL,
    GONE,
    HANDLE,
    HEAD_OF_SLOT,
    HEAD_OF_UP,
    INSTANCE,
    IS_FED,
    KIND,
    LEASE,
    LEASE_NS,
    LEAVE,
    LEFT,
    LIMIT_SEEN,
    NOTHING,
    ORDER,
    PLACE,
    PUSHED,
    QUANTUM_NS,
    QUEUE_MASK,
    QUEUE_TAIL,
    QUEUED,
    QUEUES,
    REPLIED,
    REPLIES,
    ROOM,
    ROOM_LIMIT,
    SOURCE,
    STAGE,
    STAGED,
    STATES,
    STOP,
    TARGET,
    TARGET_MASK,
    TARGET_TAIL,
    UP,
    UP_MASK,
    UP_TAIL,
    WAS_PUSHED,
    WINDOW_MASK,
    WORKERS,
)

if TYPE_CHECKING:
    from typing import Any

    from pydotcompute.device.ptx import (
        acquire_gpu,
        acquire_sys,
        bit_count,
        copy_line,
        fence_gpu,
        fetch_add_gpu,
        get,
        load_gpu,
        load_sys,
        low_bits,
        nap,
        now_ns,
        put,
        release_gpu,
        release_sys,
        store_gpu,
        sync,
        thread_count,
        thread_index,
        warp_peers,
    )

    # `cuda.program_source` gives these their values.
    SLOT = FED_SLOT = FED_REPLY = UP_SLOT = REPLY_SIZE = STATE_SIZE = THREADS = WARP = 0
    LOOK_NS = POLL_EVERY = NAP_AFTER = LEAST_NAP = MOST_NAP = 0

    def inside(function: Any) -> Any: ...
    def handled(kernel: int, state: int, message: int, reply: int) -> int: ...
    def instance_of(named: int, message: int) -> int: ...


@inside
def record_of(kernel: int, position: int, kind: int) -> int:
    """Where a message lies in the device's memory."""
    if kind == FROM_HOST:
        return get(kernel, STAGE) + (position & get(kernel, WINDOW_MASK)) * SLOT + HEAD_OF_SLOT
    return get(kernel, FED) + (position & get(kernel, FED_MASK)) * FED_SLOT + HEAD_OF_SLOT


@inside
def cell_of(kernel: int, owner: int) -> int:
    """The cell of the block with the instances `owner`, `owner` + WORKERS and so on."""
    block = owner if get(kernel, WORKERS) == 1 else owner + 1
    return get(kernel, CELLS) + block * (8 * CELL_WORDS)


@inside
def queue_of(kernel: int, owner: int) -> int:
    return get(kernel, QUEUES) + owner * (8 * (get(kernel, QUEUE_MASK) + 1))


@inside
def route(kernel: int, base: int, count: int, kind: int) -> None:
    """Append messages to the queues of the blocks that they are for, each in its order. By all threads of a block."""
    first, threads = thread_index(), thread_count()
    workers, mask = get(kernel, WORKERS), get(kernel, QUEUE_MASK)
    if workers == 1:
        cell, queue = cell_of(kernel, 0), queue_of(kernel, 0)
        tail = get(cell, QUEUE_TAIL)
        for i in range(first, count, threads):
            put(queue, (tail + i) & mask, 2 * (base + i) + kind)
        sync()
        if first == 0:
            put(cell, QUEUE_TAIL, tail + count)
        return
    for start in range(0, count, WARP):
        cell, written = 0, 0
        if first < WARP:
            position = base + start + first
            owner = -1
            if start + first < count:
                record = record_of(kernel, position, kind)
                named = get(record - HEAD_OF_SLOT, 0) if kind == FROM_HOST else -1
                owner = instance_of(named, record) % workers
            peers = warp_peers(owner)
            if owner >= 0:
                cell = cell_of(kernel, owner)
                tail = get(cell, QUEUED)
                put(queue_of(kernel, owner), (tail + bit_count(peers & low_bits(first))) & mask, 2 * position + kind)
                written = tail + bit_count(peers)
        sync()  # all have read how far the queues went
        if cell:
            put(cell, QUEUED, written)
        sync()
    fence_gpu()
    for i in range(first, count, threads):
        record = record_of(kernel, base + i, kind)
        named = get(record - HEAD_OF_SLOT, 0) if kind == FROM_HOST else -1
        cell = cell_of(kernel, instance_of(named, record) % workers)
        store_gpu(cell, QUEUE_TAIL, get(cell, QUEUED))


@inside
def pick(kernel: int, cell: int, owner: int) -> int:
    """Begin with the next message of this block's queue, if there is one and a place for its reply."""
    cursor = get(cell, CURSOR)
    tail = get(cell, QUEUE_TAIL) if get(kernel, WORKERS) == 1 else acquire_gpu(cell, QUEUE_TAIL)
    if cursor == tail:
        return NOTHING
    entry = get(queue_of(kernel, owner), cursor & get(kernel, QUEUE_MASK))
    kind = entry & 1
    record = record_of(kernel, entry >> 1, kind)
    named, asked = -1, 0
    if kind == FROM_HOST:
        named, asked = get(record - HEAD_OF_SLOT, 0), get(record - HEAD_OF_SLOT, 1)
    room = get(kernel, ROOM)
    if room != 0 and asked == 0:
        taken = fetch_add_gpu(room, 0, 1)
        if taken >= get(cell, LIMIT_SEEN):
            limit = acquire_sys(get(kernel, ROOM_LIMIT), 0)
            put(cell, LIMIT_SEEN, limit)
            if taken >= limit:
                fetch_add_gpu(room, 0, -1)
                return NOTHING
    put(cell, ENTRY, entry)
    put(cell, SOURCE, record)
    put(cell, INSTANCE, instance_of(named, record))
    put(cell, ASKED, asked)
    return HANDLE


@inside
def finish(kernel: int, cell: int, code: int, spent: int) -> None:
    """After the step: find a place for what comes of the message. By the first thread."""
    asked, pushed = get(cell, ASKED), -1
    if asked == 0 and get(kernel, ROOM) != 0:
        if code <= 0:
            fetch_add_gpu(get(kernel, ROOM), 0, -1)
        elif get(kernel, TARGET) != 0:
            pushed = fetch_add_gpu(get(kernel, TARGET_TAIL), 0, 1)
    place = fetch_add_gpu(kernel, UP_TAIL, 1)
    put(cell, CODE, code)
    put(cell, PLACE, place)
    put(cell, PUSHED, pushed)
    slot = get(kernel, UP) + (place & get(kernel, UP_MASK)) * UP_SLOT
    flags = (REPLIED if code > 0 else FAILED if code < 0 else 0) | (WAS_PUSHED if pushed >= 0 else 0)
    put(slot, 1, get(cell, ENTRY))
    put(slot, 2, spent * 8 + flags)
    put(slot, 3, get(cell, INSTANCE))


@inside
def handle(kernel: int, cell: int, me: int, begun: int) -> int:
    """Run the step for the message in hand, and send what comes of it. By all threads of a block; -1: it failed."""
    first, threads = thread_index(), thread_count()
    reply = get(kernel, REPLIES) + me * REPLY_SIZE
    for i in range(first, REPLY_SIZE // 8, threads):
        put(reply, i, 0)
    sync()
    code = 0
    if first < THREADS:
        code = handled(kernel, get(kernel, STATES) + get(cell, INSTANCE) * STATE_SIZE, get(cell, SOURCE), reply)
    sync()
    if first == 0:
        finish(kernel, cell, code, now_ns() - begun)
    sync()
    code, pushed = get(cell, CODE), get(cell, PUSHED)
    slot = get(kernel, UP) + (get(cell, PLACE) & get(kernel, UP_MASK)) * UP_SLOT
    fed = get(kernel, TARGET) + (pushed & get(kernel, TARGET_MASK)) * FED_REPLY
    if code > 0:
        goal = slot + HEAD_OF_UP if pushed < 0 else fed + HEAD_OF_SLOT
        for i in range(first, REPLY_SIZE // 8, threads):
            put(goal, i, get(reply, i))
        sync()
    if first == 0:
        if pushed >= 0:
            release_gpu(fed, 0, pushed + 1)
        release_sys(slot, 0, get(cell, PLACE) + 1)
        put(cell, CURSOR, get(cell, CURSOR) + 1)
    return code


@inside
def fed_messages(kernel: int) -> int:
    """How many there are that other kernels have pushed, up to a limit."""
    base, mask, ring = get(kernel, FED_NEXT), get(kernel, FED_MASK), get(kernel, FED)
    count = 0
    while count < WARP and acquire_gpu(ring + ((base + count) & mask) * FED_SLOT, 0) == base + count + 1:
        count += 1
    return count


@inside
def resident(kernel: int, turn: int, me: int) -> None:
    """What the block `me` does from launch number `turn` until it is to leave."""
    first, threads = thread_index(), thread_count()
    control, workers = get(kernel, CONTROL), get(kernel, WORKERS)
    quantum, patience = get(kernel, QUANTUM_NS), get(kernel, LEASE_NS)
    cell = get(kernel, CELLS) + me * (8 * CELL_WORDS)
    owner = me if workers == 1 else me - 1
    began = now_ns()
    renewed = looked = began
    lease, is_fed, idle, tail = load_sys(control, LEASE), 0, 1, 0
    if first == 0:
        put(cell, LIMIT_SEEN, 0)
    command = NOTHING
    while command != LEAVE:
        now = now_ns()
        if first == 0:
            command = NOTHING
            if load_gpu(kernel, ORDER) == turn:
                command = LEAVE
            elif me == 0:
                if (idle and (is_fed == 0 or idle % POLL_EVERY == 1)) or now - looked > LOOK_NS:
                    looked = now
                    # One after the other and none used before the last: each takes as long as all of them.
                    current, stop = load_sys(control, LEASE), load_sys(control, STOP)
                    is_fed, tail = load_sys(control, IS_FED), acquire_sys(control, DOWN_TAIL)
                    if current != lease:
                        lease, renewed = current, now
                    if stop or now - began > quantum or now - renewed > patience:
                        command = LEAVE
                        release_gpu(kernel, ORDER, turn)
            elif now - began > 2 * quantum:  # the porter may not have got a place
                command = LEAVE
            if command == NOTHING and owner >= 0:
                command = pick(kernel, cell, owner)
            if command == NOTHING and me == 0:
                staged = get(kernel, STAGED)
                count = min(tail - staged, 4 * WARP, get(kernel, WINDOW_MASK) + 1 - (staged & get(kernel, WINDOW_MASK)))
                if count > 0 and (is_fed == 0 or idle & 1):
                    command = DELIVER
                    put(cell, KIND, FROM_HOST)
                    put(cell, BASE, staged)
                    put(kernel, STAGED, staged + count)
                elif is_fed:
                    count = fed_messages(kernel)
                    if count > 0:
                        command = DELIVER
                        put(cell, KIND, FROM_KERNEL)
                        put(cell, BASE, get(kernel, FED_NEXT))
                        put(kernel, FED_NEXT, get(kernel, FED_NEXT) + count)
                put(cell, COUNT, count)
            put(cell, COMMAND, command)
            if command != NOTHING:
                idle = 0
            else:
                idle += 1
                if idle > NAP_AFTER:
                    nap(min((idle - NAP_AFTER) * LEAST_NAP, MOST_NAP))
        sync()
        command = get(cell, COMMAND)
        if command == DELIVER:
            base, count, kind = get(cell, BASE), get(cell, COUNT), get(cell, KIND)
            if kind == FROM_HOST:
                at = (base & get(kernel, WINDOW_MASK)) * SLOT
                source, goal = get(kernel, DOWN) + at, get(kernel, STAGE) + at
                for i in range(first, count * (SLOT // 64), threads):
                    copy_line(goal + 64 * i, source + 64 * i)
                sync()
            route(kernel, base, count, kind)
        elif command == HANDLE and handle(kernel, cell, me, now) < 0:
            if first == 0:
                release_gpu(kernel, ORDER, turn)
            command = LEAVE
        sync()
    if first == 0:
        blocks = workers if workers == 1 else workers + 1
        if (fetch_add_gpu(kernel, LEFT, 1) + 1) % blocks == 0:
            release_sys(control, GONE, turn)
