"""What compiled ring kernels cost, beside what the machine can do in the same run.

    python benchmarks/compiled.py [--json FILE] [--rounds N] [--quick] [--only TEXT] [--backend NAME]

The ceilings: a bare ring in Numba (one way), an echo in C (there and back, built with the system's compiler where there
is one), and a pair of `asyncio.Queue`. Every row is run `--rounds` times, all rows in turn, and the median is printed;
machines are noisy, so trust the ratios. Rows on one core run in a process that is pinned to it.

Throughput is measured in two ways. Driven by compiled code, as the ceilings are: a loop without the interpreter puts
batches of 256 records into the kernel's ring and takes its replies, in rings of as many records. And from Python on
`loop="current"`: `send_batch` of arrays of 512 KiB (16,384 records of 32 bytes) into a kernel of `queue_size=65536`,
then `receive_batch` of up to as many, so that worker and sender both have something to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from _ceilings import BATCH, CAPACITY, driver
from async_runtime import queue_ask, queue_send

from pydotcompute import Record, RingKernelRuntime, message, ring_kernel
from pydotcompute.runtime.executor import backend as choose

clock = time.perf_counter_ns

QUEUE = 1 << 16
CHUNK = 1 << 19  # bytes
DEEP, DEEP_CHUNK = 1 << 20, 1 << 16
"""For a worker that has to go on while the sender waits for the interpreter, 5 ms at a time."""
BURST, KERNELS, INSTANCES = 16, 100, 1_000


@message
class Small:  # 32 bytes
    a: np.int64
    b: np.int64
    c: np.int64
    d: np.int64


@message
class Large:  # 64 bytes
    a: np.int64
    b: np.int64
    c: np.int64
    d: np.int64
    e: np.int64
    f: np.int64
    g: np.int64
    h: np.int64


class Count(Record):
    messages: np.int64


def echo_small(state: None, msg: Small, out: Small) -> bool:
    out.a, out.b, out.c, out.d = msg.a, msg.b, msg.c, msg.d
    return True


def echo_large(state: None, msg: Large, out: Large) -> bool:
    out.a, out.b, out.c, out.d = msg.a, msg.b, msg.c, msg.d
    out.e, out.f, out.g, out.h = msg.e, msg.f, msg.g, msg.h
    return True


def count(state: Count, msg: Small, out: Small) -> bool:
    state.messages += 1
    out.a, out.b, out.c, out.d = msg.a, state.messages, msg.c, msg.d
    return True


def swallow(state: Count, msg: Small, out: None) -> bool:
    state.messages += msg.d
    return False


def labour(state: None, msg: Small, out: Small) -> bool:
    """About 80 ns: each of the shifts waits for the one before it."""
    value = msg.b
    for _ in range(40):
        value ^= value << 13
        value ^= value >> 7
        value ^= value << 17
    out.a, out.b, out.c, out.d = msg.a, value, msg.c, msg.d
    return True


def hand_on(state: None, msg: Small, out: Small) -> bool:
    """Pass a message on until it has been handed on `b` times."""
    out.a, out.b, out.c, out.d = msg.a, msg.b - 1, msg.c, msg.d
    return msg.b > 1


async def driven(runtime: RingKernelRuntime, definition: str, kernels: int, size: int, batch: int, n: int) -> float:
    """Millions of messages a second there and back, without the interpreter."""
    executors: list[Any] = [runtime[name]._executor for name in await several(runtime, definition, kernels)]
    module = executors[0]._native.module
    addresses = np.array([[one.address, one._out.address] for one in executors]).T
    drive = partial(driver(module.put_many, module.take), *addresses.copy(), size, batch)
    drive(n // 10)
    begun = time.perf_counter()
    drive(n)
    return n / (time.perf_counter() - begun) / 1e6


def define(backend: Literal["cpu", "interpreted"], *kernel_ids: str) -> None:
    """Those kernels; all of them where none is named."""
    for step, name, options in (
        (echo_small, "echo 32", {"queue_size": QUEUE}),
        (echo_large, "echo 64", {"queue_size": QUEUE}),
        (echo_small, "echo driven 32", {"queue_size": CAPACITY}),
        (echo_large, "echo driven 64", {"queue_size": CAPACITY}),
        (echo_small, "echo by bursts", {}),
        (echo_small, "echo deep", {"queue_size": DEEP}),
        (labour, "labour", {"queue_size": DEEP}),
        (count, "one", {"queue_size": QUEUE}),
        (count, "thousand", {"queue_size": QUEUE, "instances": INSTANCES, "key": "a"}),
        (echo_small, "ask", {}),
        (swallow, "swallow", {"queue_size": 1 << 16}),
        (hand_on, "hand on", {}),
    ):
        if not kernel_ids or name in kernel_ids:
            ring_kernel(name, backend=backend, **options)(step)  # type: ignore[arg-type]


async def started(runtime: RingKernelRuntime, *kernel_ids: str) -> None:
    for kernel_id in kernel_ids:
        await runtime.launch(kernel_id)
        await runtime.activate(kernel_id)


async def several(runtime: RingKernelRuntime, definition: str, n: int) -> list[str]:
    """So many kernels of one definition; their ids."""
    names = [f"{definition} {i}" for i in range(n)]
    for name in names:
        await runtime.launch(definition, kernel_id=name)
        await runtime.activate(name)
    return names


def numbered(kind: type, n: int | None = None) -> Any:
    """Records for one batch."""
    dtype = kind.dtype  # type: ignore[attr-defined]
    n = n or CHUNK // dtype.itemsize
    records = np.zeros(n, dtype)
    records["a"] = np.arange(n)
    return records


# -- throughput --------------------------------------------------------------------------------------------------------


async def stream(runtime: RingKernelRuntime, first: str, last: str, n: int, records: Any, queue: int) -> float:
    """Millions of messages a second, sent to `first` and received from `last`."""
    chunk = len(records)
    n = max(n // chunk, 1) * chunk
    sent = got = 0
    begun = clock()
    while got < n:
        if sent < n and sent - got + chunk <= queue:
            await runtime.send_batch(first, records)
            sent += chunk
        else:
            replies = await runtime.receive_batch(last, chunk)
            got += len(replies)
            assert replies["a"][-1] == records["a"][(got - 1) % chunk], "out of order, or lost"
    return n / (clock() - begun) * 1000


async def through(
    runtime: RingKernelRuntime, kernel_id: str, n: int, queue: int = QUEUE, chunk: int | None = None
) -> float:
    await started(runtime, kernel_id)
    records = numbered(Large if kernel_id == "echo 64" else Small, chunk)
    await stream(runtime, kernel_id, kernel_id, n // 10, records, queue)
    return await stream(runtime, kernel_id, kernel_id, n, records, queue)


async def instances(runtime: RingKernelRuntime, kernel_id: str, n: int) -> float:
    """Each message for another one."""
    await started(runtime, kernel_id)
    records = numbered(Small)
    records["a"] %= INSTANCES
    await stream(runtime, kernel_id, kernel_id, n // 10, records, QUEUE)
    return await stream(runtime, kernel_id, kernel_id, n, records, QUEUE)


async def pipeline(runtime: RingKernelRuntime, n: int) -> float:
    names = await several(runtime, "echo 32", 3)
    for name, following in pairwise(names):
        await runtime.connect(name, following)
    records = numbered(Small)
    await stream(runtime, names[0], names[-1], n // 10, records, QUEUE)
    return await stream(runtime, names[0], names[-1], n, records, QUEUE)


async def bursts(runtime: RingKernelRuntime, kernels: int, n: int) -> float:
    """Millions of messages a second, by `BURST` to one kernel after the other: `send_batch` has its price, too."""
    names = await several(runtime, "swallow", kernels)
    records = numbered(Small, BURST)
    records["d"] = 1
    n = max(n // (BURST * KERNELS), 1) * BURST * KERNELS
    begun = clock()
    for i in range(n // BURST):
        await runtime.send_batch(names[i % kernels], records)
    await runtime.wait_idle()
    rate = n / (clock() - begun) * 1000
    assert sum([(await runtime[name].snapshot()).messages for name in names]) == n
    return rate


async def circle(runtime: RingKernelRuntime, n: int) -> float:
    """Millions of messages a second that kernels hand on to one another: one burst goes round, no Python in between."""
    names = await several(runtime, "hand on", KERNELS)
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        await runtime.connect(name, following)
    records = numbered(Small, BURST)
    last = runtime[names[-1]]
    for rounds in (1, max(n // BURST // KERNELS, 1)):
        records["b"] = rounds * KERNELS
        handled = last.statistics().processed + rounds * BURST
        begun = clock()
        await runtime.send_batch(names[0], records)
        while last.statistics().processed < handled:  # noqa: ASYNC110  nothing comes out that could be awaited
            await asyncio.sleep(0.001)
        spent = clock() - begun
    return rounds * KERNELS * BURST / spent * 1000


@contextmanager
def hog() -> Iterator[None]:
    """A thread of Python that never lets the interpreter go of its own accord."""
    done = False

    def compute() -> None:
        while not done:
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        done = True
        thread.join()


async def hogged(runtime: RingKernelRuntime, kernel_id: str, n: int) -> float:
    await started(runtime, kernel_id)
    records = numbered(Small, DEEP_CHUNK)
    await stream(runtime, kernel_id, kernel_id, n // 10, records, DEEP)
    with hog():
        return await stream(runtime, kernel_id, kernel_id, n, records, DEEP)


# -- one message at a time ---------------------------------------------------------------------------------------------


async def ask(runtime: RingKernelRuntime, n: int) -> dict[str, float]:
    await started(runtime, "ask")
    for _ in range(n // 10):
        await runtime.ask("ask", Small(1, 2, 3, 4))
    times = []
    for i in range(n):
        request = Small(i, 2, 3, 4)
        begun = clock()
        reply = await runtime.ask("ask", request)
        times.append(clock() - begun)
        assert reply.a == i
    return {"p50": statistics.median(times), "p99": statistics.quantiles(times, n=100)[-1]}


async def ticks(runtime: RingKernelRuntime, seconds: float) -> dict[str, float]:
    """Ticks a second of a task on a loop that has nothing else to do, and on one that asks without a pause."""
    await started(runtime, "ask")
    ticked = 0

    async def tick() -> None:
        nonlocal ticked
        while True:
            await asyncio.sleep(0.001)
            ticked += 1

    task = asyncio.create_task(tick())
    rates = {}
    for name in ("alone", "while asking"):
        before, begun = ticked, clock()
        while (spent := (clock() - begun) / 1e9) < seconds:
            if name == "alone":
                await asyncio.sleep(seconds)
            else:
                await runtime.ask("ask", Small(1, 2, 3, 4))
        rates[name] = (ticked - before) / spent
    task.cancel()
    return rates


async def send(runtime: RingKernelRuntime, n: int) -> float:
    await started(runtime, "swallow")
    messages = [Small(i, 0, 0, 1) for i in range(n)]
    begun = clock()
    for each in messages:
        await runtime.send("swallow", each)
    await runtime.wait_idle("swallow")
    spent = (clock() - begun) / n
    assert (await runtime["swallow"].snapshot()).messages == n
    return spent


async def put(runtime: RingKernelRuntime, n: int) -> float:
    """Nanoseconds for a message into the ring and nothing else."""
    await started(runtime, "swallow")
    messages = [Small(i, 0, 0, 1) for i in range(n)]
    put_one = runtime["swallow"]._executor.put  # type: ignore[attr-defined]
    begun = clock()
    for each in messages:
        put_one(each, -1)
    spent = (clock() - begun) / n
    await runtime.wait_idle("swallow")
    assert (await runtime["swallow"].snapshot()).messages == n
    return spent


# -- in a process of their own -----------------------------------------------------------------------------------------


def apart(call: str, *, core: int | None = None, **environment: str) -> Any:
    """What a function of this module returns in another interpreter, which may be pinned to a core."""
    here = Path(__file__).resolve().parent
    pin = f"import os; os.sched_setaffinity(0, {{{core}}})\n" if core is not None else ""
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    code = f"{pin}import json, compiled\nprint(json.dumps(compiled.{call}))"
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(run.stdout)


def on_one_core(backend: Any, n: int, asks: int, rounds: int) -> dict[str, float]:
    define(backend)
    rows = {
        "queue pair on one core: ns": lambda: asyncio.run(queue_ask(asks)),
        "ask on one core": partial(on_loop, "current", ask, asks),
        "echo on one core, 32 B: M/s": partial(on_loop, "current", through, "echo 32", n),
    }
    return medians(rows, rounds)


def idle(backend: Any, seconds: float) -> float:
    """Per cent of a core that a process takes whose compiled kernel is active, has worked, and has nothing to do."""
    define(backend)

    async def rest(runtime: RingKernelRuntime) -> float:
        await ask(runtime, 1000)
        await asyncio.sleep(0.1)
        used, begun = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        return 100 * (time.process_time() - used) / (time.perf_counter() - begun)

    return on_loop("current", rest)  # type: ignore[no-any-return]


def cycles(backend: Any, n: int) -> dict[str, float]:
    """Runtimes that start, answer and stop: what each takes, and what they leave behind."""
    define(backend)

    async def answer(runtime: RingKernelRuntime) -> None:
        await started(runtime, "ask")
        await runtime.ask("ask", Small(1, 2, 3, 4))

    def threads() -> int:
        tasks = Path("/proc/self/task")  # native threads, too
        return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()

    def files() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    on_loop("current", answer)
    before = threads(), files()
    begun = clock()
    for _ in range(n):
        on_loop("current", answer)
    return {
        f"{n} starts and stops: ms each": (clock() - begun) / n / 1e6,
        "they leave: threads": threads() - before[0],
        "they leave: file descriptors": files() - before[1],
    }


def start(backend: Any, kernel_id: str) -> dict[str, float]:
    """Milliseconds that a process takes until its first kernel is active."""
    marks = [clock()]
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()  # tables that Numba fills once, before it compiles or loads anything
    cpu_target.target_context.refresh()
    marks.append(clock())
    choose(backend)
    marks.append(clock())

    async def go() -> None:
        define(backend, kernel_id)
        async with RingKernelRuntime("current") as runtime:
            await started(runtime, kernel_id)
            marks.append(clock())

    asyncio.run(go())
    spent = [(later - earlier) / 1e6 for earlier, later in pairwise(marks)]
    return dict(zip(("start Numba", "load the backend", "define, launch, activate"), spent, strict=True))


def starts(backend: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        caches = {"PYDOTCOMPUTE_CACHE_DIR": f"{folder}/steps", "NUMBA_CACHE_DIR": f"{folder}/numba"}
        return {
            f"{what}, {part}: ms": spent
            for what, kernel_id in (
                ("first start of all", "echo 32"),
                ("start with a new step", "labour"),
                ("start with a known step", "labour"),
            )
            for part, spent in apart(f"start({backend!r}, {kernel_id!r})", **caches).items()
        }


# -- the table ---------------------------------------------------------------------------------------------------------


def on_loop(mode: Literal["current", "thread"], function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    async def go() -> Any:
        async with RingKernelRuntime(mode) as runtime:
            return await function(runtime, *args)

    return asyncio.run(go())


def medians(rows: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """All rows in turn, `rounds` times. A row that gives several figures has one for each of their names."""
    runs: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, row in rows.items():
            figures = row()
            if not isinstance(figures, dict):
                figures = {"": figures}
            for part, figure in figures.items():
                runs.setdefault(f"{name} {part}: ns" if part.startswith("p") else name + part, []).append(figure)
    return {name: statistics.median(values) for name, values in runs.items()}


Claim = tuple[str, str | None, str, float | None]
"""A row, what it stands beside (None: the bound is for the figure itself), and the bound of the ratio if it has one."""

CLAIMS: tuple[Claim, ...] = (
    ("echo driven by compiled code, 32 B: M/s", "bare ring in Numba, 32 B: M/s", "≥", 0.5),
    ("echo driven by compiled code, 32 B: M/s", "echo in C, 32 B: M/s", "≥", 0.8),
    ("echo driven by compiled code, 64 B: M/s", "bare ring in Numba, 64 B: M/s", "≥", 0.35),
    ("echo driven by compiled code, 64 B: M/s", "echo in C, 64 B: M/s", "≥", 0.8),
    ("echo, 32 B: M/s", "bare ring in Numba, 32 B: M/s", "≥", 0.5),
    ("echo, 32 B: M/s", "echo in C, 32 B: M/s", "≥", None),
    ("echo, 64 B: M/s", "bare ring in Numba, 64 B: M/s", "≥", 0.35),
    ("echo, 64 B: M/s", "echo in C, 64 B: M/s", "≥", None),
    ("1,000 instances: M/s", "one instance: M/s", "≥", 0.8),
    (
        "100 kernels driven by compiled code, bursts of 16: M/s",
        "echo driven by compiled code, 32 B: M/s",
        "≥",
        0.4,
    ),
    ("100 kernels in a circle, a burst of 16: M/s", "echo, 32 B: M/s", "≥", None),
    ("100 kernels, bursts of 16 from Python: M/s", "one kernel, bursts of 16 from Python: M/s", "≥", 0.4),
    ("three connected kernels: M/s", "echo, 32 B: M/s", "≥", None),
    ("busy step beside a hog: M/s", "busy step: M/s", "≥", 0.7),
    ("deep echo beside a hog: M/s", "deep echo: M/s", "≥", 0.7),
    ("echo on one core, 32 B: M/s", "echo, 32 B: M/s", "≥", 0.5),
    ("ask p50: ns", "queue pair: ns", "≤", 0.3),
    ("ask p99: ns", "queue pair: ns", "≤", None),
    ("ask on one core p50: ns", "queue pair on one core: ns", "≤", 1.2),
    ("ask on one core p99: ns", "queue pair on one core: ns", "≤", None),
    ("ask from a notebook p50: ns", "queue pair: ns", "≤", None),
    ("ask from a notebook p99: ns", "queue pair: ns", "≤", None),
    ("ticks a second while asking", "ticks a second alone", "≥", 0.9),
    ("send: ns", "queue put, get: ns", "≤", None),
    ("put alone: ns", None, "≤", 400),
    ("idle: % of a core", None, "≤", 0.1),
    ("they leave: threads", None, "≤", 0),
    ("they leave: file descriptors", None, "≤", 0),
    ("start with a known step, define, launch, activate: ms", None, "≤", 50),
)


def show(figures: dict[str, float], claims: tuple[Claim, ...] = CLAIMS) -> list[dict[str, Any]]:
    """Print the table; the claims with what has become of them."""
    kept = []
    print(f"{'':54}{'':>10}{'ratio':>9}  {'bound':14}beside")
    for name, figure in figures.items():
        label = f"{name:54}{figure:10,.0f}" if abs(figure) >= 100 else f"{name:54}{figure:10.3g}"
        for row, base, sign, bound in claims:
            if row != name or (base is not None and base not in figures):
                continue
            value = figure if base is None else figure / figures[base]
            met = None if bound is None else (value >= bound if sign == "≥" else value <= bound)
            verdict = "" if bound is None else f"{sign} {bound:g} {'ok' if met else 'MISSED'}"
            print(f"{label:64}{'' if base is None else f'{value:.2f}':>9}  {verdict:14}{base or ''}".rstrip())
            kept.append(
                {"row": row, "beside": base, "value": value, "bound": bound and f"{sign} {bound:g}", "met": met}
            )
            label = ""
        if label:
            print(label)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each row (default 7)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, three rounds")
    parser.add_argument("--backend", default="cpu", help="what runs the steps (default cpu)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name has this in it")
    options = parser.parse_args()
    backend, scale, rounds = options.backend, 1.0, options.rounds
    if options.quick:
        scale, rounds = 0.1, 3
    n, m = int(4_000_000 * scale), int(20_000 * scale)
    if backend == "interpreted":  # a thousand times slower, and no more
        n //= 200

    from _ceilings import c_echo, raw_ring  # Numba takes its time, which `start` is not to pay

    define(backend)
    rows: dict[str, Callable[[], Any]] = {}
    for size in (32, 64):
        ceilings = {"bare ring in Numba": raw_ring(size), "echo in C": c_echo(size)}
        for name, ceiling in ceilings.items():
            if ceiling is not None:
                rows[f"{name}, {size} B: M/s"] = partial(ceiling, int(4_000_000 * scale))
        if backend == "cpu":
            one = (f"echo driven {size}", 1, size, BATCH, n)
            rows[f"echo driven by compiled code, {size} B: M/s"] = partial(on_loop, "current", driven, *one)
        rows[f"echo, {size} B: M/s"] = partial(on_loop, "current", through, f"echo {size}", n)
    rows |= {
        "one instance: M/s": partial(on_loop, "current", instances, "one", n),
        "1,000 instances: M/s": partial(on_loop, "current", instances, "thousand", n),
        "100 kernels in a circle, a burst of 16: M/s": partial(on_loop, "current", circle, n),
        "100 kernels driven by compiled code, bursts of 16: M/s": partial(
            on_loop, "current", driven, "echo by bursts", KERNELS, 32, BURST, n
        ),
        "one kernel, bursts of 16 from Python: M/s": partial(on_loop, "current", bursts, 1, n // 10),
        "100 kernels, bursts of 16 from Python: M/s": partial(on_loop, "current", bursts, KERNELS, n // 10),
        "three connected kernels: M/s": partial(on_loop, "current", pipeline, n),
        "busy step: M/s": partial(on_loop, "current", through, "labour", n, DEEP, DEEP_CHUNK),
        "busy step beside a hog: M/s": partial(on_loop, "current", hogged, "labour", n),
        "deep echo: M/s": partial(on_loop, "current", through, "echo deep", 2 * n, DEEP, DEEP_CHUNK),
        "deep echo beside a hog: M/s": partial(on_loop, "current", hogged, "echo deep", 2 * n),
        "queue pair: ns": lambda: asyncio.run(queue_ask(m // 2)),
        "ask": partial(on_loop, "current", ask, m),
        "ask from a notebook": partial(on_loop, "thread", ask, m),
        "ticks a second ": partial(on_loop, "current", ticks, 0.5),
        "queue put, get: ns": lambda: asyncio.run(queue_send(m)),
        "send: ns": partial(on_loop, "current", send, m),
        "put alone: ns": partial(on_loop, "current", put, m),
    }
    by_themselves: dict[str, Callable[[], Any]] = {
        "idle: % of a core": lambda: apart(f"idle({backend!r}, 2.0)"),
        "cycles": lambda: apart(f"cycles({backend!r}, 100)"),
        "start": lambda: starts(backend),
    }
    if hasattr(os, "sched_setaffinity"):
        core = min(os.sched_getaffinity(0))
        by_themselves["one core"] = lambda: apart(f"on_one_core({backend!r}, {n}, {m // 2}, {rounds})", core=core)
    figures = medians({name: row for name, row in rows.items() if options.only in name}, rounds)
    for name, row in by_themselves.items():
        if options.only in name:
            figure = row()
            figures |= figure if isinstance(figure, dict) else {name: figure}
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, backend {backend}, median of {rounds} rounds")
    print(f"queue_size {QUEUE:,}, batches of {CHUNK:,} bytes; busy step, deep echo: {DEEP:,}, {DEEP_CHUNK:,} records\n")
    claims = show(figures)
    if options.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count(), "backend": backend}
        options.json.write_text(json.dumps({**about, "figures": figures, "claims": claims}, indent=1))


if __name__ == "__main__":
    main()
