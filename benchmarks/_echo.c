/* An echo as C has it: what benchmarks/compiled.py measures compiled ring kernels against.
 *
 * A driver puts records into a ring by batches and takes their echoes by batches from a second ring; a worker thread
 * moves each record from the one to the other. Each index is written by one side, lies on a cache line of its own and is
 * read again only when the last look does not suffice. Compile with -DWORDS=, the record's size in words of 8 bytes.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LINE = 64, SPINS = 64 };

typedef struct {
    int64_t words[WORDS];
} record;

typedef struct {
    _Alignas(LINE) _Atomic int64_t tail;
    _Alignas(LINE) _Atomic int64_t head;
    _Alignas(LINE) record *slots;
    int64_t capacity;
} ring;

typedef struct {
    ring inbox, outbox;
    int64_t messages, batch;
} echo;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Spinning is quickest while there is a core for each thread; without one the other thread needs this one's. */
static void rest(int *spins) {
    if (++*spins % SPINS == 0) {
        sched_yield();
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void put(ring *r, int64_t at, const record *from, int64_t n) {
    const int64_t start = at & (r->capacity - 1), first = least(n, r->capacity - start);
    memcpy(r->slots + start, from, (size_t)first * sizeof(record));
    memcpy(r->slots, from + first, (size_t)(n - first) * sizeof(record));
}

static void take(const ring *r, int64_t at, record *to, int64_t n) {
    const int64_t start = at & (r->capacity - 1), first = least(n, r->capacity - start);
    memcpy(to, r->slots + start, (size_t)first * sizeof(record));
    memcpy(to + first, r->slots, (size_t)(n - first) * sizeof(record));
}

/* What a ring kernel's step is: it sees one message and says whether it has written a reply. */
static int step(const record *message, record *reply) {
    *reply = *message;
    return 1;
}

static void *work(void *argument) {
    echo *e = argument;
    ring *in = &e->inbox, *out = &e->outbox;
    const int64_t mask = in->capacity - 1;
    int64_t head = 0, tail = 0, there = 0, taken = 0;
    int spins = 0;
    while (head < e->messages) {
        if (there == head)
            there = atomic_load_explicit(&in->tail, memory_order_acquire);
        int64_t n = least(there - head, e->batch);
        if (tail + n - taken > out->capacity) {
            taken = atomic_load_explicit(&out->head, memory_order_acquire);
            n = least(n, out->capacity - (tail - taken));
        }
        if (n == 0) {
            rest(&spins);
            continue;
        }
        for (const int64_t end = head + n; head < end; head++)
            tail += step(in->slots + (head & mask), out->slots + (tail & mask));
        atomic_store_explicit(&in->head, head, memory_order_release);
        atomic_store_explicit(&out->tail, tail, memory_order_release);
    }
    return NULL;
}

static int make(ring *r, int64_t capacity) {
    atomic_init(&r->tail, 0);
    atomic_init(&r->head, 0);
    r->capacity = capacity;
    r->slots = aligned_alloc(LINE, (size_t)capacity * sizeof(record));
    if (r->slots != NULL)
        memset(r->slots, 0, (size_t)capacity * sizeof(record));
    return r->slots != NULL;
}

/* Seconds for so many messages there and back, or -1: no memory, no thread, or a record that came back wrong.
 * `capacity` is a power of two; `batch` divides it. */
double run_echo(int64_t messages, int64_t capacity, int64_t batch) {
    static echo e;
    double seconds = -1;
    record *source = calloc((size_t)batch, sizeof(record)), *target = calloc((size_t)batch, sizeof(record));
    e.messages = messages;
    e.batch = batch;
    if (make(&e.inbox, capacity) & make(&e.outbox, capacity) && source != NULL && target != NULL) {
        for (int64_t i = 0; i < batch; i++)
            for (int w = 0; w < WORDS; w++)
                source[i].words[w] = i * WORDS + w;
        pthread_t worker;
        struct timespec begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        if (pthread_create(&worker, NULL, work, &e) == 0) {
            int64_t sent = 0, got = 0, free_from = 0, there = 0, sum = 0, expected = 0;
            int spins = 0;
            while (got < messages) {
                int64_t n = least(messages - sent, batch);
                if (sent + n - free_from > capacity)
                    free_from = atomic_load_explicit(&e.inbox.head, memory_order_acquire);
                if (n > 0 && sent + n - free_from <= capacity) {
                    put(&e.inbox, sent, source, n);
                    sent += n;
                    atomic_store_explicit(&e.inbox.tail, sent, memory_order_release);
                } else {
                    n = 0;
                }
                if (there == got)
                    there = atomic_load_explicit(&e.outbox.tail, memory_order_acquire);
                int64_t m = least(there - got, batch);
                if (m > 0) {
                    take(&e.outbox, got, target, m);
                    sum += target[m - 1].words[WORDS - 1];
                    expected += ((got + m - 1) % batch) * WORDS + WORDS - 1;
                    got += m;
                    atomic_store_explicit(&e.outbox.head, got, memory_order_release);
                } else if (n == 0) {
                    rest(&spins);
                }
            }
            pthread_join(worker, NULL);
            clock_gettime(CLOCK_MONOTONIC, &ended);
            if (sum == expected)
                seconds = (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) * 1e-9;
        }
    }
    free(e.inbox.slots);
    free(e.outbox.slots);
    free(source);
    free(target);
    return seconds;
}
