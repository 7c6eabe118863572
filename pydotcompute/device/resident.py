"""The loop of a ring kernel that lives on a GPU, for the text of the program that is compiled around a step.

`bridge` tells what the words mean. This module is not imported: `cuda` runs its text with the names that it uses, among
them `handled`, which runs the step, and `instance_of`, and with the sizes of the records.

Block 0 is the **porter**: it copies messages from the host and hands them to the blocks that work. Where there is only
one block, that does both. The first thread of a block decides what to do, and tells the others on its desk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydotcompute.device.bridge import (
    ASKED,
    BASE,
    BEGAN,
    CELL_WORDS,
    CELLS,
    CODE,
    COMMAND,
    CONTROL,
    COUNT,
    CURSOR,
    DELIVER,
    DESK,
    DOWN,
    DOWN_TAIL,
    ENTRY,
    FAILED,
    FED,
    FED_MASK,
    FED_NEXT,
    FED_NOW,
    FROM_HOST,
    FROM_KERNEL,
    GONE,
    HANDLE,
    HEAD,
    HEAD_OF_SLOT,
    HEAD_OF_UP,
    HOST_TAIL,
    INSTANCE,
    IS_FED,
    KIND,
    LEASE,
    LEASE_NS,
    LEASE_SEEN,
    LEAVE,
    LEFT,
    LIMIT_SEEN,
    LOOKED,
    NEXT_FED,
    NEXT_STAGED,
    NOTHING,
    ORDER,
    OUT_COUNT,
    OUT_TAKEN,
    PLACE,
    PUSHED,
    QUANTUM_NS,
    QUEUE_MASK,
    QUEUE_TAIL,
    QUEUED,
    QUEUES,
    RENEWED,
    REPLIED,
    REPLIES,
    ROOM,
    ROOM_LIMIT,
    SETTINGS,
    SOURCE,
    STAGE,
    STAGED,
    STATES,
    STOP,
    TAIL_SEEN,
    TARGET,
    TARGET_MASK,
    TARGET_TAIL,
    UP,
    UP_COUNT,
    UP_MASK,
    UP_TAIL,
    WAS_FED,
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
        count_gpu,
        desk_at,
        fence_gpu,
        fetch_add_gpu,
        get,
        load_gpu,
        load_sys,
        look,
        low_bits,
        nap,
        note,
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
    def handled(desk: int, state: int, message: int, reply: int) -> int: ...
    def instance_of(named: int, message: int) -> int: ...


@inside
def record_of(desk: int, position: int, kind: int) -> int:
    """Where a message lies in the device's memory."""
    if kind == FROM_HOST:
        return look(desk, STAGE) + (position & look(desk, WINDOW_MASK)) * SLOT + HEAD_OF_SLOT
    return look(desk, FED) + (position & look(desk, FED_MASK)) * FED_SLOT + HEAD_OF_SLOT


@inside
def owner_of(desk: int, position: int, kind: int) -> int:
    """Whose the message is: that of the blocks which has the instances `owner`, `owner` + WORKERS and so on."""
    record = record_of(desk, position, kind)
    named = get(record - HEAD_OF_SLOT, 0) if kind == FROM_HOST else -1
    return instance_of(named, record) % look(desk, WORKERS)


@inside
def cell_of(desk: int, owner: int) -> int:
    block = owner if look(desk, WORKERS) == 1 else owner + 1
    return look(desk, CELLS) + block * (8 * CELL_WORDS)


@inside
def queue_of(desk: int, owner: int) -> int:
    return look(desk, QUEUES) + owner * (8 * (look(desk, QUEUE_MASK) + 1))


@inside
def route(desk: int, base: int, count: int, kind: int) -> None:
    """Append messages to the queues of the blocks that they are for, each in its order. By all threads of a block."""
    first, threads = thread_index(), thread_count()
    mask = look(desk, QUEUE_MASK)
    if look(desk, WORKERS) == 1:
        cell, queue = cell_of(desk, 0), queue_of(desk, 0)
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
            owner = owner_of(desk, position, kind) if start + first < count else -1
            peers = warp_peers(owner)
            if owner >= 0:
                cell = cell_of(desk, owner)
                tail = get(cell, QUEUED)
                put(queue_of(desk, owner), (tail + bit_count(peers & low_bits(first))) & mask, 2 * position + kind)
                written = tail + bit_count(peers)
        sync()  # all have read how far the queues went
        if cell:
            put(cell, QUEUED, written)
        sync()
    fence_gpu()
    for i in range(first, count, threads):
        cell = cell_of(desk, owner_of(desk, base + i, kind))
        store_gpu(cell, QUEUE_TAIL, get(cell, QUEUED))


@inside
def has_place(desk: int) -> int:
    """Take a place for a reply that belongs to no ask; 0: there is none."""
    is_own = look(desk, WORKERS) == 1 and look(desk, TARGET) == 0
    taken = look(desk, OUT_COUNT) if is_own else load_gpu(look(desk, ROOM), 0)
    limit = look(desk, LIMIT_SEEN)
    if taken >= limit:
        limit = acquire_sys(look(desk, ROOM_LIMIT), 0)
        note(desk, LIMIT_SEEN, limit)
        if taken >= limit:  # before taking one: of many that took and gave back, hardly any would get the last
            return 0
    if is_own:  # nobody else takes one
        note(desk, OUT_COUNT, taken + 1)
    elif count_gpu(look(desk, ROOM), 0, 1) >= limit:
        count_gpu(look(desk, ROOM), 0, -1)
        return 0
    return 1


@inside
def give_place_back(desk: int) -> None:
    if look(desk, WORKERS) == 1 and look(desk, TARGET) == 0:
        note(desk, OUT_COUNT, look(desk, OUT_COUNT) - 1)
    else:
        count_gpu(look(desk, ROOM), 0, -1)


@inside
def pick(desk: int, cell: int, owner: int) -> int:
    """Begin with the next message of this block's queue, if there is one and a place for its reply."""
    cursor = look(desk, HEAD)
    if cursor == look(desk, TAIL_SEEN):
        tail = get(cell, QUEUE_TAIL) if look(desk, WORKERS) == 1 else acquire_gpu(cell, QUEUE_TAIL)
        note(desk, TAIL_SEEN, tail)
        if cursor == tail:
            return NOTHING
    entry = get(queue_of(desk, owner), cursor & look(desk, QUEUE_MASK))
    kind = entry & 1
    record = record_of(desk, entry >> 1, kind)
    named, asked = -1, 0
    if kind == FROM_HOST:
        named, asked = get(record - HEAD_OF_SLOT, 0), get(record - HEAD_OF_SLOT, 1)
    if look(desk, ROOM) != 0 and asked == 0 and has_place(desk) == 0:
        return NOTHING
    note(desk, ENTRY, entry)
    note(desk, SOURCE, record)
    note(desk, INSTANCE, instance_of(named, record))
    note(desk, ASKED, asked)
    return HANDLE


@inside
def finish(kernel: int, desk: int, report: int, code: int, spent: int) -> None:
    """After the step: find a place for what comes of the message, and report it. By the first thread."""
    pushed = -1
    if look(desk, ASKED) == 0 and look(desk, ROOM) != 0:
        if code <= 0:
            give_place_back(desk)
        elif look(desk, TARGET) != 0:
            pushed = fetch_add_gpu(look(desk, TARGET_TAIL), 0, 1)
    if look(desk, WORKERS) == 1:
        place = look(desk, UP_COUNT)
        note(desk, UP_COUNT, place + 1)
    else:
        place = count_gpu(kernel, UP_TAIL, 1)
    note(desk, CODE, code)
    note(desk, PLACE, place)
    note(desk, PUSHED, pushed)
    flags = (REPLIED if code > 0 else FAILED if code < 0 else 0) | (WAS_PUSHED if pushed >= 0 else 0)
    put(report, 1, look(desk, ENTRY))
    put(report, 2, spent * 8 + flags)
    put(report, 3, look(desk, INSTANCE))


@inside
def handle(kernel: int, desk: int, me: int, begun: int) -> int:
    """Run the step for the message in hand, and send what comes of it. By all threads of a block; -1: it failed."""
    first, threads = thread_index(), thread_count()
    # The report as it goes up: a head and, behind it, the reply. In one go, since each write is a trip over the bus.
    report = look(desk, REPLIES) + me * (HEAD_OF_UP + REPLY_SIZE)
    reply = report + HEAD_OF_UP
    for i in range(first, REPLY_SIZE // 8, threads):
        put(reply, i, 0)
    sync()
    code = 0
    if first < THREADS:
        code = handled(desk, look(desk, STATES) + look(desk, INSTANCE) * STATE_SIZE, look(desk, SOURCE), reply)
    sync()
    if first == 0:
        finish(kernel, desk, report, code, now_ns() - begun)
    sync()
    code, pushed = look(desk, CODE), look(desk, PUSHED)
    words = HEAD_OF_UP // 8 + (REPLY_SIZE // 8 if code > 0 else 0)
    if pushed >= 0:
        fed = look(desk, TARGET) + (pushed & look(desk, TARGET_MASK)) * FED_REPLY
        for i in range(first, REPLY_SIZE // 8, threads):
            put(fed + HEAD_OF_SLOT, i, get(reply, i))
        sync()
        if first == 0:
            release_gpu(fed, 0, pushed + 1)
        words = HEAD_OF_UP // 8
    slot = look(desk, UP) + (look(desk, PLACE) & look(desk, UP_MASK)) * UP_SLOT
    for i in range(first + 1, words, threads):
        put(slot, i, get(report, i))
    sync()
    if first == 0:
        release_sys(slot, 0, look(desk, PLACE) + 1)
        note(desk, HEAD, look(desk, HEAD) + 1)
    return code


@inside
def fed_messages(desk: int) -> int:
    """How many there are that other kernels have pushed, up to a limit."""
    base, mask, ring = look(desk, NEXT_FED), look(desk, FED_MASK), look(desk, FED)
    count, most = 0, 1 if look(desk, WORKERS) == 1 else WARP  # alone, it loses no time by taking one after the other
    while count < most and acquire_gpu(ring + ((base + count) & mask) * FED_SLOT, 0) == base + count + 1:
        count += 1
    return count


@inside
def deliver(desk: int) -> int:
    """Begin to hand messages out: those of the host or those of other kernels, in turn."""
    base, mask = look(desk, NEXT_STAGED), look(desk, WINDOW_MASK)
    count, kind = min(look(desk, HOST_TAIL) - base, 4 * thread_count(), mask + 1 - (base & mask)), FROM_HOST
    if look(desk, FED_NOW) and (look(desk, WAS_FED) == 0 or count <= 0):
        fed = fed_messages(desk)
        if fed > 0:
            base, count, kind = look(desk, NEXT_FED), fed, FROM_KERNEL
    note(desk, WAS_FED, 1 - look(desk, WAS_FED))
    if count <= 0:
        return NOTHING
    note(desk, NEXT_STAGED if kind == FROM_HOST else NEXT_FED, base + count)
    note(desk, KIND, kind)
    note(desk, BASE, base)
    note(desk, COUNT, count)
    return DELIVER


@inside
def sit_down(kernel: int, desk: int, me: int) -> None:
    """Lay what the block needs on its desk. By all its threads."""
    for i in range(thread_index(), SETTINGS, thread_count()):
        note(desk, i, get(kernel, i))
    if thread_index() == 0:
        cell = get(kernel, CELLS) + me * (8 * CELL_WORDS)
        note(desk, HEAD, get(cell, CURSOR))
        note(desk, TAIL_SEEN, get(cell, CURSOR))
        note(desk, LIMIT_SEEN, 0)
        note(desk, NEXT_STAGED, get(kernel, STAGED))
        note(desk, NEXT_FED, get(kernel, FED_NEXT))
        note(desk, UP_COUNT, get(kernel, UP_TAIL))
        note(desk, OUT_COUNT, get(kernel, OUT_TAKEN))
        note(desk, HOST_TAIL, 0)
        note(desk, FED_NOW, 0)
        note(desk, WAS_FED, 0)
        note(desk, LEASE_SEEN, load_sys(get(kernel, CONTROL), LEASE))
        now = now_ns()
        note(desk, BEGAN, now)
        note(desk, RENEWED, now)
        note(desk, LOOKED, now)
    sync()


@inside
def stand_up(kernel: int, desk: int, me: int) -> None:
    """Keep what the next launch is to know. By the first thread."""
    put(look(desk, CELLS) + me * (8 * CELL_WORDS), CURSOR, look(desk, HEAD))
    if me == 0:
        put(kernel, STAGED, look(desk, NEXT_STAGED))
        put(kernel, FED_NEXT, look(desk, NEXT_FED))
    if look(desk, WORKERS) == 1:
        put(kernel, UP_TAIL, look(desk, UP_COUNT))
        put(kernel, OUT_TAKEN, look(desk, OUT_COUNT))


@inside
def look_up(kernel: int, desk: int, turn: int, now: int) -> int:
    """See what the host wants: LEAVE, or NOTHING. By the porter's first thread."""
    control = look(desk, CONTROL)
    # One after the other and none used before the last: each takes as long as all of them.
    lease, stop, is_fed = load_sys(control, LEASE), load_sys(control, STOP), load_sys(control, IS_FED)
    order, tail = load_gpu(kernel, ORDER), acquire_sys(control, DOWN_TAIL)
    if lease != look(desk, LEASE_SEEN):
        note(desk, LEASE_SEEN, lease)
        note(desk, RENEWED, now)
    note(desk, FED_NOW, is_fed)
    note(desk, HOST_TAIL, tail)
    over = now - look(desk, BEGAN) > look(desk, QUANTUM_NS) or now - look(desk, RENEWED) > look(desk, LEASE_NS)
    if stop or over or order == turn:
        release_gpu(kernel, ORDER, turn)
        return LEAVE
    return NOTHING


@inside
def decide(kernel: int, desk: int, turn: int, me: int, idle: int, now: int) -> int:
    """What the block does next, which has found nothing to do `idle` times. By the first thread."""
    command, workers = NOTHING, look(desk, WORKERS)
    if me == 0:
        is_idle = idle > 0 and (look(desk, FED_NOW) == 0 or idle % POLL_EVERY == 1)
        if is_idle or now - look(desk, LOOKED) > LOOK_NS:
            note(desk, LOOKED, now)
            command = look_up(kernel, desk, turn, now)
    elif load_gpu(kernel, ORDER) == turn or now - look(desk, BEGAN) > 2 * look(desk, QUANTUM_NS):
        command = LEAVE  # the porter said so; or it has not got a place on the device
    if command == NOTHING and (me != 0 or workers == 1):
        command = pick(desk, look(desk, CELLS) + me * (8 * CELL_WORDS), me if workers == 1 else me - 1)
    if command == NOTHING and me == 0:
        command = deliver(desk)
    return command


@inside
def resident(kernel: int, turn: int, me: int) -> None:
    """What the block `me` does from launch number `turn` until it is to leave."""
    first, threads = thread_index(), thread_count()
    desk = desk_at(get(kernel, CELLS) + me * (8 * CELL_WORDS) + 8 * DESK)
    sit_down(kernel, desk, me)
    idle, command = 1, NOTHING
    while command != LEAVE:
        now = now_ns()
        if first == 0:
            command = decide(kernel, desk, turn, me, idle, now)
            note(desk, COMMAND, command)
            idle = idle + 1 if command == NOTHING else 0
            if idle > NAP_AFTER:
                nap(min((idle - NAP_AFTER) * LEAST_NAP, MOST_NAP))
        sync()
        command = look(desk, COMMAND)
        if command == DELIVER:
            if look(desk, KIND) == FROM_HOST:
                at = (look(desk, BASE) & look(desk, WINDOW_MASK)) * SLOT
                source, goal = look(desk, DOWN) + at, look(desk, STAGE) + at
                for i in range(first, look(desk, COUNT) * (SLOT // 64), threads):
                    copy_line(goal + 64 * i, source + 64 * i)
                sync()
            route(desk, look(desk, BASE), look(desk, COUNT), look(desk, KIND))
        elif command == HANDLE and handle(kernel, desk, me, now) < 0:
            if first == 0:
                release_gpu(kernel, ORDER, turn)
            command = LEAVE
        sync()
    if first == 0:
        stand_up(kernel, desk, me)
        workers = look(desk, WORKERS)
        blocks = workers if workers == 1 else workers + 1
        if (fetch_add_gpu(kernel, LEFT, 1) + 1) % blocks == 0:
            release_sys(look(desk, CONTROL), GONE, turn)
