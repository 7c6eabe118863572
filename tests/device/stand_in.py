"""Native threads in place of the launch of a CUDA kernel: the host's side of that backend, where there is no GPU.

What runs on the threads is the text that is compiled for the GPU, with the same words of memory, one thread for each
block. `install` makes ``backend="cuda"`` use it. Everything else is what a GPU machine runs.
"""

import ctypes
import re
import threading
from functools import cache

import numpy as np

LEAVE_FAULT = 700  # CUDA_ERROR_ILLEGAL_ADDRESS
POLLING = {"WARP": 1, "LOOK_NS": 20_000, "POLL_EVERY": 4, "NAP_AFTER": 20, "LEAST_NAP": 20_000, "MOST_NAP": 1_000_000}

# The words of a stream: threads that run; an error, if there is one; how often something was launched, and with what
# dimensions the last time; whether launches end at once and do nothing; an error of launches alone.
RUNNING, FAULT, LAUNCHES, THREAD, GRID, X, Y, IS_VOID, REFUSAL, ARGUMENTS = 0, 1, 2, 3, 4, 5, 6, 7, 8, 16
WORDS = 1 << 10

HANDLED = 63
"""A word that a desk does not use: here, where the step is."""

LOOP = """
@inside
def handled(desk, state, message, reply):
    return call(load(desk, HANDLED), desk, state, message, reply)


@inside
def instance_of(named, message):
    return {instance}


@cfunc("int64(int64)", cache=CACHE)
def begin(argument):
    kernel, me = load(argument, 0), load(argument, 2)
    store(load(kernel, CELLS) + 8 * (me * CELL_WORDS + DESK), HANDLED, load(argument, 4))
    resident(kernel, load(argument, 1), me)
    fetch_add(load(argument, 3), RUNNING, -1)
    return 0
"""
"""Around the text of the loop: it is compiled once for all steps with records of the same sizes."""

STEP = """
@cfunc("int64(int64, int64, int64, int64)", cache=CACHE)
def handled(desk, state, message, reply):
    try:
        return 1 if truth(step({given})) else 0
    except Exception:
        return -1
"""
"""What `ptx.attempt` is for the other compiler."""


@cache
def machine():
    """What takes the place of the functions of the driver and of `ptx`."""
    from llvmlite import ir
    from numba import carray, cfunc, njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from pydotcompute.device import atomics

    pthread_create = types.ExternalFunction(
        "pthread_create", types.int32(types.int64, types.int64, types.int64, types.int64)
    )
    pthread_detach = types.ExternalFunction("pthread_detach", types.int32(types.int64))
    usleep = types.ExternalFunction("usleep", types.int32(types.uint32))
    give_way = atomics.give_way
    load, store, fetch_add = atomics.load, atomics.store, atomics.fetch_add

    @cfunc("int32(int64,int32,int32,int32,int32,int32,int32,int32,int64,int64,int64)")
    def launch(function, blocks, _y, _z, x, y, _bz, _shared, stream, parameters, _extra):
        if load(stream, FAULT) or load(stream, REFUSAL):
            return load(stream, FAULT) or load(stream, REFUSAL)
        store(stream, LAUNCHES, load(stream, LAUNCHES) + 1)
        store(stream, GRID, blocks)
        store(stream, X, x)
        store(stream, Y, y)
        if load(stream, IS_VOID):
            return 0
        fetch_add(stream, RUNNING, blocks)
        for block in range(blocks):
            argument = stream + 8 * (ARGUMENTS + 8 * block)
            store(argument, 4, load(function, 1))
            store(argument, 0, load(load(parameters, 0), 0))
            store(argument, 1, load(load(parameters, 1), 0))
            store(argument, 2, block)
            store(argument, 3, stream)
            if pthread_create(stream + 8 * THREAD, 0, load(function, 0), argument):
                return 2  # CUDA_ERROR_OUT_OF_MEMORY
            pthread_detach(load(stream, THREAD))
        return 0

    @cfunc("int32(int64)")
    def query(stream):
        if load(stream, FAULT):
            return load(stream, FAULT)
        return 600 if load(stream, RUNNING) else 0

    @intrinsic
    def call(typingctx, function, *arguments):
        def codegen(context, builder, signature, args):
            function, *arguments = args[0], *cgutils.unpack_tuple(builder, args[1])
            kind = ir.FunctionType(atomics.I64, [atomics.I64] * 4).as_pointer()
            return builder.call(builder.inttoptr(function, kind), arguments)

        return types.int64(function, types.Tuple(arguments)), codegen

    @intrinsic
    def record_at(typingctx, dtype, address):
        record = dtype.dtype

        def codegen(context, builder, signature, args):
            return builder.bitcast(builder.inttoptr(args[1], cgutils.voidptr_t), context.get_value_type(record))

        return record(dtype, types.int64), codegen

    @njit
    def array_at(dtype, shape, address):
        return carray(atomics.pointer(address), shape, dtype)

    @njit
    def nap(ns):
        if ns < 50_000:
            give_way()
        else:
            usleep(ns // 1000)

    names = {
        "truth": atomics.truth,
        "record_at": record_at,
        "array_at": array_at,
        "nap": nap,
        "cfunc": cfunc,
        "fetch_add": fetch_add,
        "load": load,
        "call": call,
        "store": store,
        "HANDLED": HANDLED,
        "RUNNING": RUNNING,
        "inside": njit(nogil=True, error_model="numpy"),
        "get": load,
        "put": store,
        "look": load,
        "note": store,
        "desk_at": njit(lambda elsewhere: elsewhere),
        "fetch_add_gpu": fetch_add,
        "count_gpu": fetch_add,
        "fence_gpu": atomics.fence,
        "now_ns": atomics.now_ns,
        "thread_index": njit(lambda: 0),
        "thread_count": njit(lambda: 1),
        "block_index": njit(lambda: 0),
        "sync": njit(lambda: None),
        "warp_peers": njit(lambda value: 1),
        "bit_count": njit(lambda bits: bits),
        "low_bits": njit(lambda lane: 0),
        "copy_line": njit(lambda target, source: atomics.copy(target, source, 64)),
    }
    for name in ("load", "acquire", "store", "release"):
        names |= {f"{name}_sys": getattr(atomics, name), f"{name}_gpu": getattr(atomics, name)}
    return launch, query, names


_programs = {}  # by the text that stands for the machine code


def compiled(definition, arch):
    """The step and its loop, for threads."""
    from pydotcompute.device import compiler, cuda
    from pydotcompute.device.cache import cached_module, fingerprint_of
    from pydotcompute.device.cuda_compiler import Binary

    source, names = cuda.program_source(definition, POLLING)
    given, instance = (
        re.search(form, source)[1]
        for form in (r"return attempt\(step, (.*)\)\n", r"def instance_of.*\n    return (.*)\n")
    )
    loop, _ = source.split("\n\nimport numpy as np\n")
    loop += "\n\nimport numpy as np\n" + LOOP.format(instance=instance)
    used = {name: value for name, value in names.items() if isinstance(value, int) or name in instance}
    key = fingerprint_of(loop, sorted(map(str, used.items())))
    loop = cached_module(loop, {**used, **machine()[2]}, key)
    step = compiler.compiled(definition, STEP.format(given=given), {**names, **machine()[2]}, (str(names),))
    key = str(len(_programs)).encode()
    _programs[key] = loop, step, np.array([loop.begin.address, step.handled.address])
    return Binary(key, "", "begin", arch, 0, 0, 0, 0)


class StandIn:
    """The stand-in for one GPU: `driver.Driver` as far as the backend uses it."""

    def __init__(self, index=0, room=8):
        self.index, self.blocks, self.arch = index, room, "threads"
        self._launch, self._query, _ = machine()
        self.launch, self.query = self._launch.address, self._query.address
        self.streams, self.memory, self.mapped, self.loaded, self.pollers = {}, {}, {}, [], []
        self.limit = None
        _all.append(self)

    def fail(self, code=LEAVE_FAULT):
        """From now on, whatever is asked of it ends in that error; it does not say so of its own accord."""
        for words in self.streams.values():
            words[FAULT] = code

    @property
    def is_empty(self):
        """Whether everything was given back."""
        return not (self.streams or self.memory or self.mapped)

    def error_text(self, code):
        return f"CUDA_ERROR_{code}"

    def attach(self):
        self.pollers.append(threading.current_thread().name)

    def pinned(self, nbytes):
        return _Pinned(self, nbytes)

    def stream(self):
        return _kept(self.streams, 8 * WORDS)

    def end_stream(self, stream):
        for _ in range(10_000_000):  # a thread says that it has left before it ends
            if not self.streams[stream][RUNNING]:
                del self.streams[stream]
                return
        raise AssertionError("something runs there yet")

    def allocate(self, nbytes, stream):
        from pydotcompute.exceptions import DeviceMemoryError

        if self.limit is not None and nbytes > self.limit:
            raise DeviceMemoryError(f"GPU {self.index} has no {nbytes} B left: use fewer instances", 2)
        return _kept(self.memory, -(-nbytes // 8) * 8)

    def _check(self, stream):
        from pydotcompute.exceptions import DeviceError

        if code := int(self.streams[stream][FAULT]):
            raise DeviceError(self.error_text(code), code)

    def free(self, address, stream):
        self._check(stream)
        del self.memory[address]

    def write(self, address, array, stream):
        self._check(stream)
        array = np.ascontiguousarray(array)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def read(self, address, nbytes, stream):
        self._check(stream)
        return np.frombuffer(ctypes.string_at(address, nbytes), np.uint8).copy()

    def load(self, cubin, name):
        self.loaded.append(cubin)
        return _programs[cubin][2].ctypes.data

    def room(self, function, threads):
        return self.blocks


_all = []  # for ever: threads that do not come back in time may use their memory


def _kept(blocks, nbytes):
    """Zeroed memory, and among `blocks`, by its address."""
    from pydotcompute.device.ring import address, block

    memory = block(nbytes)
    blocks[address(memory)] = memory
    return address(memory)


class _Pinned:
    def __init__(self, gpu, nbytes):
        self._mapped, self.device_address = gpu.mapped, _kept(gpu.mapped, nbytes)
        self.words = gpu.mapped[self.device_address]

    def free(self):
        del self.words, self._mapped[self.device_address]


@cache
def devices():
    return [StandIn()]


def install(patch=None, devices=devices):
    """From now on ``backend="cuda"`` is this; `patch` is pytest's `monkeypatch`."""
    from pydotcompute.device import backend
    from pydotcompute.device.cuda import CudaBackend

    former = backend.choose

    def choose(name):
        return CudaBackend(devices, compiled) if name == "cuda" else former(name)

    if patch is None:
        backend.choose = choose
    else:
        patch.setattr(backend, "choose", choose)
