"""What `compiled.py` measures compiled ring kernels against: a bare ring in Numba, and an echo in C."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pydotcompute.device.atomics import acquire, give_way, relax, release

CAPACITY, BATCH = 4_096, 256
"""Records in a ring, and those that are moved at once: rings and arrays stay in the cache next to each core."""

TAIL, HEAD = 0, 16  # words, each with cache lines of its own


@njit(nogil=True)
def put(indices, slots, records):
    """Copy as many of them in as there is room for; how many."""
    capacity, tail = len(slots), indices[TAIL]
    n = min(len(records), capacity - (tail - acquire(indices.ctypes.data, HEAD)))
    start = tail & (capacity - 1)
    first = min(n, capacity - start)
    slots[start : start + first] = records[:first]
    slots[: n - first] = records[first:n]
    release(indices.ctypes.data, TAIL, tail + n)
    return n


@njit(nogil=True)
def take(indices, slots, records):
    """Copy as many out as there are, at most so many as `records` holds; how many."""
    capacity, head = len(slots), indices[HEAD]
    n = min(len(records), acquire(indices.ctypes.data, TAIL) - head)
    start = head & (capacity - 1)
    first = min(n, capacity - start)
    records[:first] = slots[start : start + first]
    records[first:n] = slots[: n - first]
    release(indices.ctypes.data, HEAD, head + n)
    return n


@njit(nogil=True)
def rest(looks):
    """Spinning is quickest while there is a core for each thread; without one the other thread needs this one's."""
    if looks % 64 == 0:
        give_way()
    else:
        relax()


@njit(nogil=True)
def produce(indices, slots, records, n):
    sent, looks = 0, 0
    while sent < n:
        more = put(indices, slots, records[: n - sent])
        sent += more
        if more == 0:
            looks += 1
            rest(looks)


@njit(nogil=True)
def consume(indices, slots, records, n):
    got, looks, total = 0, 0, 0
    while got < n:
        more = take(indices, slots, records)
        got += more
        if more == 0:
            looks += 1
            rest(looks)
        else:
            total += records[more - 1].last
    return total


@cache
def driver(put_many: Any, take_many: Any) -> Any:
    """``drive(kernels, replies, size, batch, n)``: n messages of `size` bytes to compiled kernels and back.

    Each kernel in turn gets a batch and gives the replies that it has; `kernels` and `replies` are addresses, int64
    arrays of one length. `put_many` and `take_many` are those of the CPU backend, which takes addresses, as C does.
    """

    @njit(nogil=True)
    def drive(kernels, replies, size, batch, n):
        source, target = np.zeros(batch * size // 8, np.int64), np.zeros(batch * size // 8, np.int64)
        sent, got, looks = 0, 0, 0
        while got < n:
            moved = 0
            for i in range(len(kernels)):
                if sent < n:
                    more = put_many(kernels[i], source.ctypes.data, min(batch, n - sent), -1, 1)
                    sent += more
                    moved += more
                taken = take_many(replies[i], target.ctypes.data, batch)
                got += taken
                moved += taken
            if moved == 0:
                looks += 1
                rest(looks)
        return got

    return drive


def _aligned(dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    memory = np.zeros(n * dtype.itemsize + 128, np.uint8)
    start = -memory.ctypes.data % 128
    return memory[start : start + n * dtype.itemsize].view(dtype)


def raw_ring(size: int) -> Callable[[int], float]:
    """Millions of records of `size` bytes a second from one thread to another: copied in, copied out, nothing else."""
    fields = [(f"word_{i}", np.int64) for i in range(size // 8 - 1)]
    dtype = np.dtype([*fields, ("last", np.int64)])
    indices, slots = _aligned(np.dtype(np.int64), 2 * HEAD), _aligned(dtype, CAPACITY)
    source, target = _aligned(dtype, BATCH), _aligned(dtype, BATCH)
    source["last"] = 1
    produce(indices, slots, source, 0)  # compiles
    consume(indices, slots, target, 0)

    def run(n: int) -> float:
        indices[:] = 0
        producer = threading.Thread(target=produce, args=(indices, slots, source, n))
        begun = time.perf_counter()
        producer.start()
        consume(indices, slots, target, n)
        spent = time.perf_counter() - begun
        producer.join()
        assert indices[TAIL] == indices[HEAD] == n
        return n / spent / 1e6

    return run


def c_echo(size: int) -> Callable[[int], float] | None:
    """Millions of messages of `size` bytes a second there and back, in C. None without a compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    source = Path(__file__).with_name("_echo.c")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        library = Path(folder, f"echo-{size}.so")
        command = [compiler, "-std=gnu11", "-O3", "-shared", "-fPIC", "-pthread", f"-DWORDS={size // 8}", str(source)]
        for tuned in (["-march=native"], ["-mcpu=native"], []):  # processors differ in the spelling
            built = subprocess.run([*command, *tuned, "-o", str(library)], capture_output=True, text=True)
            if built.returncode == 0:
                break
        else:
            raise RuntimeError(f"{compiler} cannot compile {source}:\n{built.stderr}")
        run_echo = ctypes.CDLL(str(library)).run_echo  # stays when the file goes
    run_echo.restype, run_echo.argtypes = ctypes.c_double, [ctypes.c_int64] * 3

    def run(n: int) -> float:
        seconds = run_echo(n, CAPACITY, BATCH)
        assert seconds > 0, "the echo in C failed"
        return n / float(seconds) / 1e6

    return run
