"""Steps to machine code for a GPU: what is compiled, what is said when it cannot be, and what is kept on disk."""

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, Shape, UnifiedBuffer, ring_kernel
from pydotcompute.device import cache, cuda_compiler, toolkit
from pydotcompute.exceptions import BackendUnavailableError, StepError
from pydotcompute.messages import layout
from tests.device import steps

pytestmark = [pytest.mark.needs_numba, pytest.mark.needs_cuda_compiler]


@pytest.fixture(autouse=True)
def numba_cuda():
    """Loaded, which gives warnings that are not ours."""
    assert cuda_compiler.compiler_missing() is None


ARCHITECTURES = ["sm_75", "sm_80", "sm_90"]

EXAMPLES = [
    *(steps.echo, steps.count, steps.tally, steps.double, steps.increment, steps.even, steps.first, steps.second),
    *(steps.spin, steps.divide, steps.agree, steps.listen, steps.stats, steps.amplify, steps.weigh, steps.pick),
    *(steps.copy_everything, steps.sparse, steps.block),
]
"""The steps that the tests of all backends share."""


def definition_of(step, **options):
    if step is steps.weigh:
        options["buffers"] = {
            "weights": UnifiedBuffer((16, 2), np.float64),
            "uses": UnifiedBuffer((16,), np.int64),
        }
    return ring_kernel(step.__name__, backend="cpu", **options)(step)


def loop_around(definition):
    """The smallest loop: one thread waits for a word, runs the step once and says so."""
    names = {}
    given = []
    classes = (definition.state_type, definition.message_type, definition.reply_type)
    for i, cls in enumerate(classes):
        if cls is not None:
            names[f"RECORD_{i}"] = layout(cls).dtype
        given.append(f"record_at(RECORD_{i}, get(kernel, {i}))" if cls is not None else "None")
    for i, buffer in enumerate(definition.buffers.values()):
        names |= {f"DTYPE_{i}": buffer.dtype, f"SHAPE_{i}": buffer.shape}
        given.append(f"array_at(DTYPE_{i}, SHAPE_{i}, get(kernel, {3 + i}))")
    source = f"""
@inside
def handled(kernel):
    return attempt(step, {", ".join(given)})


def entry(kernel, turn):
    while acquire_sys(kernel, 10) != turn:
        nap(1000)
    release_sys(kernel, 11, handled(kernel))
"""
    return source, names


def compiled(definition, arch="sm_90"):
    return cuda_compiler.compiled(definition, *loop_around(definition), arch)


def is_sound(binary):
    """What no step may come to: a GPU could stop in it, or would be slow."""
    assert "ld.acquire.sys" in binary.ptx
    assert "st.release.sys" in binary.ptx
    assert not re.search(r"\b(trap|brkpt|exit|vprintf|malloc|free|__assertfail)\b", binary.ptx)
    assert ".nc." not in binary.ptx  # a read that need not see what other threads write
    assert (binary.spilled, binary.local) == (0, 0)
    assert f".target {binary.arch}" in binary.ptx
    assert binary.cubin.startswith(b"\x7fELF")
    assert binary.name.encode() in binary.cubin
    return True


# -- what is compiled --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", EXAMPLES, ids=lambda step: step.__name__)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_example_becomes_machine_code_that_never_stops_a_gpu(step, arch):
    binary = compiled(definition_of(step), arch)
    assert is_sound(binary)
    assert binary.arch == arch
    assert 0 < binary.registers < 255  # which is all that there are
    assert binary.name == f"{step.__name__}_ring_kernel"


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("step", "options"),
    [
        (steps.tally, {}),
        (steps.stats, {"instances": 4, "key": "sensor", "boundscheck": True}),
        (steps.block, {"threads": 1024, "instances": 2}),
    ],
    ids=["alone", "by key", "threads"],
)
def test_so_does_the_loop_around_them(step, options, arch):
    from pydotcompute.device import cuda

    assert is_sound(cuda.compiled(definition_of(step, **options), arch))


@pytest.mark.parametrize(
    "step",
    [steps.agree, steps.copy_everything, steps.spin, steps.weigh],
    ids=lambda step: step.__name__,
)
def test_and_the_loop_around_larger_ones(step):
    from pydotcompute.device import cuda

    assert is_sound(cuda.compiled(definition_of(step), "sm_90"))


def test_registers_suffice_for_the_threads_of_a_block():
    definition = definition_of(steps.divide)
    source, names = loop_around(definition)
    for threads, wanted in (({}, 32), ({"THREADS": 1}, 32), ({"THREADS": 1024}, 1024)):
        binary = cuda_compiler.compiled(definition, source, names | threads, "sm_90")
        assert re.search(rf"\.maxntid {wanted}, 1, 1\b", binary.ptx)
    assert binary.registers * 1024 <= 65_536  # the registers of a multiprocessor, by the CUDA C++ Programming Guide


SHARING = """
def entry(kernel, turn):
    array = cuda.shared.array(64, DTYPE)
    array[thread_index()] = turn
    sync()
    put(kernel, 0, array[0])
    release_sys(kernel, 1, acquire_sys(kernel, 2))
"""


def test_it_says_how_much_shared_memory_a_block_takes():
    from numba import cuda

    binary = cuda_compiler.compiled(
        definition_of(steps.echo), SHARING, {"cuda": cuda, "DTYPE": np.dtype(np.int64)}, "sm_80"
    )
    assert binary.shared == 64 * 8


STACKED = """
def entry(kernel, turn):
    array = cuda.local.array(64, DTYPE)
    for i in range(64):
        array[i] = get(kernel, i)
    put(kernel, 0, array[turn & 63])
"""


def test_it_says_how_much_of_its_own_memory_a_thread_takes():
    from numba import cuda

    binary = cuda_compiler.compiled(
        definition_of(steps.echo), STACKED, {"cuda": cuda, "DTYPE": np.dtype(np.int64)}, "sm_80"
    )
    assert binary.local == 64 * 8


CROWDED = """
def entry(kernel, turn):
{reads}
    sync()
{writes}
"""


def test_it_says_what_does_not_fit_into_the_registers():
    reads = "\n".join(f"    x{i} = get(kernel, {i})" for i in range(80))
    writes = "\n".join(f"    put(kernel, {i}, x{i} * x{(i + 1) % 80})" for i in range(80))
    source = CROWDED.format(reads=reads, writes=writes)
    roomy, crowded = (
        cuda_compiler.compiled(definition_of(steps.echo), source, {"THREADS": threads}, "sm_90")
        for threads in (32, 1024)
    )
    assert roomy.spilled == 0
    assert roomy.registers > 160
    assert crowded.registers <= 64
    assert crowded.spilled >= 2 * 8 * 40


def test_an_index_is_looked_at_only_where_that_is_wanted():
    plain, checked = (compiled(definition_of(steps.pick, boundscheck=wanted)).ptx for wanted in (False, True))
    assert plain.count("setp.") < checked.count("setp.")
    assert compiled(definition_of(steps.pick)).ptx == plain  # nothing of the check is left over


def test_helpers_under_numba_are_compiled_anew_for_a_gpu():
    from numba import njit

    halved = njit(fastmath=True)(lambda x: x / 2.0)

    def halve(state: None, msg: steps.Sample, out: steps.Sample) -> bool:
        out.value = halved(msg.value)
        return True

    assert is_sound(compiled(definition_of(halve)))


class Window(Record):
    values: Annotated[NDArray[np.float64], Shape(16)]


def slide(state: Window, msg: steps.Sample, out: steps.Sample) -> bool:
    state.values[:-1] = state.values[1:]
    state.values[-1] = msg.value
    out.value = state.values.mean()
    return True


def test_arrays_are_assigned_without_memory():
    assert is_sound(compiled(definition_of(slide)))


def test_several_threads_compile_at_a_time():
    definitions = [definition_of(step) for step in (steps.double, steps.increment)]
    found = {}

    def run(i):
        found[i] = compiled(definitions[i % 2], ARCHITECTURES[i % 3])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i].arch for i in range(6)] == ARCHITECTURES * 2
    assert {found[i].name for i in range(6)} == {"double_ring_kernel", "increment_ring_kernel"}


def test_other_threads_are_told_of_no_device_that_is_not_there(monkeypatch):
    from numba.cuda import dispatcher

    monkeypatch.setattr(dispatcher, "get_current_device", lambda: "the real one")
    seen = []
    with cuda_compiler._as_on("sm_75"):
        assert dispatcher.get_current_device().compute_capability == (7, 5)
        thread = threading.Thread(target=lambda: seen.append(dispatcher.get_current_device()))
        thread.start()
        thread.join()
    assert seen == ["the real one"]
    assert dispatcher.get_current_device() == "the real one"


ALONE = """
import asyncio, sys
from pydotcompute import RingKernelRuntime, ring_kernel
from tests.device import steps

async def main():
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch(ring_kernel("d", backend="cpu")(steps.double))
        await kernel.activate()
        print(await kernel.ask(steps.Number(21)))

asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith(("numba.cuda", "numba_cuda", "cuda", "cupy"))))
"""


def test_who_stays_on_the_cpu_loads_nothing_of_it():
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-W", "error", "-c", ALONE], cwd=root, capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == ["Number(n=42)", "[]"], run.stderr


# -- what is kept on disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def compilations(monkeypatch):
    """The architectures that were really compiled for."""
    made = cuda_compiler._made
    found = []

    def note(definition, source, namespace, arch):
        found.append(arch)
        return made(definition, source, namespace, arch)

    monkeypatch.setattr(cuda_compiler, "_made", note)
    return found


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """An empty folder of compiled steps."""
    monkeypatch.setenv("PYDOTCOMPUTE_CACHE_DIR", str(tmp_path))
    return tmp_path / "steps"


def test_what_was_compiled_once_is_there_for_each_architecture(folder, compilations):
    first = [compiled(definition_of(steps.double), arch) for arch in ("sm_80", "sm_90")]
    again = [compiled(definition_of(steps.double), arch) for arch in ("sm_80", "sm_90")]
    assert again == first
    assert compilations == ["sm_80", "sm_90"]


def test_another_step_loop_name_or_option_is_compiled_anew(folder, compilations):
    definition = definition_of(steps.double)
    source, names = loop_around(definition)
    for known in ((source, names), (source + "\n", names), (source, names | {"THREADS": 64})):
        cuda_compiler.compiled(definition, *known, "sm_90")
    compiled(definition_of(steps.increment))
    compiled(definition_of(steps.double, boundscheck=True))
    assert len(compilations) == 5


def test_so_it_is_with_another_toolkit(folder, compilations, monkeypatch):
    compiled(definition_of(steps.double))
    monkeypatch.setattr(cuda_compiler, "_versions", lambda: "newer")
    compiled(definition_of(steps.double))
    assert len(compilations) == 2


@pytest.mark.parametrize("file", ["step.cubin", "step.ptx", "about.json"])
def test_a_damaged_file_is_replaced(folder, compilations, file):
    good = compiled(definition_of(steps.double))
    (damaged,) = folder.rglob(file)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert compiled(definition_of(steps.double)) == good
    assert compiled(definition_of(steps.double)) == good
    assert len(compilations) == 2


def test_those_that_were_used_last_stay(folder, compilations, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 2)
    for arch in ARCHITECTURES:
        compiled(definition_of(steps.double), arch)
    assert len(list(folder.glob("*"))) == 2
    compiled(definition_of(steps.double), "sm_90")
    compiled(definition_of(steps.double), "sm_75")
    assert compilations == [*ARCHITECTURES, "sm_75"]


def test_it_is_compiled_where_nothing_can_be_kept(monkeypatch, compilations):
    monkeypatch.setattr(cache, "_places", lambda: iter(()))
    assert compiled(definition_of(steps.double)).name == "double_ring_kernel"
    assert len(compilations) == 1


# -- what is said ------------------------------------------------------------------------------------------------------


def line_of(text):
    lines = Path(__file__).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.strip().endswith(text))


def takes_too_many(n):
    return n


def calls_wrongly(state: None, msg: steps.Number, out: steps.Number) -> bool:
    out.n = takes_too_many(msg.n, 2)  # wrong for both
    return True


def test_an_error_of_types_shows_the_line():
    with pytest.raises(StepError) as caught:
        compiled(definition_of(calls_wrongly))
    told = str(caught.value)
    assert told.startswith(f"{__file__}, line {line_of('# wrong for both')}: ")
    assert "out.n = takes_too_many(msg.n, 2)" in told


def test_so_does_one_that_only_this_compiler_finds(monkeypatch):
    from pydotcompute.device import compiler

    monkeypatch.setattr(compiler, "typed_check", lambda definition: None)
    with pytest.raises(StepError) as caught:
        compiled(definition_of(calls_wrongly))
    assert str(caught.value).startswith(f"{__file__}, line {line_of('# wrong for both')}: ")
    assert "takes_too_many" in caught.value.details or "too many" in str(caught.value)


TABLE = np.zeros(10_000)


def looks_up(state: None, msg: steps.Sample, out: steps.Sample) -> bool:
    out.value = TABLE[msg.sensor]
    return True


def test_arrays_from_outside_are_small_on_a_gpu():
    with pytest.raises(StepError, match=r"64 KB.*buffers=") as caught:
        compiled(definition_of(looks_up))
    assert f"{__file__}, line" in str(caught.value)


@pytest.mark.parametrize("arch", ["sm_42", "sm_70", "compute_90", "H200", ""])
def test_an_unknown_architecture_is_refused_with_those_there_are(arch):
    with pytest.raises(BackendUnavailableError, match=r"sm_75, sm_80.* sm_90"):
        compiled(definition_of(steps.double), arch)


@pytest.fixture
def asked_anew():
    cuda_compiler.compiler_missing.cache_clear()
    yield
    cuda_compiler.compiler_missing.cache_clear()


def test_the_compiler_is_there(asked_anew):
    assert cuda_compiler.compiler_missing() is None


def test_without_numba_cuda_it_says_what_to_install(asked_anew, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    missing = cuda_compiler.compiler_missing()
    assert missing.startswith("numba-cuda is not installed")
    assert toolkit.PACKAGES in missing
    with pytest.raises(BackendUnavailableError, match=r"cuda-toolkit\[cccl,cudart,nvrtc,nvvm\]==13\.0"):
        compiled(definition_of(steps.double))


def test_without_the_toolkit_it_says_what_to_install(asked_anew, monkeypatch):
    def versions():
        raise RuntimeError("libnvvm.so is nowhere")

    monkeypatch.setattr(cuda_compiler, "_versions", versions)
    missing = cuda_compiler.compiler_missing()
    assert "libnvvm.so is nowhere" in missing
    assert toolkit.PACKAGES in missing


def test_parts_that_do_not_fit_are_named(asked_anew, monkeypatch):
    monkeypatch.setattr(toolkit, "versions", lambda: {"nvvm": "13.5.1", "nvjitlink": "13.0.88"})
    missing = cuda_compiler.compiler_missing()
    assert "13.5.1" in missing
    assert toolkit.PACKAGES in missing


def test_where_they_come_without_a_version_the_linker_tells():
    definition = definition_of(steps.double)
    binary = compiled(definition)
    newer = re.sub(r"\.version \d+\.\d+", ".version 99.9", binary.ptx)
    with pytest.raises(BackendUnavailableError, match=r"do not fit together") as caught:
        cuda_compiler._linked(definition, newer, "sm_90")
    assert toolkit.PACKAGES in str(caught.value)


def test_other_faults_of_the_linker_are_told_as_they_are():
    definition = definition_of(steps.double)
    broken = compiled(definition).ptx.replace("ld.acquire", "ld.acquired")
    with pytest.raises(BackendUnavailableError, match=r"nvJitLink cannot .*acquired"):
        cuda_compiler._linked(definition, broken, "sm_90")


def test_a_simulated_gpu_needs_none(asked_anew):
    code = "from pydotcompute.device.cuda_compiler import compiler_missing; print(compiler_missing())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert "unset the environment variable NUMBA_ENABLE_CUDASIM" in run.stdout, run.stderr
