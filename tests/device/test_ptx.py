"""What the words of a GPU are compiled to, and what an attempt at a step comes to.

No GPU takes part. The text of the PTX says how memory is accessed; what has no such instructions, numba-cuda's code for
a step and its arrays, runs on this machine's processor.
"""

import ctypes
import re
from textwrap import indent
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, Shape, UnifiedBuffer, message, ring_kernel
from pydotcompute.messages import layout
from tests.device import steps

pytestmark = [pytest.mark.needs_numba, pytest.mark.needs_cuda_compiler]


@pytest.fixture
def ptx_of():
    """``ptx_of("put(kernel, 0, turn)")``: the instructions of a kernel of two words, one a line."""

    def ptx_of(body, arch="sm_90", **names):
        from pydotcompute.device.cuda_compiler import compiled

        definition = ring_kernel("ptx", backend="cpu")(steps.echo)
        binary = compiled(definition, f"def entry(kernel, turn):\n{indent(body, '    ')}\n", names, arch)
        return re.sub(r"\s*//.*|\t", "", binary.ptx)

    return ptx_of


WORDS = {
    "put(kernel, 1, load_sys(kernel, 0))": "ld.relaxed.sys.global.b64",
    "put(kernel, 1, acquire_sys(kernel, 0))": "ld.acquire.sys.global.b64",
    "release_sys(kernel, 0, turn)": "st.release.sys.global.b64",
    "put(kernel, 1, load_gpu(kernel, 0))": "ld.relaxed.gpu.global.b64",
    "put(kernel, 1, acquire_gpu(kernel, 0))": "ld.acquire.gpu.global.b64",
    "store_gpu(kernel, 0, turn)": "st.relaxed.gpu.global.b64",
    "release_gpu(kernel, 0, turn)": "st.release.gpu.global.b64",
    "put(kernel, 1, get(kernel, 0))": "ld.global.b64",
    "put(kernel, 1, fetch_add_gpu(kernel, 0, turn))": "atom.acq_rel.gpu.global.add.u64",
    "fence_gpu()": "fence.acq_rel.gpu",
    "put(kernel, 1, now_ns())": "mov.u64 %rd1, %globaltimer",
    "put(kernel, 1, warp_peers(turn))": "match.any.sync.b64",
    "put(kernel, 1, bit_count(turn))": "popc.b64",
    "put(kernel, 1, block_index())": "%ctaid.x",
    "sync()": "bar.sync",
}


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_each_access_is_its_instruction(ptx_of, arch):
    text = ptx_of("\n".join(WORDS), arch)
    instructions = [line for line in text.splitlines() if line.endswith(";")]
    at = -1
    for code, wanted in WORDS.items():  # in the order of the program, with none left out
        wanted = re.sub(r"%rd\d+", r"%rd\\d+", re.escape(wanted).replace(r"%rd1", r"%rd\d+"))
        found = [n for n, line in enumerate(instructions) if n > at and re.search(wanted, line)]
        assert found, f"{code} is not {wanted} in\n{text}"
        at = found[0]


@pytest.mark.parametrize("look", ["load_sys", "acquire_sys", "load_gpu", "acquire_gpu", "get"])
def test_whoever_waits_for_a_word_looks_each_time(ptx_of, look):
    text = ptx_of(f"while {look}(kernel, 0) == turn:\n    pass\nput(kernel, 1, 1)")
    (loop,) = re.findall(r"^(\$L\w+):(.*?)bra(?:\.uni)? \1;", text, re.S | re.M)
    assert re.search(r"\bld\.", loop[1])


def test_a_word_that_is_read_twice_is_read_twice(ptx_of):
    text = ptx_of("a = get(kernel, 0)\nb = get(kernel, 0)\nput(kernel, 1, a + b)")
    assert text.count("ld.global.b64") == 2


def test_plain_accesses_stay_between_acquire_and_release(ptx_of):
    lines = """
    while acquire_sys(kernel, 0) == 0:
        pass
    message = array_at(DTYPE, SHAPE, turn)
    message[1] = message[0] + 1
    release_sys(kernel, 1, 1)
    message[2] = 7
    """
    text = ptx_of(f"if True:{lines}", DTYPE=np.dtype(np.int32), SHAPE=(4,))
    acquired = text[text.rindex("ld.acquire") :]
    accesses = re.findall(r"ld\.acquire|st\.release|ld\.global\.u32|st\.global\.u32", acquired)
    assert accesses == ["ld.acquire", "ld.global.u32", "st.global.u32", "st.release", "st.global.u32"]


def test_a_line_is_copied_in_one_trip(ptx_of):
    text = ptx_of("copy_line(kernel, turn)")
    moves = re.findall(r"(ld\.relaxed\.sys|st)\.global\.v2\.b64 [^;]*\[%rd\d+\+(\d+)\]", text)
    assert moves == [(kind, str(at)) for kind in ("ld.relaxed.sys", "st") for at in (0, 16, 32, 48)]


def test_no_nap_is_longer_than_a_gpu_sleeps(ptx_of):
    text = ptx_of("nap(turn)")
    assert re.search(r"min\.u64 .*, 1000000;\n.*\n?.*nanosleep\.u32", text)


def test_where_one_thread_runs_the_step_its_barrier_is_none(ptx_of):
    text = ptx_of("barrier()\nput(kernel, lane(), width())", **block_names())
    guard = re.search(r"%ntid\.x.*?setp\.(?:lt|gt|eq|ne)\.\w+.*?@%p\d+ bra.*?bar\.sync", text, re.S)
    assert guard
    assert "%tid.x" in text


def block_names():
    from pydotcompute.device import block

    return {"barrier": block.barrier, "lane": block.lane, "width": block.width}


def test_threads_of_a_block_are_counted_over_both_dimensions(ptx_of):
    text = ptx_of("put(kernel, thread_index(), thread_count())")
    assert {"%tid.x", "%tid.y", "%ntid.x", "%ntid.y"} <= set(re.findall(r"%n?tid\.\w", text))


# -- on this machine's processor ---------------------------------------------------------------------------------------


@pytest.fixture
def native(monkeypatch):
    """``native(definition)``: an attempt at its step by numba-cuda's code, as a function of addresses."""
    from pydotcompute.device import cuda_compiler

    assert cuda_compiler.compiler_missing() is None  # and numba-cuda is loaded

    import llvmlite.binding as llvm
    from numba import cuda
    from numba.cuda.core.compiler_lock import global_compiler_lock
    from numba.cuda.cudadrv import nvvm

    from pydotcompute.device import ptx

    seen = []
    monkeypatch.setattr(nvvm, "compile_ir", lambda texts, **options: seen.extend(texts) or b"")
    kept = []

    def native(definition):
        records = zip(
            ("state", "message", "reply"),
            (definition.state_type, definition.message_type, definition.reply_type),
            strict=True,
        )
        names = {"attempt": ptx.attempt, "record_at": ptx.record_at, "array_at": ptx.array_at}
        given = []
        for name, cls in records:
            names[name.upper()] = cls and layout(cls).dtype
            given.append(f"record_at({name.upper()}, {name})" if cls else "None")
        for i, (name, buffer) in enumerate(definition.buffers.items()):
            names |= {f"DTYPE_{i}": buffer.dtype, f"SHAPE_{i}": buffer.shape}
            given.append(f"array_at(DTYPE_{i}, SHAPE_{i}, {name})")
        parameters = ", ".join(["state", "message", "reply", *definition.buffers])
        seen.clear()
        with (
            global_compiler_lock,
            cuda_compiler._as_on("sm_90"),
            cuda_compiler._bounds_checked(definition.boundscheck),
        ):
            names["step"] = cuda_compiler._typed_step(definition)
            exec(f"def tried({parameters}):\n    return attempt(step, {', '.join(given)})", names)
            count = 3 + len(definition.buffers)
            signature = cuda.types.int64(*[cuda.types.int64] * count)
            cuda.compile(names["tried"], signature, cc=(9, 0), abi_info={"abi_name": "tried"})
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        whole, *others = (
            llvm.parse_assembly(re.sub(r"^(target (triple|datalayout) =|!nvvm).*$", "", text, flags=re.M))
            for text in seen
        )
        for other in others:
            whole.link_in(other)
        engine = llvm.create_mcjit_compiler(whole, llvm.Target.from_default_triple().create_target_machine())
        engine.finalize_object()
        kept.append(engine)
        return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)(engine.get_function_address("tried"))

    return native


def records(definition):
    """Zeros for its state, message and reply, each an array of one record, and their addresses."""
    classes = (definition.state_type, definition.message_type, definition.reply_type)
    arrays = [np.zeros(1, layout(cls).dtype) if cls else np.zeros(1) for cls in classes]
    return *arrays, [array.ctypes.data for array in arrays]


def test_a_step_does_on_a_gpu_what_it_does_in_python(native):
    definition = ring_kernel("stats", backend="cpu")(steps.stats)
    attempted = native(definition)
    state, message, reply, places = records(definition)
    message["sensor"] = 3
    for value, mean in ((2.0, 2.0), (4.0, 3.0)):
        message["value"] = value
        assert attempted(*places) == 1
        assert (reply["sensor"], reply["mean"]) == (3, mean)
    assert state["count"].sum() == 2
    assert state["total"][0, 3] == 6.0


def test_all_kinds_of_fields_are_where_the_host_has_them(native):
    definition = ring_kernel("copy", backend="cpu")(steps.copy_everything)
    attempted = native(definition)
    _, message, reply, places = records(definition)
    noise = np.random.default_rng(7)
    for name in message.dtype.names:
        kind = message.dtype[name].base
        if kind.names is None:
            message[name] = noise.integers(0, 2 if kind.kind == "b" else 100, message[name].shape)
    message["point"] = (1.5, -2.5)
    message["turn"] = 3 - 4j
    assert attempted(*places) == 1
    for name in message.dtype.names:
        assert (reply[name] == message[name]).all(), name


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (-1.0, 0.0), (7.0, 2.0)])
@pytest.mark.parametrize(("c", "d"), [(7, 2), (-7, 2), (7, -2), (-8, -2)])
def test_division_is_that_of_python_and_never_an_error(native, a, b, c, d):
    definition = ring_kernel("divide", backend="cpu")(steps.divide)
    _, message, reply, places = records(definition)
    message[0] = (a, b, c, d)
    assert native(definition)(*places) == 1
    with np.errstate(divide="ignore"):
        assert reply["real"] == np.float64(a) / b
    assert reply["whole"] == c // d


def test_buffers_come_as_arrays_of_their_shape(native):
    weights = np.arange(8.0).reshape(4, 2)
    uses = np.zeros(4, np.int64)
    buffers = {"weights": UnifiedBuffer(weights.shape, weights.dtype), "uses": UnifiedBuffer(uses.shape, uses.dtype)}
    definition = ring_kernel("weigh", backend="cpu", buffers=buffers)(steps.weigh)
    _, message, reply, places = records(definition)
    message[0] = (2, 10.0)
    assert native(definition)(*places, weights.ctypes.data, uses.ctypes.data) == 1
    assert reply["value"] == 10.0 * weights[2, 0] + weights[2, 1]
    assert uses.tolist() == [0, 0, 1, 0]


def answers_with_a_number(state: None, msg: steps.Number, out: steps.Number) -> bool:
    return msg.n


def answers_now_and_then(state: None, msg: steps.Number, out: steps.Number) -> bool:
    if msg.n > 0:
        return True


def answers_by_a_helper(state: None, msg: steps.Number, out: steps.Number) -> bool:
    return is_big(msg.n)


def is_big(n):
    if n > 10:
        return n > 20


def answers_never(state: None, msg: steps.Number, out: steps.Number) -> bool:
    return None


@pytest.mark.parametrize(
    ("step", "answers"),
    [
        (steps.even, {2: 1, 3: 0}),
        (answers_with_a_number, {0: 0, 256: 1, -1: 1}),
        (answers_now_and_then, {-1: 0, 1: 1}),
        (answers_by_a_helper, {1: 0, 15: 0, 25: 1}),
        (answers_never, {1: 0}),
    ],
)
def test_whether_a_reply_is_sent_is_what_the_step_says(native, step, answers):
    definition = ring_kernel("answers", backend="cpu")(step)
    attempted = native(definition)
    _, message, _, places = records(definition)
    for n, answer in answers.items():
        message["n"] = n
        assert attempted(*places) == answer, n


def test_an_index_out_of_bounds_is_a_failed_attempt_where_that_is_wanted(native):
    definition = ring_kernel("pick", backend="cpu", boundscheck=True)(steps.pick)
    attempted = native(definition)
    state, message, reply, places = records(definition)
    state["count"] = np.arange(16)
    for n in (0, 15, -1, -16):
        message["n"] = n
        assert attempted(*places) == 1
        assert reply["n"] == state["count"][0, n]
    for n in (16, -17, 10**12):
        message["n"] = n
        assert attempted(*places) == -1, n


def pick_by_a_helper(state: steps.SensorState, msg: steps.Number, out: steps.Number) -> bool:
    out.n = counted(state, msg.n)
    return True


def counted(state, n):
    return state.count[n]


def test_so_is_one_in_a_function_that_the_step_calls(native):
    definition = ring_kernel("pick", backend="cpu", boundscheck=True)(pick_by_a_helper)
    attempted = native(definition)
    _, message, _, places = records(definition)
    for n, answer in ((15, 1), (16, -1)):
        message["n"] = n
        assert attempted(*places) == answer


def test_and_one_of_a_buffer(native):
    buffers = {"weights": UnifiedBuffer((4, 2), np.float64), "uses": UnifiedBuffer((4,), np.int64)}
    definition = ring_kernel("weigh", backend="cpu", buffers=buffers, boundscheck=True)(steps.weigh)
    attempted = native(definition)
    _, message, _, places = records(definition)
    weights, uses = np.zeros((4, 2)), np.zeros(4, np.int64)
    for sensor, answer in ((3, 1), (4, -1)):
        message["sensor"] = sensor
        assert attempted(*places, weights.ctypes.data, uses.ctypes.data) == answer
    assert uses.tolist() == [0, 0, 0, 1]


def copies_a_part(state: steps.SensorState, msg: steps.Number, out: steps.Number) -> bool:
    state.total[: msg.n] = state.total[8:12]
    return True


def test_any_error_is_a_failed_attempt_and_goes_no_further(native):
    definition = ring_kernel("part", backend="cpu")(copies_a_part)
    attempted = native(definition)
    state, message, _, places = records(definition)
    state["total"] = np.arange(16)
    for n, answer in ((4, 1), (5, -1), (3, -1), (4, 1)):  # it raises a ValueError where the lengths differ
        message["n"] = n
        assert attempted(*places) == answer, n
    assert state["total"][0, :5].tolist() == [8, 9, 10, 11, 4]


SLICES = [
    *(
        "x[1:] = y[:-1]",
        "x[:] = y",
        "x[:4] = y[4:]",
        "x[::2] = y[1::2]",
        "x[::-1] = y",
        "x[2:7] = y[:5]",
        "x[:0] = y[:0]",
    ),
    *("x[:-1] = x[1:]", "x[1:] = x[:-1]", "x[3:] = x[:-3]", "x[:-3] = x[3:]", "x[::2] = x[1::2]", "x[:] = x"),
    *("x[:] = 3", "x[2:4] = 7.5", "x[:] = y[2:3]", "x[:] = x[:1]", "x[n:] = x[:-n]", "x[:n] = whole[:n]"),
    *("g[:] = h", "g[0] = h[1]", "g[1, :] = h[0]", "g[:, 0] = h[:, 1]", "g[0, 1:] = g[0, :2]", "g[0, :2] = g[0, 1:]"),
    *("g[1] = g[0]", "g[:, 1:] = g[:, :-1]", "g[:, :-1] = g[:, 1:]", "g[:] = g[1]", "g[:] = y[:3]", "g[...] = h"),
    *("g[:] = h[:, :1]", "g[:] = h[1:]", "g[:, 2] = y[:2]", "whole[:] = y", "y2 = x[2:5]; y2[:2] = y[:2]"),
]


@message
class Arrays:
    x: Annotated[NDArray[np.float64], Shape(8)]
    g: Annotated[NDArray[np.float32], Shape(2, 3)]
    whole: Annotated[NDArray[np.int32], Shape(8)]
    n: np.int64


class ArrayState(Record):
    y: Annotated[NDArray[np.float64], Shape(8)]
    h: Annotated[NDArray[np.float32], Shape(2, 3)]


def slicing(line):
    """A step that does this with its arrays, and the same for arrays of NumPy."""
    fields = "x, g, whole, n, y, h = out.x, out.g, out.whole, msg.n, state.y, state.h"
    scope = {}
    exec(f"def step(state, msg, out):\n    {fields}\n    {line}\n    return True", scope)
    step = scope["step"]
    step.__annotations__ = {"state": ArrayState, "msg": Arrays, "out": Arrays, "return": bool}
    return step


def filled(definition):
    state, message, reply, places = records(definition)
    for array in (state, reply):
        for i, name in enumerate(array.dtype.names):
            array[name] = np.arange(array[name].size).reshape(array[name].shape) + 100 * i
    message["n"] = 3
    return state, message, reply, places


@pytest.mark.parametrize("line", SLICES)
def test_arrays_are_assigned_without_memory_for_a_copy(native, line):
    definition = ring_kernel("slices", backend="interpreted")(slicing(line))
    state, _, reply, places = filled(definition)
    expected = filled(definition)[2]
    with np.errstate(all="ignore"):
        names = {"y": state["y"][0], "h": state["h"][0], "n": 3}
        exec(line, names | {name: expected[name][0] for name in ("x", "g", "whole")})
    assert native(definition)(*places) == 1
    assert reply.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "line",
    [
        "x[:n] = y",
        "g[:] = y[:2]",
        "x[:2] = y[:n]",
        "x[::-1] = x",
        "x[:4] = x[::2]",
        "g[:, :2] = g[0, 1:]",
        "g[:] = g[:, 1:2]",
    ],
)
def test_what_does_not_fit_or_has_no_right_order_is_a_failed_attempt(native, line):
    definition = ring_kernel("slices", backend="interpreted")(slicing(line))
    assert native(definition)(*filled(definition)[-1]) == -1
