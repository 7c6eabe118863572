"""What the poller of a GPU does on the host, for Numba: messages to the device, what comes of them back, launches.

`bridge` tells what the words mean, `ring` those of the host's rings. This module is not imported: `cuda` runs its text
with the functions of `loop`, which put messages into these rings and take replies out of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba import njit

from pydotcompute.device.atomics import (
    acquire,
    bit_length,
    copy,
    exchange,
    fence,
    fetch_and,
    fetch_or,
    give_way,
    launch,
    load,
    now_ns,
    poll,
    query,
    read,
    relax,
    release,
    store,
    swap_if,
)
from pydotcompute.device.bridge import (
    BRIDGE_ACTIVE,
    BRIDGE_ASKED,
    BRIDGE_BASE,
    BRIDGE_BLOCKS,
    BRIDGE_CLOSING,
    BRIDGE_CONTROL,
    BRIDGE_DOWN,
    BRIDGE_FAILED_ENTRY,
    BRIDGE_FAILED_INSTANCE,
    BRIDGE_FAULT,
    BRIDGE_FED,
    BRIDGE_FED_MARKS,
    BRIDGE_FED_MASK,
    BRIDGE_FED_PLACES,
    BRIDGE_FUNCTION,
    BRIDGE_LAUNCH,
    BRIDGE_LEASE,
    BRIDGE_PARAMETERS,
    BRIDGE_QUERIED,
    BRIDGE_RESIDENT,
    BRIDGE_RUN,
    BRIDGE_SENT,
    BRIDGE_SLOT,
    BRIDGE_STAMPS,
    BRIDGE_STREAM,
    BRIDGE_TARGET,
    BRIDGE_TICKETS,
    BRIDGE_UP,
    BRIDGE_UP_MASK,
    BRIDGE_UP_RING,
    BRIDGE_UP_SLOT,
    BRIDGE_WINDOW,
    BRIDGE_X,
    BRIDGE_Y,
    DONE,
    DOWN_TAIL,
    ENDED,
    FED_LIMIT,
    FROM_HOST,
    GONE,
    HEAD_OF_SLOT,
    HEAD_OF_UP,
    LEASE,
    OUT_LIMIT,
    STOP,
    WAS_PUSHED,
)
from pydotcompute.device.bridge import FAILED as HAS_FAILED
from pydotcompute.device.bridge import REPLIED as HAS_REPLIED
from pydotcompute.device.ring import (
    ANSWERS,
    ARMED,
    ASLEEP,
    ATTENDED,
    BIT_WORDS,
    BLOCKED,
    BRIDGE,
    BUFFER,
    BUSY,
    CROWD,
    END,
    FAILED,
    FAILURE,
    HANDLED,
    HEAD,
    INBOX,
    INSTANCE,
    KERNELS,
    LAST_BUCKET,
    LAUNCH,
    LIMIT,
    MASK,
    NOBODY,
    NUDGED,
    ONE,
    OUT,
    OWNER,
    PASSES,
    PAUSED,
    POLL,
    POLLER,
    QUERY,
    READ_FDS,
    READY_BITS,
    ROW,
    RUN_HEAD,
    RUN_TAIL,
    RUN_WORDS,
    RUNS,
    SIZE,
    SLEEPING,
    SPIN,
    STAMP,
    STATUS,
    TAIL,
    TICKET,
    TOLD,
    WAITED,
)
from pydotcompute.device.ring import LEASE as POOL_LEASE
from pydotcompute.device.ring import STOP as POOL_STOP

if TYPE_CHECKING:
    from pydotcompute.device.loop import count, events, heavy, queued, tell

    CACHE = False

_inside = njit(nogil=True)

NOT_READY = 600
"""What CUDA says of a stream that is at work (`CUDA_ERROR_NOT_READY`)."""
BEAT = 50_000_000
"""Nanoseconds between two renewals of the lease, and two looks whether the device is well."""
AWAKE = 2_000_000
"""Nanoseconds that the poller keeps looking for what comes back."""
IDLE = 1_000_000
"""Nanoseconds without a message after which a kernel makes room for others, where they are many."""


@_inside
def takes(kernel: int) -> int:
    """Up to which position messages may go to the device now."""
    bridge, inbox = load(kernel, BRIDGE), load(kernel, INBOX)
    return min(load(inbox, TAIL), load(inbox, HEAD) + load(bridge, BRIDGE_WINDOW))


@_inside
def can_send(kernel: int) -> int:
    """Whether a message may go to the device now. If not for want of room for its answer, whoever makes some tells."""
    bridge, inbox = load(kernel, BRIDGE), load(kernel, INBOX)
    run = load(bridge, BRIDGE_RUN)
    if load(kernel, PAUSED) or load(kernel, FAILED) or run == acquire(inbox, RUN_TAIL):
        return 0
    if load(bridge, BRIDGE_SENT) >= takes(kernel):
        return 0
    if load(load(inbox, RUNS) + (run & load(inbox, MASK)) * (8 * RUN_WORDS), TICKET) == 0:
        return 1
    answers = load(kernel, ANSWERS)
    if load(bridge, BRIDGE_ASKED) - acquire(answers, HEAD) < load(answers, LIMIT):
        return 1
    exchange(answers, BLOCKED, 1)
    return load(bridge, BRIDGE_ASKED) - acquire(answers, HEAD) < load(answers, LIMIT)


@_inside
def send(kernel: int) -> int:
    """Copy messages from the inbox to where the device finds them; how many."""
    bridge, inbox = load(kernel, BRIDGE), load(kernel, INBOX)
    sent = began = load(bridge, BRIDGE_SENT)
    base, window = load(bridge, BRIDGE_BASE), load(bridge, BRIDGE_WINDOW) - 1
    buffer, mask, size = load(inbox, BUFFER), load(inbox, MASK), load(inbox, SIZE)
    down, slot_size = load(bridge, BRIDGE_DOWN), load(bridge, BRIDGE_SLOT)
    tickets, stamps = load(bridge, BRIDGE_TICKETS), load(bridge, BRIDGE_STAMPS)
    while can_send(kernel):
        run = load(bridge, BRIDGE_RUN)
        entry = load(inbox, RUNS) + (run & mask) * (8 * RUN_WORDS)
        end, instance, ticket = load(entry, END), load(entry, INSTANCE), load(entry, TICKET)
        upto = min(end, load(inbox, HEAD) + window + 1)
        stamp = load(entry, STAMP)
        store(entry, STAMP, 0)  # of the first message of a run, which may go in parts
        for position in range(sent, upto):
            place = (position - base) & window
            slot = down + place * slot_size
            store(slot, 0, instance)
            store(slot, 1, 1 if ticket else 0)
            copy(slot + HEAD_OF_SLOT, buffer + (position & mask) * size, size)
            store(tickets, place, ticket)
            store(stamps, place, stamp)
            stamp = 0
        sent = upto
        store(bridge, BRIDGE_SENT, sent)
        if ticket:
            store(bridge, BRIDGE_ASKED, load(bridge, BRIDGE_ASKED) + 1)
        if sent == end:
            store(bridge, BRIDGE_RUN, run + 1)
        if sent - began >= 1024:
            break
    if sent != began:
        release(load(bridge, BRIDGE_CONTROL), DOWN_TAIL, sent - base)
    return sent - began


@_inside
def fetch(kernel: int, now: int) -> int:
    """Take what has come of messages: replies to the ring of replies, answers to that of answers. How many."""
    bridge = load(kernel, BRIDGE)
    ring, mask, slot_size = load(bridge, BRIDGE_UP_RING), load(bridge, BRIDGE_UP_MASK), load(bridge, BRIDGE_UP_SLOT)
    following = began = load(bridge, BRIDGE_UP)
    slot = ring + (following & mask) * slot_size
    if acquire(slot, 0) != following + 1:
        return 0
    out, answers = load(kernel, OUT), load(kernel, ANSWERS)
    out_tail, answer_tail = load(out, TAIL), load(answers, TAIL)
    out_size, answer_size = load(out, SIZE), load(answers, SIZE)
    out_mask, answer_mask = load(out, MASK), load(answers, MASK)
    window = load(bridge, BRIDGE_WINDOW) - 1
    tickets, stamps, marks = (
        load(bridge, BRIDGE_TICKETS), load(bridge, BRIDGE_STAMPS), load(bridge, BRIDGE_FED_MARKS)
    )  # fmt: skip
    replied, busy, pushed, failed, row = 0, 0, 0, 0, load(kernel, ROW)
    while acquire(slot, 0) == following + 1 and following - began < 1024:
        entry, flags, spent = load(slot, 1), load(slot, 2) & 7, load(slot, 2) >> 3
        position, kind, ticket = entry >> 1, entry & 1, 0
        following += 1
        if flags & HAS_FAILED:  # the message stays in the inbox
            failed += 1
            if load(kernel, FAILED) == 0:
                store(bridge, BRIDGE_FAILED_ENTRY, entry)
                store(bridge, BRIDGE_FAILED_INSTANCE, load(slot, 3))
                store(kernel, FAILED, 1)
            slot = ring + (following & mask) * slot_size
            continue
        busy += spent
        replied += flags & HAS_REPLIED
        if kind == FROM_HOST:
            ticket = load(tickets, position & window)
            stamp = load(stamps, position & window)
            if stamp:
                waited = WAITED + min(bit_length(max(now - stamp - spent, 0)), LAST_BUCKET)
                store(row, waited, load(row, waited) + 1)
                handled = HANDLED + min(bit_length(max(spent, 0)), LAST_BUCKET)
                store(row, handled, load(row, handled) + 1)
            store(tickets, position & window, DONE)
        else:
            store(marks, position & load(bridge, BRIDGE_FED_MASK), 1)
        if ticket:
            place = load(answers, BUFFER) + (answer_tail & answer_mask) * answer_size
            store(place, 0, ticket)
            store(place, 1, flags & HAS_REPLIED)
            copy(place + 16, slot + HEAD_OF_UP, answer_size - 16)
            answer_tail += 1
        elif flags & WAS_PUSHED:
            pushed += 1
        elif flags & HAS_REPLIED:
            copy(load(out, BUFFER) + (out_tail & out_mask) * out_size, slot + HEAD_OF_UP, out_size)
            out_tail += 1
        slot = ring + (following & mask) * slot_size
    # Counters before replies, and these before the messages leave the inbox: who sees the later has the earlier.
    count(kernel, following - began - failed, replied)
    store(row, BUSY, load(row, BUSY) + busy)
    release(out, TAIL, out_tail)
    release(answers, TAIL, answer_tail)
    if pushed:
        target = load(load(load(bridge, BRIDGE_TARGET), BRIDGE), BRIDGE_FED)
        release(target, TAIL, load(target, TAIL) + pushed)
    store(bridge, BRIDGE_UP, following)
    advance(kernel)
    return following - began


@_inside
def advance(kernel: int) -> None:
    """Let go of the messages that were handled, as far as all before them were too."""
    bridge, inbox = load(kernel, BRIDGE), load(kernel, INBOX)
    head, sent, base = load(inbox, HEAD), load(bridge, BRIDGE_SENT), load(bridge, BRIDGE_BASE)
    window, tickets = load(bridge, BRIDGE_WINDOW) - 1, load(bridge, BRIDGE_TICKETS)
    while head < sent and load(tickets, (head - base) & window) == DONE:
        head += 1
    run, mask = load(inbox, RUN_HEAD), load(inbox, MASK)
    while run < load(bridge, BRIDGE_RUN) and load(load(inbox, RUNS) + (run & mask) * (8 * RUN_WORDS), END) <= head:
        run += 1
    store(inbox, RUN_HEAD, run)
    release(inbox, HEAD, head)
    fed, marks, fed_mask = load(bridge, BRIDGE_FED), load(bridge, BRIDGE_FED_MARKS), load(bridge, BRIDGE_FED_MASK)
    # What a kernel has pushed may be known to have been handled before it is known to have been pushed.
    done = load(fed, HEAD)
    while load(marks, done & fed_mask):
        store(marks, done & fed_mask, 0)
        done += 1
    release(fed, HEAD, done)


@_inside
def grant(kernel: int) -> None:
    """Tell the device for how many replies there is room, and for how many messages of other kernels."""
    bridge, out = load(kernel, BRIDGE), load(kernel, OUT)
    control = load(bridge, BRIDGE_CONTROL)
    limit = acquire(out, HEAD) + load(out, LIMIT) - load(bridge, BRIDGE_BASE)
    if load(control, OUT_LIMIT) != limit:
        release(control, OUT_LIMIT, limit)
    limit = load(load(bridge, BRIDGE_FED), HEAD) + load(bridge, BRIDGE_FED_PLACES)
    if load(control, FED_LIMIT) != limit:
        release(control, FED_LIMIT, limit)


@_inside
def waits(kernel: int) -> int:
    """Whether it has messages on the device, or could have."""
    return queued(kernel) != 0


@_inside
def keep_launched(pool: int, kernel: int, now: int) -> int:
    """Launch it, let it leave, or see that it has left. Whether something has changed."""
    bridge = load(kernel, BRIDGE)
    control = load(bridge, BRIDGE_CONTROL)
    is_crowded = load(pool, CROWD) != 0
    if load(bridge, BRIDGE_RESIDENT):
        if acquire(control, GONE) == load(bridge, BRIDGE_LAUNCH):
            while fetch(kernel, now):
                pass
            if load(kernel, FAILED):
                store(kernel, FAILED, TOLD)
            release(bridge, BRIDGE_RESIDENT, 0)
            fence()  # whoever arms for what has come sees it, or is seen
            return 1
        # One with messages may wait for room in another, which has no place.
        still = now - load(bridge, BRIDGE_ACTIVE)
        spare = is_crowded and still > (20 * IDLE if waits(kernel) else IDLE)
        if (load(kernel, PAUSED) or load(kernel, FAILED) or spare) and load(control, STOP) == 0:
            release(control, STOP, 1)
        if now - load(bridge, BRIDGE_QUERIED) > BEAT:
            store(bridge, BRIDGE_QUERIED, now)
            store(bridge, BRIDGE_LEASE, load(bridge, BRIDGE_LEASE) + 1)
            release(control, LEASE, load(bridge, BRIDGE_LEASE))
            code = query(load(pool, QUERY), load(bridge, BRIDGE_STREAM))
            if code == 0 and acquire(control, GONE) != load(bridge, BRIDGE_LAUNCH):
                code = ENDED
            if code != 0 and code != NOT_READY:
                broken(kernel, code, now)
                return 1
        return 0
    if load(kernel, PAUSED) or load(kernel, FAILED) or (is_crowded and waits(kernel) == 0):
        return 0
    store(bridge, BRIDGE_RESIDENT, 1)
    fence()  # whoever pauses it sees this, or is seen
    if load(kernel, PAUSED):
        store(bridge, BRIDGE_RESIDENT, 0)
        return 0
    turn = load(bridge, BRIDGE_LAUNCH) + 1
    store(bridge, BRIDGE_LAUNCH, turn)
    store(bridge, BRIDGE_ACTIVE, now)
    store(bridge, BRIDGE_QUERIED, now)
    store(load(bridge, BRIDGE_PARAMETERS), 3, turn)
    release(control, STOP, 0)
    grant(kernel)
    code = launch(
        load(pool, LAUNCH),
        load(bridge, BRIDGE_FUNCTION),
        load(bridge, BRIDGE_BLOCKS),
        load(bridge, BRIDGE_X),
        load(bridge, BRIDGE_Y),
        load(bridge, BRIDGE_STREAM),
        load(bridge, BRIDGE_PARAMETERS),
    )
    if code != 0:
        broken(kernel, code, now)
    return 1


@_inside
def broken(kernel: int, code: int, now: int) -> None:
    """The device reports an error: nothing more can be had of this kernel than what has come."""
    bridge = load(kernel, BRIDGE)
    while fetch(kernel, now):
        pass
    store(bridge, BRIDGE_FAULT, code)
    store(bridge, BRIDGE_RESIDENT, 0)
    store(kernel, FAILED, TOLD)


@_inside
def is_at_rest(kernel: int) -> int:
    """Whether there is nothing to look after: the event loop may have it for itself."""
    if load(load(kernel, BRIDGE), BRIDGE_RESIDENT):
        return 0
    return load(kernel, PAUSED) or load(kernel, FAILED)


@_inside
def attend_all(pool: int, now: int) -> int:
    """Look after all kernels once. How many messages went to the device or came back, and launches that changed."""
    done, kernels = 0, load(pool, KERNELS)
    for index in range(64 * load(pool, BIT_WORDS)):
        kernel = load(kernels, index)
        if kernel == 0:
            continue
        bridge = load(kernel, BRIDGE)
        had_failed = load(kernel, FAILED) == TOLD
        if load(bridge, BRIDGE_CLOSING) == 0 and is_at_rest(kernel):
            continue
        if swap_if(kernel, OWNER, NOBODY, POLLER) == 0:
            continue
        moved = fetch(kernel, now)
        grant(kernel)  # also while it is not there: others may wait for room, without which it gets nothing to do
        advance(kernel)
        moved += send(kernel)
        if moved:
            store(bridge, BRIDGE_ACTIVE, now)
        done += moved + keep_launched(pool, kernel, now)
        armed = load(kernel, ARMED)
        if armed:
            happened = events(kernel, armed)
            if happened:
                tell(kernel, happened)
        release(kernel, OWNER, NOBODY)
        if load(kernel, FAILED) == TOLD and not had_failed:
            tell(kernel, FAILURE)
        if load(bridge, BRIDGE_CLOSING) and load(bridge, BRIDGE_RESIDENT) == 0:
            store(kernels, index, 0)
            release(bridge, BRIDGE_CLOSING, DONE)
    return done


@_inside
def in_flight(pool: int) -> int:
    """Whether anything may come from the device any moment, or is to be changed there."""
    kernels = load(pool, KERNELS)
    for index in range(64 * load(pool, BIT_WORDS)):
        kernel = load(kernels, index)
        if kernel == 0:
            continue
        bridge = load(kernel, BRIDGE)
        rests = load(kernel, PAUSED) or load(kernel, FAILED)
        if rests:
            if load(bridge, BRIDGE_RESIDENT) or load(bridge, BRIDGE_CLOSING) == 1:
                return 1
        elif waits(kernel) or (load(bridge, BRIDGE_RESIDENT) == 0 and load(pool, CROWD) == 0):
            return 1
    return 0


@_inside
def has_work(pool: int) -> int:
    """Whether there is something that the host can do now. If not, who makes some wakes the poller."""
    kernels, is_crowded = load(pool, KERNELS), load(pool, CROWD)
    for index in range(64 * load(pool, BIT_WORDS)):
        kernel = load(kernels, index)
        if kernel == 0:
            continue
        bridge, out = load(kernel, BRIDGE), load(kernel, OUT)
        control, is_there = load(bridge, BRIDGE_CONTROL), load(bridge, BRIDGE_RESIDENT)
        if load(kernel, PAUSED) or load(kernel, FAILED):
            if load(control, STOP) == 0 if is_there else load(bridge, BRIDGE_CLOSING) == 1:
                return 1
            continue
        if can_send(kernel) or (is_there == 0 and (is_crowded == 0 or waits(kernel))):
            return 1
        if load(out, TAIL) - acquire(out, HEAD) >= load(out, LIMIT):
            exchange(out, BLOCKED, 1)  # whoever takes a reply tells
        if is_there and acquire(out, HEAD) + load(out, LIMIT) - load(bridge, BRIDGE_BASE) != load(control, OUT_LIMIT):
            return 1
    return 0


@_inside
def set_status(pool: int, status: int) -> None:
    kernels = load(pool, KERNELS)
    for index in range(64 * load(pool, BIT_WORDS)):
        kernel = load(kernels, index)
        if kernel:
            exchange(kernel, STATUS, status)


@_inside
def sleep(pool: int, me: int, milliseconds: int) -> None:
    """Sleep until a producer or the event loop wakes it, at most for a time; nothing that came before is overlooked."""
    ready = load(pool, READY_BITS)
    for word in range(load(pool, BIT_WORDS)):
        exchange(ready, word, 0)
    set_status(pool, ASLEEP)
    bit = 1 << me
    fetch_or(pool, SLEEPING, bit)
    heavy(pool)
    fence()
    if (has_work(pool) or load(pool, NUDGED) or load(pool, POOL_STOP)) and fetch_and(pool, SLEEPING, ~bit) & bit:
        set_status(pool, ATTENDED)
        return
    poll(load(pool, POLL), 1, milliseconds)
    if fetch_and(pool, SLEEPING, ~bit) & bit == 0:  # somebody has woken it, and written
        read(load(load(pool, READ_FDS), me), load(pool, ONE) + 16 + 8 * me, 8)
    set_status(pool, ATTENDED)


@njit("int64(int64, int64)", nogil=True, cache=CACHE)
def ferry(pool: int, me: int) -> int:
    """What the poller does until it is stopped (0) or the lease has ended (1)."""
    passes = load(pool, PASSES)
    spin = load(pool, SPIN)
    worked = now_ns()
    while load(pool, POOL_STOP) == 0:
        store(passes, 0, load(passes, 0) + 1)
        exchange(pool, NUDGED, 0)
        now = now_ns()
        if now > load(pool, POOL_LEASE):
            return 1
        if attend_all(pool, now):
            worked = now
            continue
        idle = now - worked
        if idle < spin:
            relax()
        elif not in_flight(pool):
            sleep(pool, me, BEAT // 1_000_000)
            worked = now_ns() - spin
        elif idle < AWAKE:
            give_way()
        else:  # a long step: what comes of it is seen later by a tenth of the time that has passed
            sleep(pool, me, min(max(idle // 10_000_000, 1), 5))
    return 0
