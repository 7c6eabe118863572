"""The code of the CPU backend that works on rings, compiled by Numba: the host's side, and the workers'.

`ring` tells what the words mean. This module is not imported: `cpu` runs its text and keeps what it compiles to with
the compiled steps, known by all that it depends on, since what Numba keeps beside a module may outlive an update of
another one that it was compiled with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from numba import njit

from pydotcompute.device.atomics import (
    acquire,
    bit_length,
    call,
    copy,
    exchange,
    fence,
    fetch_add,
    fetch_and,
    fetch_or,
    give_way,
    load,
    lowest_bit,
    membarrier,
    now_ns,
    order,
    read,
    relax,
    release,
    store,
    swap_if,
    write,
)
from pydotcompute.device.ring import (
    ANSWER,
    ANSWERS,
    ARMED,
    ASLEEP,
    ATTENDED,
    BATCH,
    BIT_WORDS,
    BLOCKED,
    BUFFER,
    BUSY,
    CHUNK,
    CLAIM,
    CLOCK,
    END,
    FAILED,
    FAILURE,
    FENCE,
    FENCED,
    FIRST,
    FULL,
    GATE,
    GONE,
    HANDLED,
    HAPPENED,
    HEAD,
    HOST,
    HOST_FD,
    IDLE,
    INBOX,
    INDEX,
    INSTANCE,
    KERNELS,
    LAST,
    LAST_BUCKET,
    LEASE,
    LEAST_PATIENCE,
    LIMIT,
    LINE,
    MASK,
    MESSAGE_MASK,
    MESSAGES,
    MOST_LEFT,
    NOBODY,
    NOTED_BITS,
    NOTIFY,
    ONE,
    OUT,
    OWNER,
    PASSES,
    PATIENCE,
    PAUSED,
    POOL,
    PROCESSED,
    QUANTUM,
    QUEUED,
    READ_FDS,
    READER,
    READY,
    READY_BITS,
    REPLIED,
    REPLIES,
    REPLY,
    REPLY_LIMIT,
    REPLY_MASK,
    REPLY_TAIL,
    RESTING,
    ROOM,
    ROW,
    RUN_BEGUN,
    RUN_HEAD,
    RUN_TAIL,
    RUN_WORDS,
    RUNS,
    SCRATCH,
    SEEN_HEAD,
    SEEN_TAIL,
    SERVE,
    SHUT,
    SIGNALLED,
    SINCE_STAMP,
    SIZE,
    SLEEPING,
    SOURCE_COUNT,
    SOURCES,
    SPIN,
    SPIN_PLACES,
    SPIN_TURNS,
    SPINNERS,
    STAMP,
    STAMP_EVERY,
    STATUS,
    STOP,
    TAIL,
    TELL,
    TICKET,
    TO_INSTANCE,
    TOLD,
    TURN,
    WAITED,
    WAYS,
    WITHDRAW,
    WORKER_WORDS,
    WRITE_FDS,
    WRITER,
)

if TYPE_CHECKING:
    CACHE = False

_inside = njit(nogil=True)  # compiled as a part of what calls it

# -- waking ------------------------------------------------------------------------------------------------------------


@_inside
def light(pool: int) -> None:
    """What was written before is seen before what is read after, by whoever then does `heavy`."""
    if load(pool, FENCED):
        fence()
    else:
        order()


@_inside
def heavy(pool: int) -> None:
    """A fence here, and one in every thread of this process that runs."""
    if load(pool, FENCED):
        fence()
    else:
        membarrier()


@_inside
def wake_worker(pool: int) -> None:
    """Wake one worker that sleeps, unless another is looking for work anyway."""
    while load(pool, SPINNERS) == 0:
        sleeping = load(pool, SLEEPING)
        if sleeping == 0:
            return
        worker = lowest_bit(sleeping)
        bit = 1 << worker
        if fetch_and(pool, SLEEPING, ~bit) & bit:
            write(load(load(pool, WRITE_FDS), worker), load(pool, ONE), 8)
            return


@_inside
def make_ready(kernel: int) -> None:
    """After its status has become READY."""
    pool, index = load(kernel, POOL), load(kernel, INDEX)
    fetch_or(load(pool, READY_BITS), index >> 6, 1 << (index & 63))


@_inside
def notify_inside(kernel: int) -> int:
    """`notify` by a worker, which itself attends what is ready next, or wakes another. Whether it was made ready."""
    light(load(kernel, POOL))
    if load(kernel, STATUS) == ASLEEP and swap_if(kernel, STATUS, ASLEEP, READY):
        make_ready(kernel)
        return 1
    return 0


@_inside
def notify(kernel: int) -> None:
    """Something has changed for a kernel: see that a worker attends it."""
    if notify_inside(kernel):
        fence()
        wake_worker(load(kernel, POOL))


@_inside
def was_blocked(ring: int) -> int:
    """After the reader has taken something: the writer's kernel if it waited for that."""
    writer = load(ring, WRITER)
    if writer:
        light(load(writer, POOL))
        if load(ring, BLOCKED) and exchange(ring, BLOCKED, 0):
            return writer
    return 0


@_inside
def queued(kernel: int) -> int:
    """Messages that wait for it or are in its hands."""
    inbox = load(kernel, INBOX)
    count = load(inbox, TAIL) - acquire(inbox, HEAD)
    sources = load(kernel, SOURCES)
    for i in range(load(kernel, SOURCE_COUNT)):
        source = load(sources, i)
        if source:
            count += max(acquire(source, TAIL) - load(source, HEAD), 0)  # of a GPU its end may be known late
    return count


@_inside
def events(kernel: int, wanted: int) -> int:
    """Those of the wanted events that hold now."""
    held = 0
    if wanted & ANSWER:
        answers = load(kernel, ANSWERS)
        if acquire(answers, TAIL) != load(answers, HEAD):
            held |= ANSWER
    if wanted & REPLY:
        out = load(kernel, OUT)
        if load(out, READER) == 0 and acquire(out, TAIL) != load(out, HEAD):
            held |= REPLY
    if wanted & ROOM:
        inbox = load(kernel, INBOX)
        if load(inbox, TAIL) - acquire(inbox, HEAD) < load(inbox, LIMIT):
            held |= ROOM
    if wanted & IDLE and queued(kernel) == 0:
        held |= IDLE
    return held


@_inside
def tell(kernel: int, happened: int) -> None:
    """Let the event loop know."""
    fetch_and(kernel, ARMED, ~happened)
    fetch_or(kernel, HAPPENED, happened)
    pool, index = load(kernel, POOL), load(kernel, INDEX)
    fetch_or(load(pool, NOTED_BITS), index >> 6, 1 << (index & 63))
    if exchange(pool, SIGNALLED, 1) == 0:
        write(load(pool, HOST_FD), load(pool, ONE), 8)


@_inside
def tell_armed(kernel: int) -> None:
    """Let the event loop know of what it is armed for and has come."""
    armed = load(kernel, ARMED)
    if armed:
        happened = events(kernel, armed)
        if happened:
            tell(kernel, happened)


# -- the host's side. These keep the interpreter locked: that makes one writer of many threads -------------------------


@njit("int64(int64, int64, int64, int64, int64)", cache=CACHE)
def put(kernel: int, source: int, instance: int, ticket: int, gated: int) -> int:
    """Put the record at an address. 1; 0: no room; -1: the gate is closed."""
    if gated and load(kernel, GATE) == 0:
        return SHUT
    inbox = load(kernel, INBOX)
    tail = load(inbox, TAIL)
    if tail - load(inbox, SEEN_HEAD) >= load(inbox, LIMIT):
        head = acquire(inbox, HEAD)
        store(inbox, SEEN_HEAD, head)
        if tail - head >= load(inbox, LIMIT):
            return FULL
    mask, size, run = load(inbox, MASK), load(inbox, SIZE), load(inbox, RUN_TAIL)
    copy(load(inbox, BUFFER) + (tail & mask) * size, source, size)
    since = load(inbox, SINCE_STAMP)
    entry = load(inbox, RUNS) + (run & mask) * (8 * RUN_WORDS)
    store(entry, END, tail + 1)
    store(entry, INSTANCE, instance)
    store(entry, TICKET, ticket)
    store(entry, STAMP, now_ns() if since == 0 else 0)
    store(inbox, SINCE_STAMP, since + 1 if since < STAMP_EVERY else 0)
    store(inbox, TAIL, tail + 1)
    release(inbox, RUN_TAIL, run + 1)
    notify(kernel)
    return 1


@njit("int64(int64)", cache=CACHE)
def put_plain(kernel: int) -> int:
    """`put` of what the event loop has packed, by key and unasked: with one argument it takes Python 80 ns less."""
    return put(kernel, load(kernel, SCRATCH), -1, 0, 1)


@njit("int64(int64, int64, int64, int64, int64)", cache=CACHE)
def put_many(kernel: int, source: int, count: int, instance: int, gated: int) -> int:
    """Put as many of the records at an address as there is room for; how many, or -1: the gate is closed."""
    if gated and load(kernel, GATE) == 0:
        return SHUT
    inbox = load(kernel, INBOX)
    tail, limit = load(inbox, TAIL), load(inbox, LIMIT)
    if tail + count - load(inbox, SEEN_HEAD) > limit:
        store(inbox, SEEN_HEAD, acquire(inbox, HEAD))
        count = min(count, limit - (tail - load(inbox, SEEN_HEAD)))
        if count <= 0:
            return FULL
    mask, size, run, buffer = load(inbox, MASK), load(inbox, SIZE), load(inbox, RUN_TAIL), load(inbox, BUFFER)
    place = tail & mask
    before = min(count, mask + 1 - place)
    copy(buffer + place * size, source, before * size)
    copy(buffer, source + before * size, (count - before) * size)
    entry = load(inbox, RUNS) + (run & mask) * (8 * RUN_WORDS)
    store(entry, END, tail + count)
    store(entry, INSTANCE, instance)
    store(entry, TICKET, 0)
    since = load(inbox, SINCE_STAMP)
    store(entry, STAMP, now_ns() if since == 0 else 0)
    store(inbox, SINCE_STAMP, since + count if since + count < STAMP_EVERY else 0)
    store(inbox, TAIL, tail + count)
    release(inbox, RUN_TAIL, run + 1)
    notify(kernel)
    return count


@njit("int64(int64, int64, int64, int64, int64, int64)", cache=CACHE)
def ask(kernel: int, source: int, instance: int, ticket: int, target: int, looks: int) -> int:
    """`put`, and look up to so many times for the answer if it is the only one asked for; `target` takes its reply.

    2: there is one; 3: the answer is none; 1: the answer is still to come; 0 or -1 as `put`. After these looks it gives
    way: the worker may be waiting for this very core. On a machine with one it does so at once, with `looks` 0.
    """
    answers = load(kernel, ANSWERS)
    head = load(answers, HEAD)
    inbox = load(kernel, INBOX)
    alone = load(inbox, TAIL) == acquire(inbox, HEAD) and acquire(answers, TAIL) == head
    attended = load(kernel, STATUS) == ATTENDED
    done = put(kernel, source, instance, ticket, 1)
    if done <= 0 or not alone or not (attended or looks == 0):
        return done
    patience = min(load(kernel, PATIENCE), looks)
    for i in range(patience + WAYS):
        if acquire(answers, TAIL) != head:
            # Quicker than it takes to give way, it was worth looking for; else the next ask looks for half as long.
            store(kernel, PATIENCE, min(2 * patience, looks) if i < patience else max(patience >> 1, LEAST_PATIENCE))
            slot = load(answers, BUFFER) + (head & load(answers, MASK)) * load(answers, SIZE)
            if load(slot, 0) != ticket:
                return 1
            replied = load(slot, 1)
            copy(target, slot + 16, load(answers, SIZE) - 16)
            release(answers, HEAD, head + 1)
            return 2 if replied else 3
        if i < patience:
            relax()
        else:
            give_way()
    store(kernel, PATIENCE, max(patience >> 1, LEAST_PATIENCE))
    return 1


@njit("int64(int64, int64, int64)", cache=CACHE)
def take(ring: int, target: int, count: int) -> int:
    """Copy up to so many records to an address; how many."""
    head = load(ring, HEAD)
    if load(ring, SEEN_TAIL) - head < count:
        store(ring, SEEN_TAIL, acquire(ring, TAIL))
    count = min(count, load(ring, SEEN_TAIL) - head)
    if count <= 0:
        return 0
    mask, size, buffer = load(ring, MASK), load(ring, SIZE), load(ring, BUFFER)
    place = head & mask
    before = min(count, mask + 1 - place)
    copy(target, buffer + place * size, before * size)
    copy(target + before * size, buffer, (count - before) * size)
    release(ring, HEAD, head + count)
    writer = was_blocked(ring)
    if writer:
        notify(writer)
    return count


@njit("int64(int64, int64, int64)", cache=CACHE)
def arm(kernel: int, wanted: int, looks: int) -> int:
    """Have `tell` called for one of these events. Those that hold already, and then none is armed.

    While a worker is at it, they are worth looking for so many times: to be told takes longer.
    """
    for _ in range(min(load(kernel, PATIENCE), looks)):
        held = events(kernel, wanted)
        if held:
            return held
        if load(kernel, STATUS) != ATTENDED:
            break
        relax()
    fetch_or(kernel, ARMED, wanted)
    heavy(load(kernel, POOL))
    held = events(kernel, wanted)
    if held:
        fetch_and(kernel, ARMED, ~wanted)
    return held


@njit("int64(int64, int64)", cache=CACHE)
def do(what: int, kernel: int) -> int:
    """What the host does now and then. One function for all of it, since each takes some milliseconds to load."""
    if what == QUEUED:
        return queued(kernel)
    if what == NOTIFY:
        notify(kernel)
    elif what == RESTING:  # whether it is paused and no worker has a message of it in hand
        fence()
        return load(kernel, FAILED) == TOLD or (load(kernel, PAUSED) and acquire(kernel, STATUS) != ATTENDED)
    elif what == WITHDRAW:  # keep workers from ever attending it again; 0 if one does, or is about to
        return load(kernel, STATUS) == GONE or swap_if(kernel, STATUS, ASLEEP, GONE)
    elif what == CLOCK:  # nanoseconds, as workers read them
        return now_ns()
    elif what == FENCE:
        fence()
    elif what == TELL:  # of what has come while it rested
        tell_armed(kernel)
    elif what == CLAIM:  # keep the poller away from it; 0 if that is at it
        return swap_if(kernel, OWNER, NOBODY, HOST) or load(kernel, OWNER) == HOST
    return 0


@njit("int64(int64, int64, int64)", cache=CACHE)
def collect(pool: int, fd: int, target: int) -> int:
    """What the workers have told: pairs of index and events, from `target` on; how many pairs."""
    read(fd, load(pool, ONE) + 8, 8)
    exchange(pool, SIGNALLED, 0)
    count = 0
    noted, kernels = load(pool, NOTED_BITS), load(pool, KERNELS)
    for word in range(load(pool, BIT_WORDS)):
        bits = exchange(noted, word, 0) if load(noted, word) else 0
        while bits:
            index = 64 * word + lowest_bit(bits)
            bits &= bits - 1
            kernel = load(kernels, index)
            if kernel:
                store(target, 2 * count, index)
                store(target, 2 * count + 1, exchange(kernel, HAPPENED, 0))
                count += 1
    return count


# -- the workers' side -------------------------------------------------------------------------------------------------


@_inside
def count(kernel: int, handled: int, replied: int) -> None:
    """Before anybody can see that they were."""
    row = load(kernel, ROW)
    store(row, PROCESSED, load(row, PROCESSED) + handled)
    store(row, REPLIED, load(row, REPLIED) + replied)


@_inside
def serve(kernel: int, ring: int, head: int, end: int, instance: int) -> int:
    """Run the step over the messages from `head` to `end`, replies to the ring of replies; how many it has handled."""
    out = load(kernel, OUT)
    tail = load(out, TAIL)
    if tail + (end - head) - load(out, SEEN_HEAD) > load(out, LIMIT):
        store(out, SEEN_HEAD, acquire(out, HEAD))
    limit = load(out, SEEN_HEAD) + load(out, LIMIT)
    if tail >= limit:
        return 0
    store(kernel, MESSAGES, load(ring, BUFFER))
    store(kernel, MESSAGE_MASK, load(ring, MASK))
    store(kernel, FIRST, head)
    store(kernel, LAST, end)
    store(kernel, TO_INSTANCE, instance)
    store(kernel, REPLIES, load(out, BUFFER))
    store(kernel, REPLY_MASK, load(out, MASK))
    store(kernel, REPLY_TAIL, tail)
    store(kernel, REPLY_LIMIT, limit)
    call(load(kernel, SERVE), kernel)
    replied, handled = load(kernel, REPLY_TAIL) - tail, load(kernel, FIRST) - head
    count(kernel, handled, replied)
    if replied:
        release(out, TAIL, tail + replied)
        if load(out, READER):
            notify_inside(load(out, READER))
    release(ring, HEAD, head + handled)
    return handled


@_inside
def answer(kernel: int, ring: int, head: int, instance: int, ticket: int) -> int:
    """Run the step for one message that was asked; 0 if there is no room for the answer."""
    answers = load(kernel, ANSWERS)
    tail = load(answers, TAIL)
    if tail - acquire(answers, HEAD) >= load(answers, LIMIT):
        return 0
    slot = load(answers, BUFFER) + (tail & load(answers, MASK)) * load(answers, SIZE)
    store(kernel, MESSAGES, load(ring, BUFFER))
    store(kernel, MESSAGE_MASK, load(ring, MASK))
    store(kernel, FIRST, head)
    store(kernel, LAST, head + 1)
    store(kernel, TO_INSTANCE, instance)
    store(kernel, REPLIES, slot + 16)
    store(kernel, REPLY_MASK, 0)
    store(kernel, REPLY_TAIL, 0)
    store(kernel, REPLY_LIMIT, 1)
    call(load(kernel, SERVE), kernel)
    if load(kernel, FIRST) == head:  # paused, or failed
        return 0
    replied = load(kernel, REPLY_TAIL)
    store(slot, 0, ticket)
    store(slot, 1, replied)
    count(kernel, 1, replied)
    release(ring, HEAD, head + 1)
    release(answers, TAIL, tail + 1)
    return 1


@_inside
def account(kernel: int, begun: int, handled: int) -> int:
    """Count what was handled since `begun`; let a batch grow or shrink so that it takes some microseconds. The time."""
    now = now_ns()
    row, spent, chunk = load(kernel, ROW), now - begun, load(kernel, CHUNK)
    store(row, BUSY, load(row, BUSY) + spent)
    bucket = HANDLED + min(bit_length(max(spent // handled, 0)), LAST_BUCKET)
    store(row, bucket, load(row, bucket) + 1)
    if spent < 10_000 and handled == chunk and chunk < BATCH:
        store(kernel, CHUNK, 2 * chunk)
    elif spent > 40_000 and chunk > 1:
        store(kernel, CHUNK, chunk >> 1)
    return now


@_inside
def attend(kernel: int, now: int, end_at: int) -> int:
    """Handle what there is for a kernel, for a while; how many messages. `now` is 0 if nobody has looked at the clock.

    Where `end_at` points is the time at which it was done, if there were any.
    """
    if acquire(kernel, PAUSED) or load(kernel, FAILED):
        return 0
    done = 0
    inbox = load(kernel, INBOX)
    blocked = False
    runs = acquire(inbox, RUN_TAIL)
    if runs == load(inbox, RUN_HEAD) and load(kernel, SOURCE_COUNT) == 0:
        return 0
    if now == 0:
        now = now_ns()
    latest = now + 100_000
    while done < TURN and now < latest and load(kernel, FAILED) == 0:
        run = load(inbox, RUN_HEAD)
        if run == runs:
            break
        entry = load(inbox, RUNS) + (run & load(inbox, MASK)) * (8 * RUN_WORDS)
        head, end, ticket, stamp = load(inbox, HEAD), load(entry, END), load(entry, TICKET), load(entry, STAMP)
        if stamp and load(inbox, RUN_BEGUN) == 0:
            bucket = WAITED + min(bit_length(max(now - stamp, 0)), LAST_BUCKET)
            store(load(kernel, ROW), bucket, load(load(kernel, ROW), bucket) + 1)
        if ticket:
            handled = answer(kernel, inbox, head, load(entry, INSTANCE), ticket)
        else:
            upto = min(end, head + load(kernel, CHUNK))
            handled = serve(kernel, inbox, head, upto, load(entry, INSTANCE))
        if handled == 0:
            blocked = True
            break
        store(inbox, RUN_BEGUN, head + handled != end)
        if head + handled == end:
            store(inbox, RUN_HEAD, run + 1)
        done += handled
        now = account(kernel, now, handled)
    sources = load(kernel, SOURCES)
    for i in range(load(kernel, SOURCE_COUNT)):
        source = load(sources, i)
        if source == 0 or blocked or load(kernel, FAILED):  # what it failed with is known by the job
            continue
        turn = 0
        while turn < TURN and now < latest and load(kernel, FAILED) == 0:
            head = load(source, HEAD)
            end = min(acquire(source, TAIL), head + load(kernel, CHUNK))
            if head == end:
                break
            handled = serve(kernel, source, head, end, -1)
            if handled == 0:
                blocked = True
                break
            writer = was_blocked(source)
            if writer:
                notify_inside(writer)
            turn += handled
            now = account(kernel, now, handled)
        done += turn
    if load(kernel, FAILED):
        release(kernel, FAILED, TOLD)
        tell(kernel, FAILURE)
    if done:
        store(end_at, 0, now)
        light(load(kernel, POOL))
        tell_armed(kernel)
    return done


@_inside
def asks_next(kernel: int) -> int:
    """Whether the first message that the host has sent waits for an answer."""
    inbox = load(kernel, INBOX)
    run = load(inbox, RUN_HEAD)
    if run == acquire(inbox, RUN_TAIL):
        return 0
    return load(load(inbox, RUNS) + (run & load(inbox, MASK)) * (8 * RUN_WORDS), TICKET)


@_inside
def has_work(kernel: int) -> int:
    """Whether `attend` would handle a message now. If not for want of room, whoever makes some notifies the kernel."""
    if load(kernel, PAUSED) or load(kernel, FAILED) or queued(kernel) == 0:
        return 0
    full = load(kernel, ANSWERS) if asks_next(kernel) else load(kernel, OUT)
    if load(full, TAIL) - acquire(full, HEAD) >= load(full, LIMIT):
        exchange(full, BLOCKED, 1)
        heavy(load(kernel, POOL))
        if load(full, TAIL) - acquire(full, HEAD) >= load(full, LIMIT):
            return 0
    return 1


@_inside
def look_again(kernel: int) -> None:
    """After a worker has left a kernel: make it ready if there is something to do for it."""
    if load(kernel, STATUS) == ASLEEP and has_work(kernel) and swap_if(kernel, STATUS, ASLEEP, READY):
        make_ready(kernel)


@_inside
def leave(pool: int, left: int, kernel: int) -> None:
    """Attend a kernel no longer. What was sent to it at this very moment is seen by `settle` at the latest."""
    exchange(kernel, STATUS, ASLEEP)
    look_again(kernel)
    if load(pool, FENCED) == 0:
        count = load(left, 0)
        store(left, 1 + count, kernel)
        store(left, 0, count + 1)
        if count + 1 == MOST_LEFT:
            settle(pool, left)


@_inside
def settle(pool: int, left: int) -> None:
    """Look again at the kernels that were left."""
    count = load(left, 0)
    if count:
        heavy(pool)
        for i in range(count):
            look_again(load(left, 1 + i))
        store(left, 0, 0)


@_inside
def any_ready(pool: int) -> int:
    """Whether a kernel waits for a worker."""
    bits = load(pool, READY_BITS)
    for word in range(load(pool, BIT_WORDS)):
        if load(bits, word):
            return 1
    return 0


@_inside
def take_ready(pool: int, start: int) -> int:
    """Begin to attend a kernel that waits for a worker, looking from index `start` on; its address, or 0."""
    ready, words = load(pool, READY_BITS), load(pool, BIT_WORDS)
    first = start >> 6
    for i in range(words + 1):
        word = (first + i) % words
        bits = load(ready, word)
        if i == 0:
            bits &= -1 << (start & 63)
        while bits:
            bit = bits & -bits
            if fetch_and(ready, word, ~bit) & bit:
                kernel = load(load(pool, KERNELS), 64 * word + lowest_bit(bit))
                if kernel:
                    exchange(kernel, STATUS, ATTENDED)
                    return kernel
            bits &= bits - 1
    return 0


@njit("int64(int64, int64)", nogil=True, cache=CACHE)
def work(pool: int, me: int) -> int:
    """What a worker does until it is stopped (0) or the lease has ended (1)."""
    kernel, began, idle_since, looks, start, turn = 0, 0, 0, 0, 0, 0
    spinning = False
    passes = load(pool, PASSES) + 8 * WORKER_WORDS * me
    left = passes + 8 * LINE
    now = settled = now_ns()
    end_at = passes + 16  # the third word
    spin = load(pool, SPIN)
    code = -1
    while code < 0:
        if load(left, 0) == 0:
            store(passes, 0, load(passes, 0) + 1)
        if kernel:
            if attend(kernel, now, end_at):
                if spinning:
                    spinning = False
                    fetch_add(pool, SPINNERS, -1)
                    if any_ready(pool):
                        wake_worker(pool)
                looks = 0
                now = load(end_at, 0)
                if load(pool, STOP) or now > load(pool, LEASE):
                    code = 0 if load(pool, STOP) else 1
                elif any_ready(pool) and queued(kernel):  # else it takes what is ready itself
                    if now - began > load(kernel, QUANTUM):
                        leave(pool, left, kernel)
                        kernel = 0
                    else:
                        fence()
                        wake_worker(pool)
                if now - settled > 50_000:
                    settle(pool, left)
                    settled = now
                continue
            if load(kernel, PAUSED):
                leave(pool, left, kernel)
                kernel = 0
        if any_ready(pool):
            other = take_ready(pool, start)
            if other:
                if kernel:
                    leave(pool, left, kernel)
                now = now or now_ns()
                kernel, began = other, now
                start = (load(kernel, INDEX) + 1) % (64 * load(pool, BIT_WORDS))
                if any_ready(pool):
                    fence()
                    wake_worker(pool)
                continue
        if load(pool, STOP):
            code = 0
            break
        settle(pool, left)
        now = 0  # it is idle: time passes
        looks += 1
        if looks == 1:
            idle_since = now_ns()
            if spin:
                if not spinning:
                    spinning = True
                    fetch_add(pool, SPINNERS, 1)
                turn = fetch_add(pool, SPIN_TURNS, 1)
        # Who has worked last is the likeliest to be needed next: the others sleep.
        if spinning and load(pool, SPIN_TURNS) - turn <= load(pool, SPIN_PLACES):
            if looks & 63:
                relax()
                continue
            give_way()
            if now_ns() - idle_since < spin:
                continue
        # Nothing to do: sleep.
        looks = 0
        if kernel:
            leave(pool, left, kernel)
            kernel = 0
            settle(pool, left)
        if spinning:
            spinning = False
            fetch_add(pool, SPINNERS, -1)
        bit = 1 << me
        fetch_or(pool, SLEEPING, bit)
        fence()
        if (any_ready(pool) or load(pool, STOP)) and fetch_and(pool, SLEEPING, ~bit) & bit:
            continue
        store(passes, 1, 1)
        slept = now_ns()
        read(load(load(pool, READ_FDS), me), load(pool, ONE) + 16 + 8 * me, 8)
        store(passes, 1, 0)
        # Woken after so short a time, it has gone to sleep too early, and waking takes longer than looking around.
        spin = min(2 * spin, 8 * load(pool, SPIN)) if now_ns() - slept < 2 * load(pool, SPIN) else load(pool, SPIN)
    if kernel:
        leave(pool, left, kernel)
    settle(pool, left)
    if spinning:
        fetch_add(pool, SPINNERS, -1)
    return code
