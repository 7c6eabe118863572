"""What actors on a GPU cost, beside a fresh launch for each message and the least that the bus allows, in one run.

    python benchmarks/gpu.py [--json FILE] [--rounds N] [--seconds S] [--quick] [--only TEXT] [--backend NAME]

A message has 32 bytes, and so has its reply. The floor is a bare kernel that gives back, through mapped memory, each
number that the host writes; "native" rows are driven by compiled code without the interpreter. The same work is done by
a launch for each message, by replays of CUDA graphs, and by CuPy. Every row is run up to `--rounds` times, all rows in
turn, as long as `--seconds` allow, and the median is printed; trust the ratios.

With `--backend cpu` the rows that make sense there are run on worker threads: to see that the benchmark works. Its
bounds are for a GPU and are not judged then.

A row that fails is named, with the reason, and the others are run; one that does not come back ends the benchmark, and
the file holds what was measured before.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from _ceilings import rest
from _launches import Gpu, floor_on_cpu, hop_floor_on_cpu, percentiles, timed
from _machine import device, machine
from compiled import Claim, Small, count, echo_small, hand_on, on_loop, show, started, swallow
from numba import njit

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.device.atomics import now_ns

sys.path.append(str(Path(__file__).resolve().parent.parent))  # for `tests.device.scenarios`

QUEUE = 1 << 14
BATCH = 1 << 10
"""Records that compiled code puts at once, and takes."""
CHUNK = 1 << 12
"""Records in the arrays that Python sends."""
INSTANCES = (132, 1056)
"""One actor for each multiprocessor of an H100 or H200, and eight."""
CALLS = ("allocate", "free", "new kernel", "elementwise", "synchronize", "pinned")
QUANTUM = 0.5
STUCK = 75
"""Seconds after which a row is taken for one that does not come back."""


def define(backend: Any) -> None:
    ring_kernel("ask", backend=backend)(echo_small)
    ring_kernel("one", backend=backend, queue_size=QUEUE)(count)
    for instances in INSTANCES:
        ring_kernel(f"{instances}", backend=backend, queue_size=QUEUE, instances=instances, key="a")(count)
    ring_kernel("swallow", backend=backend, queue_size=1 << 17)(swallow)
    for name in ("here", "there"):
        ring_kernel(name, backend=backend)(hand_on)


def numbered(n: int, keys: int) -> Any:
    """Records for as many instances."""
    records = np.zeros(n, Small.dtype)  # type: ignore[attr-defined]
    records["a"], records["c"] = np.arange(n) % keys, np.arange(n)
    return records


# -- driven by compiled code -------------------------------------------------------------------------------------------


@cache
def drivers(put: Any, put_many: Any, take: Any) -> tuple[Any, Any, Any]:
    """Loops without the interpreter around the functions that put messages into a ring and take replies out of it."""

    @njit(nogil=True)
    def ask(kernel, replies, times):
        source, target = np.zeros(4, np.int64), np.zeros(4, np.int64)
        for i in range(len(times)):
            source[0] = i
            begun, looks = now_ns(), 0
            put(kernel, source.ctypes.data, -1, 0, 1)
            while take(replies, target.ctypes.data, 1) == 0:
                looks += 1
                rest(looks)
            times[i] = now_ns() - begun
            if target[0] != i:
                return i
        return len(times)

    @njit(nogil=True)
    def enqueue(kernel, n):
        source = np.ones(4, np.int64)
        done = 0
        for _ in range(n):
            done += put(kernel, source.ctypes.data, -1, 0, 1)
        return done

    @njit(nogil=True)
    def exchange(kernel, replies, records, batch, n):
        """Records of four words go there, `batch` at once, from the first to the last and again; the replies' sum."""
        target = np.zeros((batch, 4), np.int64)
        sent, got, looks, total = 0, 0, 0, 0
        while got < n:
            moved = 0
            if sent < n:
                at = sent % len(records)
                some = min(batch, n - sent, len(records) - at)
                moved = put_many(kernel, records[at:].ctypes.data, some, -1, 1)
                sent += moved
            taken = take(replies, target.ctypes.data, batch)
            for i in range(taken):
                total += target[i, 2]
            got += taken
            if moved + taken == 0:
                looks += 1
                rest(looks)
        return total

    return ask, enqueue, exchange


async def driven(runtime: RingKernelRuntime, kernel_id: str) -> tuple[tuple[Any, Any, Any], int, int]:
    """The loops for an active kernel, and where it and its replies are."""
    await started(runtime, kernel_id)
    executor: Any = runtime[kernel_id]._executor
    module = executor._native.module
    return drivers(module.put, module.put_many, module.take), executor.address, executor._out.address


async def native_ask(runtime: RingKernelRuntime, n: int) -> dict[str, float]:
    (ask, _, _), kernel, replies = await driven(runtime, "ask")
    times = np.zeros(n, np.int64)
    done = ask(kernel, replies, times)
    assert done == n, f"reply {done} was another's"
    return percentiles(times[n // 10 :])


async def native_enqueue(runtime: RingKernelRuntime, n: int) -> float:
    """Nanoseconds for a message into the ring."""
    (_, enqueue, _), kernel, _ = await driven(runtime, "swallow")
    enqueue(kernel, 100)
    await runtime.wait_idle()
    begun = time.perf_counter_ns()
    done = enqueue(kernel, n)
    spent = (time.perf_counter_ns() - begun) / n
    assert done == n, "the ring is too small"
    await runtime.wait_idle()
    return spent


async def native_exchange(runtime: RingKernelRuntime, kernel_id: str, batch: int, n: int) -> float:
    """Millions of messages a second, there and back."""
    keys = int(kernel_id) if kernel_id.isdecimal() else 1
    records = numbered(32 * BATCH // keys * keys, keys)
    (_, _, exchange), kernel, replies = await driven(runtime, kernel_id)
    words = records.view(np.int64).reshape(-1, 4)
    for messages in (max(n // 10, 1), n):
        begun = time.perf_counter()
        total = exchange(kernel, replies, words, batch, messages)
        spent = time.perf_counter() - begun
        rounds, more = divmod(messages, len(records))
        assert total == rounds * records["c"].sum() + records["c"][:more].sum(), "messages were lost or made up"
    return n / spent / 1e6


# -- from Python -------------------------------------------------------------------------------------------------------


async def python_enqueue(runtime: RingKernelRuntime, n: int) -> float:
    """Nanoseconds for a message into the ring."""
    await started(runtime, "swallow")
    messages = [Small(i, 0, 0, 1) for i in range(n)]
    put_one = runtime["swallow"]._executor.put  # type: ignore[attr-defined]
    begun = time.perf_counter_ns()
    for each in messages:
        put_one(each, -1)
    spent = (time.perf_counter_ns() - begun) / n
    await runtime.wait_idle("swallow")
    assert (await runtime["swallow"].snapshot()).messages == n
    return spent


async def thread_ask(runtime: RingKernelRuntime, n: int) -> dict[str, float]:
    """From a thread without an event loop."""
    await started(runtime, "ask")
    return await asyncio.to_thread(timed, lambda i: runtime.sync.ask("ask", Small(i, 2, 3, 4)).a, n)


async def loop_ask(runtime: RingKernelRuntime, n: int) -> dict[str, float]:
    await started(runtime, "ask")
    times = np.zeros(n, np.int64)
    for i in range(n):
        request = Small(i, 2, 3, 4)
        begun = time.perf_counter_ns()
        reply = await runtime.ask("ask", request)
        times[i] = time.perf_counter_ns() - begun
        assert reply.a == i
    return percentiles(times[n // 10 :])


async def python_exchange(runtime: RingKernelRuntime, kernel_id: str, n: int) -> float:
    """Millions of messages a second, by `send_batch` and `receive_batch`."""
    await started(runtime, kernel_id)
    records = numbered(CHUNK, int(kernel_id) if kernel_id.isdecimal() else 1)
    for messages in (2 * CHUNK, max(n // CHUNK, 1) * CHUNK):
        sent = got = total = 0
        begun = time.perf_counter()
        while got < messages:
            if sent < messages and sent - got + CHUNK <= QUEUE:
                await runtime.send_batch(kernel_id, records)
                sent += CHUNK
            else:
                replies = await runtime.receive_batch(kernel_id, CHUNK)
                got += len(replies)
                total += int(replies["c"].sum())
        spent = time.perf_counter() - begun
        assert total == messages // CHUNK * int(records["c"].sum()), "messages were lost or made up"
    return messages / spent / 1e6


async def hops(runtime: RingKernelRuntime, n: int) -> float:
    """Microseconds for a message from one kernel to another that it is connected to."""
    await started(runtime, "here", "there")
    await runtime.connect("here", "there")
    await runtime.connect("there", "here")
    handled = 0
    for rounds in (100, n // 2):
        handled += rounds
        begun = time.perf_counter()
        await runtime.send("here", Small(1, 2 * rounds, 3, 4))
        while runtime["there"].statistics().processed < handled:  # nothing comes that could be awaited
            assert time.perf_counter() < begun + 20, "the message does not come round"
            await asyncio.sleep(0.001)
        spent = time.perf_counter() - begun
    return spent / (2 * rounds) * 1e6


# -- the table ---------------------------------------------------------------------------------------------------------

CLAIMS: tuple[Claim, ...] = (
    ("native host loop p50: µs", "floor, bare ping-pong p50: µs", "≤", 1.5),
    ("native host loop p99: µs", "floor, bare ping-pong p99: µs", "≤", None),
    ("Python thread p50: µs", None, "≤", 10),
    ("asyncio p50: µs", "floor, bare ping-pong p50: µs", "≤", None),
    ("launch and wait, native p50: µs", "native host loop p50: µs", "≥", 3),
    ("graph replay and wait, native p50: µs", "native host loop p50: µs", "≥", None),
    ("launch and wait, numba-cuda p50: µs", "Python thread p50: µs", "≥", 3),
    ("launch and wait, CuPy kernel p50: µs", "Python thread p50: µs", "≥", None),
    ("graph replay and wait, CuPy p50: µs", "Python thread p50: µs", "≥", None),
    ("array there and back, CuPy p50: µs", "Python thread p50: µs", "≥", None),
    ("one actor, one by one: M/s", "a launch each: M/s", "≥", None),
    ("one actor, batches: M/s", "a launch each: M/s", "≥", 3),
    ("one actor, batches: M/s", "replays of 256 launches: M/s", "≥", None),
    ("132 actors, batches: M/s", None, "≥", 20),
    ("1,056 actors, batches: M/s", None, "≥", None),
    ("actor to actor: µs", None, "≤", 2),
    ("actor to actor: µs", "floor, block to block: µs", "≤", None),
    ("GPU free after its process is killed: s", None, "≤", 2),
    *((f"CuPy beside three kernels, {name}: ms", None, "≤", 1000 * QUANTUM + 50) for name in CALLS),
)


def rows_for(backend: Any, scale: float) -> dict[str, Callable[[], Any]]:
    """What is measured, in the order of importance."""
    n, many = int(20_000 * scale), int(4_000_000 * scale)
    current: Any = partial(on_loop, "current")
    rows: dict[str, Callable[[], Any]] = {
        "floor, bare ping-pong": partial(floor_on_cpu, n),
        "native host loop": partial(current, native_ask, n),
        "Python thread": partial(on_loop, "thread", thread_ask, n // 2),
        "asyncio": partial(current, loop_ask, n // 2),
        "floor, block to block: µs": partial(hop_floor_on_cpu, n),
        "actor to actor: µs": partial(current, hops, 2 * n),
        "one actor, batches: M/s": partial(current, native_exchange, "one", BATCH, many),
        **{
            f"{instances:,} actors, batches: M/s": partial(current, native_exchange, f"{instances}", BATCH, many)
            for instances in INSTANCES
        },
        "one actor, one by one: M/s": partial(current, native_exchange, "one", 1, many // 8),
        "132 actors, batches from Python: M/s": partial(current, python_exchange, "132", many // 4),
        "one actor, batches from Python: M/s": partial(current, python_exchange, "one", many // 4),
        "enqueue, native: ns": partial(current, native_enqueue, int(100_000 * scale)),
        "enqueue from Python: ns": partial(current, python_enqueue, n),
    }
    if backend == "cuda":
        gpu = cache(partial(Gpu, echo_small))  # made by the first row that needs it: it may fail
        rows |= {
            "floor, bare ping-pong": lambda: gpu().floor(n),
            "floor, block to block: µs": lambda: gpu().hop_floor(n),
            "launch and wait, native": lambda: gpu().launches(n // 4),
            "a launch each: M/s": lambda: gpu().launches_at_once(n),
            "graph replay and wait, native": lambda: gpu().replays(n // 4),
            "replays of 256 launches: M/s": lambda: gpu().replays_at_once(16 * n, 256),
            "launch and wait, numba-cuda": lambda: gpu().numba_cuda(n // 10),
            "launch and wait, CuPy kernel": lambda: gpu().cupy_kernel(n // 10),
            "graph replay and wait, CuPy": lambda: gpu().cupy_graph(n // 10),
            "array there and back, CuPy": lambda: gpu().cupy_arrays(n // 10),
        }
    return rows


def of_processes() -> dict[str, Callable[[], Any]]:
    """What happens in processes of their own; once."""
    from tests.device.scenarios import seconds_of_calls, seconds_to_free_the_gpu

    def calls() -> dict[str, float]:
        return {f"{name}: ms": 1000 * seconds for name, seconds in seconds_of_calls("cuda").items()}

    return {
        "CuPy beside three kernels, ": calls,
        "GPU free after its process is killed: s": seconds_to_free_the_gpu,
    }


class Report:
    """The figures so far, kept in a file, where what remains of the run finds them."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self._path = path
        self._runs: dict[str, list[float]] = {}
        self.failed: dict[str, str] = {}
        self.content: dict[str, Any] = {**about, "finished": False, "running": None, "failed": self.failed}

    def run(self, name: str, row: Callable[[], Any]) -> None:
        """Measure a row, unless it has failed before; one that does not come back ends the process."""
        if name in self.failed:
            return
        self.content["running"] = name
        self.write()
        faulthandler.dump_traceback_later(STUCK, exit=True)
        try:
            figures = row()
        except Exception as error:  # noqa: BLE001 - the others are to be measured all the same
            traceback.print_exc()
            self.failed[name] = f"{type(error).__name__}: {error}"
            print(f"FAILED: {name}: {self.failed[name]}", flush=True)
            return
        finally:
            faulthandler.cancel_dump_traceback_later()
        for part, figure in (figures if isinstance(figures, dict) else {"": figures}).items():
            label = f"{name} {part}: µs" if part in ("p50", "p99") else name + part
            self._runs.setdefault(label, []).append(figure)
        self.content["running"] = None

    @property
    def figures(self) -> dict[str, float]:
        return {name: statistics.median(runs) for name, runs in self._runs.items()}

    def write(self, **more: Any) -> None:
        self.content |= {"figures": self.figures, "runs": self._runs, **more}
        if self._path is not None:
            beside = self._path.with_suffix(".part")
            beside.write_text(json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")
            beside.replace(self._path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too, row by row")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each row (default 5)")
    parser.add_argument("--seconds", type=float, default=170, help="begin no other round after so long (default 170)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, one round")
    parser.add_argument("--backend", default="cuda", choices=("cuda", "cpu"), help="what runs the steps (default cuda)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows whose name has this in it")
    options = parser.parse_args()
    scale, rounds = (0.1, 1) if options.quick else (1.0, options.rounds)
    end = time.monotonic() + options.seconds
    try:
        define(options.backend)
    except Exception as error:  # noqa: BLE001 - a usage that cannot be: in one line
        sys.exit(f"nothing was measured: {error}")
    about = {**machine(), **(device() if options.backend == "cuda" else {}), "backend": options.backend}
    report = Report(options.json, about)
    rows = {name: row for name, row in rows_for(options.backend, scale).items() if options.only in name}
    done, longest = 0, 0.0
    while done < rounds and time.monotonic() + longest < end:
        begun = time.monotonic()
        for name, row in rows.items():
            report.run(name, row)
        done, longest = done + 1, max(longest, time.monotonic() - begun)
        if done == 1 and options.backend == "cuda":  # slow, and of little variance
            for name, row in of_processes().items():
                if options.only in name:
                    report.run(name, row)
    where = about.get("device", "worker threads: nothing of this is a figure of a GPU")
    print(f"Python {about['python']}, {about['cores']} cores, backend {options.backend}, {where}; {done} rounds\n")
    claims = show(report.figures, CLAIMS if options.backend == "cuda" else without_bounds(CLAIMS))
    for name, why in report.failed.items():
        print(f"FAILED  {name}: {why}")
    report.write(claims=claims, rounds=done, finished=True)
    sys.exit(bool(report.failed))


def without_bounds(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    return tuple((row, base, sign, None) for row, base, sign, _ in claims if base is not None)


if __name__ == "__main__":
    main()
