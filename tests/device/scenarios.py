"""What may hang or kill a process happens in one of its own: scenarios, and how a test or a benchmark follows one.

Each scenario is a function that tells what it sees as lines of JSON; `Apart` runs it in another process::

    with Apart("resident", "cuda") as actors:
        actors.line(timeout=60)

or, to look at one by hand, ``python -m tests.device.scenarios resident cuda``.
"""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import cache, partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
ALLOCATED = 2 << 30
"""Bytes of device memory by which a process is known from outside to have its context still."""


class Apart:
    """A scenario in a process of its own. Leaving the block kills it, whatever it does."""

    def __init__(self, name, *args, **environment):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the rest
        command = [sys.executable, "-m", "tests.device.scenarios", name, *map(json.dumps, args)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=os.environ | environment
        )
        self._lines = queue.SimpleQueue()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(30)
        self._reading.join(30)
        self.process.stdout.close()
        self._errors.close()

    def line(self, timeout):
        """The next thing that it tells; `RuntimeError` where it ends or stays silent instead."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise RuntimeError(f"it said nothing for {timeout} s; {self.errors}") from None
        if line is None:
            raise RuntimeError(f"it ended with {self.process.wait()}; {self.errors}")
        return json.loads(line)

    def latest(self):
        """Forget what it has told by now."""
        while not self._lines.empty():
            self._lines.get()

    def end(self, timeout):
        """Its return code, once it has ended by itself."""
        return self.process.wait(timeout)

    def signal(self, number):
        self.process.send_signal(number)

    @property
    def errors(self):
        self._errors.seek(0)
        return f"on stderr:\n{self._errors.read()[-3000:]}"


def tell(**facts):
    print(json.dumps(facts), flush=True)


# -- seen from outside -------------------------------------------------------------------------------------------------


def _asked_of_gpu(question):
    """A number that the driver's own library, or else its tool, knows of GPU 0, without a CUDA context."""
    try:
        import pynvml

        pynvml.nvmlInit()
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        if question == "memory.used":
            return pynvml.nvmlDeviceGetMemoryInfo(gpu).used >> 20
        return pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    except Exception:  # not installed, or not for this system
        command = ["nvidia-smi", "--id=0", f"--query-gpu={question}", "--format=csv,noheader,nounits"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout)


memory_used = partial(_asked_of_gpu, "memory.used")
"""MiB."""
utilization = partial(_asked_of_gpu, "utilization.gpu")
"""Per cent of the last moments in which a kernel ran."""


def seconds_until(condition, patience):
    """How long it takes until that is so; `RuntimeError` if it does not come to be."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > patience:
            raise RuntimeError(f"it is not so after {patience} s")
        time.sleep(0.01)
    return time.monotonic() - begun


# -- scenarios ---------------------------------------------------------------------------------------------------------


def _ring_kernel(kernel_id, backend, **options):
    """`ring_kernel`, also for the backend "stand-in": that of CUDA, with native threads in place of its launches."""
    from pydotcompute import ring_kernel

    if backend == "stand-in":
        _install_stand_in()
        backend = "cuda"
    return ring_kernel(kernel_id, backend=backend, **options)


@cache
def _install_stand_in():
    from tests.device import stand_in

    one = stand_in.StandIn(room=16)  # for three kernels that all stay
    stand_in.install(devices=lambda: [one])


def _define(backend, **options):
    """Three definitions, with one instance, with as many as a large GPU has multiprocessors, and with threads."""
    from tests.device import steps, stress

    _ring_kernel("tally", backend, **options)(steps.tally)
    _ring_kernel("keyed", backend, instances=132, key="key", **options)(stress.keyed)
    _ring_kernel("accumulate", backend, instances=4, key="n", threads=128, **options)(stress.accumulate)
    return "tally", "keyed", "accumulate"


async def _ask_all(runtime, n):
    """An answer from each of the three, or what is wrong."""
    from tests.device.steps import Number
    from tests.device.stress import CELLS, Keyed, Vector

    async with asyncio.timeout(60):  # more than the process may be stopped for
        assert (await runtime.ask("tally", Number(n))).n == n
        assert (await runtime.ask("keyed", Keyed(n, n))).n == n
        assert (await runtime.ask("accumulate", Vector(n, np.zeros(CELLS)))).n == n


def resident(backend, options=None, allocated=0):
    """Three kernels that answer ten times a second, and say each time how many answers there were."""
    from pydotcompute import RingKernelRuntime

    names = _define(backend, **(options or {}))
    kept = _on_device(allocated) if allocated else None  # first: it could wait for kernels that stay

    async def live():
        async with RingKernelRuntime() as runtime:
            for name in names:
                await (await runtime.launch(name)).activate()
            n = 0
            while True:
                n += 1
                await _ask_all(runtime, n)
                tell(answers=n, allocated=allocated if kept is not None else 0)
                await asyncio.sleep(0.1)

    asyncio.run(live())


def _on_device(nbytes):
    import cupy

    kept = cupy.zeros(nbytes, cupy.uint8)  # written to, so that it is really there
    cupy.cuda.get_current_stream().synchronize()
    return kept


def calls_beside(backend, options=None):
    """What CUDA calls of others take, in seconds, while three kernels live, two of them busy."""
    from pydotcompute import RingKernelRuntime
    from tests.device.conformance import numbers

    names = _define(backend, **(options or {}))

    async def busy(runtime):
        while True:
            await runtime.send_batch("tally", numbers(range(100)))
            await runtime.receive_batch("tally", 100)
            await asyncio.sleep(0)

    async def live():
        async with RingKernelRuntime("thread") as runtime:
            calls = _cupy_calls() if backend == "cuda" else _host_calls()
            for call in calls.values():  # what is new the first time is not what is asked for
                call()
            for name in names:
                await (await runtime.launch(name)).activate()
            await _ask_all(runtime, 0)
            working = asyncio.ensure_future(busy(runtime))
            for _ in range(3):
                for name, call in calls.items():
                    begun = time.perf_counter()
                    await asyncio.to_thread(call)
                    tell(call=name, seconds=time.perf_counter() - begun)
                await _ask_all(runtime, 1)
            assert not working.done(), working.exception()
            working.cancel()

    asyncio.run(live())
    tell(call="all", seconds=0)


def _cupy_calls():
    """CuPy as it is commonly used, on the default stream, and what is known to wait for a whole device."""
    import cupy

    number = iter(range(1_000_000))

    def allocate():
        cupy.get_default_memory_pool().malloc(64 << 20)  # which has none left, see `free`

    def new_kernel():
        """In C without a header, which is compiled in no time; it has not been loaded before."""
        n, values = next(number), cupy.ones(32, cupy.float32)
        name = f"scale_{os.getpid()}_{n}"
        source = f'extern "C" __global__ void {name}(float *x) {{ x[threadIdx.x] *= {n + 1}.0f; }}'
        cupy.RawKernel(source, name)((1,), (32,), (values,))
        assert float(values.get().sum()) == 32 * (n + 1)

    def elementwise():
        assert float((cupy.arange(1000, dtype=cupy.float32) * 2).sum()) == 999_000

    def free():
        kept = cupy.empty(64 << 20, cupy.uint8)
        del kept
        cupy.get_default_memory_pool().free_all_blocks()

    return {
        "allocate": allocate,
        "free": free,
        "new kernel": new_kernel,
        "elementwise": elementwise,
        "synchronize": cupy.cuda.runtime.deviceSynchronize,
        "pinned": lambda: cupy.cuda.alloc_pinned_memory(1 << 20),
    }


def _host_calls():
    return {"allocate": lambda: np.zeros(1 << 20), "free": lambda: None}


def strict(backend):
    """With `quantum=None` a kernel never leaves: who waits for the device waits until it ends."""
    from pydotcompute import RingKernelRuntime
    from tests.device import steps
    from tests.device.steps import Number

    _ring_kernel("tally", backend, quantum=None)(steps.tally)

    def wait_for_device():
        if backend == "cuda":
            cupy.cuda.runtime.deviceSynchronize()
        else:
            ended.wait()
        waited.set()

    waited, ended = threading.Event(), threading.Event()
    if backend == "cuda":
        import cupy

        cupy.cuda.runtime.deviceSynchronize()  # what it does the first time is done now

    async def live():
        async with RingKernelRuntime("thread") as runtime:
            await (await runtime.launch("tally")).activate()
            assert (await runtime.ask("tally", Number(0), 10)).n == 0
            waiting = threading.Thread(target=wait_for_device, daemon=True)
            waiting.start()
            stayed = not await asyncio.to_thread(waited.wait, 1.5)
            asked = (await runtime.ask("tally", Number(1), 10)).n
            await runtime.terminate("tally")
            ended.set()
            left = await asyncio.to_thread(waited.wait, 10)
            tell(stayed=stayed, asked=asked, left=left)

    asyncio.run(live())


def out_of_bounds(backend, boundscheck=False):
    """A step reads far outside; then another kernel is asked, and one of another runtime."""
    from pydotcompute import RingKernelRuntime
    from pydotcompute.exceptions import PyDotComputeError
    from tests.device import steps
    from tests.device.steps import Number

    _ring_kernel("pick", backend, boundscheck=boundscheck)(steps.pick)
    _ring_kernel("tally", backend)(steps.tally)

    async def ask(runtime, name, n):
        try:
            reply = await runtime.ask(name, Number(n), 10)
            tell(asked=name, reply=reply.n)
        except PyDotComputeError as error:
            text = f"{type(error).__name__}: {error}"
            if error.__cause__ is not None:
                text += f" <- {type(error.__cause__).__name__}: {error.__cause__}"
            tell(asked=name, error=text)

    async def live():
        async with RingKernelRuntime() as runtime:
            for name in ("pick", "tally"):
                await (await runtime.launch(name)).activate()
            await ask(runtime, "tally", 0)
            await ask(runtime, "pick", 1 << 36)
            tell(state=runtime["pick"].state.name)
            await ask(runtime, "tally", 1)
        try:
            async with RingKernelRuntime() as runtime:
                await (await runtime.launch("tally")).activate()
                await ask(runtime, "tally", 2)
        except PyDotComputeError as error:
            tell(asked="tally", error=f"{type(error).__name__}: {error}")

    asyncio.run(live())


def never_returns(backend):
    """A step that runs for minutes: closing gives it up, and the process ends all the same."""
    from pydotcompute import RingKernelRuntime
    from tests.device import steps
    from tests.device.steps import Rounds

    _ring_kernel("spin", backend)(steps.spin)

    async def live():
        async with RingKernelRuntime() as runtime:
            kernel = await runtime.launch("spin")
            await kernel.activate()
            await kernel.ask(Rounds(1), 10)
            await kernel.send(Rounds(1 << 40))
            await asyncio.sleep(0.1)  # nothing tells when it has it in hand
            tell(began=True)
            await runtime.terminate("spin", timeout=0.2)
            tell(state=kernel.state.name)

    asyncio.run(live())
    tell(closed=True)


def interrupted(backend):
    """Ctrl-C while three kernels live."""
    from pydotcompute import RingKernelRuntime

    names = _define(backend)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it

    async def live():
        async with RingKernelRuntime() as runtime:
            for name in names:
                await (await runtime.launch(name)).activate()
            await _ask_all(runtime, 0)
            tell(ready=True)
            await asyncio.Event().wait()

    try:
        asyncio.run(live())
    except KeyboardInterrupt:
        tell(interrupted=True)


def left_open(backend):
    """A process that ends without closing its runtime."""
    from pydotcompute import RingKernelRuntime

    names = _define(backend)
    runtime = RingKernelRuntime("thread")

    async def begin():
        await runtime.__aenter__()
        for name in names:
            await (await runtime.launch(name)).activate()
        await _ask_all(runtime, 0)

    asyncio.run(begin())
    tell(ready=True)


# -- what several tests and the benchmark measure ----------------------------------------------------------------------


def seconds_to_free_the_gpu(backend="cuda", options=None):
    """How long a GPU stays taken after its process, with three kernels on it, is killed."""
    before = memory_used()
    with Apart("resident", backend, options or {}, ALLOCATED) as actors:
        actors.line(timeout=90)
        least = ALLOCATED >> 20
        if memory_used() < before + least:
            raise RuntimeError("the memory of the process is not seen from here")
        actors.signal(signal.SIGKILL)
        return seconds_until(lambda: memory_used() < before + least // 2, patience=20)


def seconds_of_calls(backend="cuda", options=None):
    """What CUDA calls take beside three kernels, at worst, by name."""
    worst = {}
    with Apart("calls_beside", backend, options or {}) as calls:
        while (told := calls.line(timeout=90))["call"] != "all":
            worst[told["call"]] = max(worst.get(told["call"], 0.0), told["seconds"])
    return worst


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(json.loads, sys.argv[2:]))
