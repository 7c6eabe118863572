"""What `gpu.py` measures ring kernels on a GPU against: a bare exchange of words with a kernel, and fresh launches.

Everything here does for one message what the step `echo_small` of a ring kernel does: 32 bytes to the device, the step,
32 bytes back. The host waits for the word that the kernel writes last, in mapped memory, which is the quickest way to
learn of its end. Where Python launches, it waits as the library is commonly used, for the stream.
"""

from __future__ import annotations

import ctypes
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pydotcompute import ring_kernel
from pydotcompute.device.atomics import acquire, launch, now_ns, query, relax, release, store

PATIENCE_NS = 5_000_000_000
"""Nanoseconds that the host waits for a word, and a kernel for the host."""
MESSAGE, REPLY, FLAG = 16, 32, 48
"""Words of the memory that both sides see; of the bare exchange 0 is the host's and 16 the device's."""
WORDS = 64

# What a kernel does with `words`, the address of mapped memory; the second argument is told with each.
BOUNCE = """
def entry(words, patience):
    # Give each number back that the host writes; a negative one, and the kernel ends.
    if thread_index() == 0:
        begun, looks, seen = now_ns(), 0, 0
        while seen >= 0 and (looks & 1023 != 0 or now_ns() - begun < patience):
            found = acquire_sys(words, 0)
            if found != seen:
                seen = found
                release_sys(words, 16, seen)
            looks += 1
"""
ANSWER = """
def entry(words, memory):
    # One message; `memory` is the device's: how many there were, and a place for a copy.
    if thread_index() == 0:
        count = get(memory, 0) + 1
        put(memory, 0, count)
        copy_line(memory + 128, words + 128)
        attempt(step, None, record_at(MESSAGE, memory + 128), record_at(REPLY, words + 256))
        release_sys(words, 48, count)
"""
BLOCKS = """
def entry(words, rounds):
    # Two blocks hand a number to and fro, in memory of the device.
    if thread_index() == 0:
        begun, me = now_ns(), block_index()
        for i in range(1, rounds + 1):
            if me == 0:
                release_gpu(words, 0, i)
                while acquire_gpu(words, 16) != i:
                    pass
            else:
                while acquire_gpu(words, 0) != i:
                    pass
                release_gpu(words, 16, i)
        put(words, 32 + me, now_ns() - begun)
"""
IN_C = """
extern "C" __global__ void answer(long long address, long long memory) {
    if (threadIdx.x == 0) {
        volatile long long *words = (volatile long long *)address;
        long long *count = (long long *)memory;
        long long message[4];
        for (int i = 0; i < 4; i++) message[i] = words[16 + i];
        for (int i = 0; i < 4; i++) words[32 + i] = message[i];
        *count += 1;
        __threadfence_system();
        words[48] = *count;
    }
}
"""


# -- the host's side, without the interpreter --------------------------------------------------------------------------


@njit(nogil=True)
def until(words, i, value):
    """Wait for a word; whether it came."""
    begun, looks = 0, 0
    while acquire(words, i) != value:
        relax()
        looks += 1
        if looks & 0xFFFF == 0:
            if begun == 0:
                begun = now_ns()
            elif now_ns() - begun > PATIENCE_NS:
                return False
    return True


@njit(nogil=True)
def bounces(words, first, times):
    """Numbers from `first` on, there and back; nanoseconds for each in `times`. How many came back."""
    for i in range(len(times)):
        begun = now_ns()
        release(words, 0, first + i)
        if not until(words, 16, first + i):
            return i
        times[i] = now_ns() - begun
    return len(times)


@njit(nogil=True)
def bounce(words):
    """`BOUNCE` on the host."""
    seen = 0
    while seen >= 0:
        found = acquire(words, 0)
        if found != seen:
            seen = found
            release(words, 16, seen)
        relax()


@njit(nogil=True)
def hand_back(words, rounds):
    """The second block of `BLOCKS` on the host; the first is `bounces`."""
    for i in range(1, rounds + 1):
        if not until(words, 0, i):
            return
        release(words, 16, i)


@njit
def release_from_python(words, i, value):
    release(words, i, value)


@njit
def launched(address, kernel, blocks, stream, parameters):
    return launch(address, kernel, blocks, 32, 1, stream, parameters)


@njit
def queried(address, stream):
    return query(address, stream)


@cache
def launchers(address: int) -> tuple[Any, Any]:
    """``each(graph, stream, words, first, times)`` and ``at_once(graph, stream, words, last, n)``.

    The address is that of `cuGraphLaunch`. Both say how many were replayed and, where each is waited for, answered.
    """
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64)(address)

    @njit(nogil=True)
    def each(graph, stream, words, first, times):
        for i in range(len(times)):
            store(words, MESSAGE, first + i)
            begun = now_ns()
            if call(graph, stream) != 0 or not until(words, FLAG, first + i):
                return i
            times[i] = now_ns() - begun
        return len(times)

    @njit(nogil=True)
    def at_once(graph, stream, words, last, n):
        for i in range(n):
            if call(graph, stream) != 0:
                return i
        return n if until(words, FLAG, last) else 0

    return each, at_once


@cache
def kernel_launchers(address: int) -> tuple[Any, Any]:
    """The same for `cuLaunchKernel`, one warp of it."""

    @njit(nogil=True)
    def each(kernel, stream, parameters, words, first, times):
        for i in range(len(times)):
            store(words, MESSAGE, first + i)
            begun = now_ns()
            if launched(address, kernel, 1, stream, parameters) != 0 or not until(words, FLAG, first + i):
                return i
            times[i] = now_ns() - begun
        return len(times)

    @njit(nogil=True)
    def at_once(kernel, stream, parameters, words, last, n):
        for i in range(n):
            if launched(address, kernel, 1, stream, parameters) != 0:
                return i
        return n if until(words, FLAG, last) else 0

    return each, at_once


def percentiles(times: NDArray[np.int64]) -> dict[str, float]:
    """Microseconds."""
    return {"p50": float(np.percentile(times, 50)) / 1000, "p99": float(np.percentile(times, 99)) / 1000}


def _words_on_host() -> NDArray[np.int64]:
    memory = np.zeros(8 * WORDS + 128, np.uint8)
    start = -memory.ctypes.data % 128
    return memory[start : start + 8 * WORDS].view(np.int64)


# -- the floors on the CPU ---------------------------------------------------------------------------------------------


def floor_on_cpu(n: int) -> dict[str, float]:
    """A bare exchange of words with another thread."""
    words = _words_on_host()
    other = threading.Thread(target=bounce, args=(words.ctypes.data,))
    other.start()
    times = np.zeros(n, np.int64)
    try:
        done = bounces(words.ctypes.data, 1, times)
    finally:
        release_from_python(words.ctypes.data, 0, -1)
        other.join()
    assert done == n, "the other thread gives no answer"
    return percentiles(times[n // 10 :])


def hop_floor_on_cpu(n: int) -> float:
    """Microseconds for a word from one thread to another."""
    words = _words_on_host()
    hand_back(words.ctypes.data, 0)  # compiles
    other = threading.Thread(target=hand_back, args=(words.ctypes.data, n))
    times = np.zeros(n, np.int64)
    other.start()
    assert bounces(words.ctypes.data, 1, times) == n, "the other thread gives no answer"
    other.join()
    return float(np.median(times)) / 2000


# -- a GPU -------------------------------------------------------------------------------------------------------------


def compiled(step: Callable[..., Any], arch: str) -> list[Any]:
    """The kernels of `BOUNCE`, `ANSWER` and `BLOCKS` for an architecture; no GPU is needed."""
    from pydotcompute.device import cuda_compiler
    from pydotcompute.messages import layout

    definition: Any = ring_kernel("launched", backend="cpu")(step)
    names = {"MESSAGE": layout(definition.message_type).dtype, "REPLY": layout(definition.reply_type).dtype}
    return [cuda_compiler.compiled(definition, source, names, arch) for source in (BOUNCE, ANSWER, BLOCKS)]


class Gpu:
    """Kernels of no actor: compiled, launched and waited for by hand."""

    def __init__(self, step: Callable[..., Any], index: int = 0) -> None:
        from pydotcompute.device.driver import driver

        self.driver = driver(index)
        binaries = compiled(step, self.driver.arch)
        self.bounce, self.answer, self.blocks = (self.driver.load(one.cubin, one.name) for one in binaries)
        self.stream = self.driver.stream()
        self.shared = self.driver.pinned(8 * WORDS)
        self.words = self.shared.words.ctypes.data
        self.memory = self.driver.allocate(8 * WORDS, self.stream)
        self._kept: list[Any] = []

    def parameters(self, *values: int) -> int:
        """Where the arguments of a kernel are listed: an address for each."""
        words = np.zeros(2 * len(values), np.int64)
        words[len(values) :] = values
        words[: len(values)] = words.ctypes.data + 8 * np.arange(len(values), 2 * len(values))
        self._kept.append(words)
        return int(words.ctypes.data)

    def launch(self, kernel: int, *values: int, blocks: int = 1) -> None:
        with self.driver.use():
            code = launched(self.driver.launch, kernel, blocks, self.stream, self.parameters(*values))
        if code:
            raise RuntimeError(f"the launch failed: {self.driver.error_text(code)}")

    def wait(self, patience: float = 10.0) -> None:
        """Until the stream has done everything."""
        end = time.monotonic() + patience
        with self.driver.use():
            while code := queried(self.driver.query, self.stream):
                if code != 600:  # CUDA_ERROR_NOT_READY
                    raise RuntimeError(f"the kernel failed: {self.driver.error_text(code)}")
                if time.monotonic() > end:
                    raise RuntimeError(f"the kernel has not ended after {patience} s")

    # -- floors --------------------------------------------------------------------------------------------------------

    def floor(self, n: int) -> dict[str, float]:
        """A bare exchange of words through mapped memory with a kernel that is there."""
        self.shared.words[:] = 0
        times = np.zeros(n, np.int64)
        bounces(self.words, 1, times[:0])  # compiled before the kernel begins to wait
        release_from_python(self.words, 0, 0)
        self.launch(self.bounce, self.shared.device_address, PATIENCE_NS)
        try:
            done = bounces(self.words, 1, times)
        finally:
            release_from_python(self.words, 0, -1)
        self.wait()
        assert done == n, f"the kernel gave {done} of {n} numbers back"
        return percentiles(times[n // 10 :])

    def hop_floor(self, n: int) -> float:
        """Microseconds for a word from one block to another through the memory of the device."""
        self.driver.write(self.memory, np.zeros(WORDS, np.int64), self.stream)
        self.launch(self.blocks, self.memory, n, blocks=2)
        self.wait()
        spent = self.driver.read(self.memory, 8 * WORDS, self.stream).view(np.int64)[32]
        return float(spent) / n / 2000

    # -- a launch for each message -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Count from nothing."""
        self.shared.words[:] = 0
        self.driver.write(self.memory, np.zeros(WORDS, np.int64), self.stream)

    def launches(self, n: int) -> dict[str, float]:
        """Launch and wait."""
        self._begin()
        each, _ = kernel_launchers(self.driver.launch)
        times = np.zeros(n, np.int64)
        parameters = self.parameters(self.shared.device_address, self.memory)
        with self.driver.use():
            done = each(self.answer, self.stream, parameters, self.words, 1, times)
        assert done == n, f"{done} of {n} launches were answered"
        assert self.shared.words[REPLY] == n, "a wrong reply"
        return percentiles(times[n // 10 :])

    def launches_at_once(self, n: int) -> float:
        """Millions of messages a second, launched one after the other; then the last is waited for."""
        _, at_once = kernel_launchers(self.driver.launch)
        parameters = self.parameters(self.shared.device_address, self.memory)
        for count in (100, n):
            self._begin()
            with self.driver.use():
                begun = time.perf_counter()
                done = at_once(self.answer, self.stream, parameters, self.words, count, count)
                spent = time.perf_counter() - begun
            assert done == count, f"{done} of {count} were launched"
        return n / spent / 1e6

    @contextmanager
    def _graph(self, launches: int) -> Iterator[int]:
        """So many launches, captured."""
        from cuda.bindings import driver as cuda

        def checked(result: Any) -> Any:
            code, *values = result
            if int(code):
                raise RuntimeError(f"the graph failed: {self.driver.error_text(int(code))}")
            return values[0] if values else None

        parameters = self.parameters(self.shared.device_address, self.memory)
        with self.driver.use():
            mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
            checked(cuda.cuStreamBeginCapture(self.stream, mode))
            for _ in range(launches):
                code = launched(self.driver.launch, self.answer, 1, self.stream, parameters)
                assert code == 0, self.driver.error_text(code)
            graph = checked(cuda.cuStreamEndCapture(self.stream))
            replay = checked(cuda.cuGraphInstantiate(graph, 0))
            try:
                yield int(replay)
            finally:
                checked(cuda.cuGraphExecDestroy(replay))
                checked(cuda.cuGraphDestroy(graph))

    def replays(self, n: int) -> dict[str, float]:
        """Replay a graph of one launch and wait."""
        from pydotcompute.device import libcuda

        each, _ = launchers(libcuda.address("cuGraphLaunch"))
        self._begin()
        times = np.zeros(n, np.int64)
        with self._graph(1) as graph:
            done = each(graph, self.stream, self.words, 1, times)
        assert done == n, f"{done} of {n} replays were answered"
        return percentiles(times[n // 10 :])

    def replays_at_once(self, n: int, launches: int) -> float:
        """Millions of messages a second by replays of a graph of so many launches; the last is waited for."""
        from pydotcompute.device import libcuda

        _, at_once = launchers(libcuda.address("cuGraphLaunch"))
        with self._graph(launches) as graph:
            for count in (1, max(n // launches, 1)):
                self._begin()
                begun = time.perf_counter()
                done = at_once(graph, self.stream, self.words, count * launches, count)
                spent = time.perf_counter() - begun
                assert done == count, f"{done} of {count} were replayed"
        return count * launches / spent / 1e6

    # -- from Python ---------------------------------------------------------------------------------------------------

    def numba_cuda(self, n: int) -> dict[str, float]:
        """Launch and wait, from Python."""
        from pydotcompute.device.cuda_compiler import compiler_missing

        assert compiler_missing() is None  # it loads numba-cuda beside versions of NumPy that this does not know
        from numba import cuda

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a grid of one block uses little of the GPU, it says
            stream = cuda.external_stream(self.stream)
            message, reply = (cuda.mapped_array(4, np.int64) for _ in range(2))

            @cuda.jit("void(int64[::1], int64[::1])")
            def answer(message, reply):
                if cuda.threadIdx.x == 0:
                    for i in range(4):
                        reply[i] = message[i]

            configured = answer[1, 32, stream]

            def once(i: int) -> int:
                message[0] = i
                configured(message, reply)
                stream.synchronize()
                return int(reply[0])

            return timed(once, n)

    def cupy_kernel(self, n: int) -> dict[str, float]:
        """A kernel in C on mapped memory, launched by CuPy."""
        kernel, stream = self._of_cupy()
        self._begin()
        arguments, words = self._arguments(), self.shared.words
        with stream:

            def once(i: int) -> int:
                words[MESSAGE] = i
                kernel((1,), (32,), arguments)
                stream.synchronize()
                return int(words[REPLY])

            return timed(once, n)

    def cupy_graph(self, n: int) -> dict[str, float]:
        """The same, captured and replayed."""
        kernel, stream = self._of_cupy()
        self._begin()
        arguments, words = self._arguments(), self.shared.words
        with stream:
            kernel((1,), (32,), arguments)  # what is loaded late is loaded now
            stream.synchronize()
            stream.begin_capture()
            kernel((1,), (32,), arguments)
            graph = stream.end_capture()

            def once(i: int) -> int:
                words[MESSAGE] = i
                graph.launch(stream)
                stream.synchronize()
                return int(words[REPLY])

            return timed(once, n)

    def cupy_arrays(self, n: int) -> dict[str, float]:
        """A message as an array: there, through an operation of CuPy, and back."""
        import cupy

        with cupy.cuda.Device(self.driver.index), cupy.cuda.Stream(non_blocking=True):
            message = np.zeros(4, np.int64)
            on_device, result = cupy.zeros(4, np.int64), cupy.zeros(4, np.int64)

            def once(i: int) -> int:
                message[0] = i
                on_device.set(message)
                cupy.add(on_device, 0, out=result)
                return int(result.get()[0])

            return timed(once, n)

    def _arguments(self) -> tuple[np.int64, np.int64]:
        return np.int64(self.shared.device_address), np.int64(self.memory)

    def _of_cupy(self) -> tuple[Any, Any]:
        import cupy

        if self.driver.index:
            cupy.cuda.Device(self.driver.index).use()
        return cupy.RawKernel(IN_C, "answer"), cupy.cuda.Stream(non_blocking=True)


def timed(once: Callable[[int], int], n: int) -> dict[str, float]:
    """Percentiles of what a round trip takes that Python makes; `once(i)` gives `i` back."""
    times = np.zeros(n, np.int64)
    for i in range(n):
        begun = time.perf_counter_ns()
        back = once(i)
        times[i] = time.perf_counter_ns() - begun
        assert back == i, f"{i} went there, and {back} came back"
    return percentiles(times[n // 10 :])
