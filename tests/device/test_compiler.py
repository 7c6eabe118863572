"""Steps to machine code: what is compiled, what is said when it cannot be, and what is kept on disk."""

import builtins
import math
import os
import re
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, Shape, UnifiedBuffer, barrier, lane, message, width
from pydotcompute.device import cache
from pydotcompute.device.cache import cached_module, fingerprint, is_cached
from pydotcompute.device.compiler import compiled, compiler_missing, device_function, typed_check
from pydotcompute.exceptions import StepError
from pydotcompute.messages import layout

needs_numba = pytest.mark.needs_numba


class Pose(Record):
    x: np.float64
    y: np.float64


@message
class Sample:
    sensor: np.int32
    value: np.float64
    xs: Annotated[NDArray[np.float64], Shape(8)]
    pose: Pose


@message
class Stats:
    sensor: np.int32
    mean: np.float64
    ys: Annotated[NDArray[np.float64], Shape(8)]
    pose: Pose


class State(Record):
    count: np.int64
    total: np.float64
    window: Annotated[NDArray[np.float64], Shape(8)]


@dataclass
class Definition:
    """What the compiler asks of a definition."""

    body: Any
    message_type: Any = Sample
    reply_type: Any = Stats
    state_type: Any = State
    buffers: dict[str, Any] = field(default_factory=dict)
    boundscheck: bool = False
    key: str | None = None


GAIN = 2.0
TABLE = np.arange(8.0)


def mean(total, n):
    return scaled(total) / n


def scaled(x):
    return math.sqrt(x * x) * GAIN


def stats(state, msg, out):
    state.count += width()
    state.total += msg.value
    barrier()
    out.sensor, out.mean = msg.sensor, mean(state.total, state.count) + lane()
    out.ys[1:] = msg.xs[:-1]
    out.ys[0] = msg.xs[1:3].sum()
    out.pose.x = np.float64(msg.pose.y)
    return True


def records() -> list[Any]:
    """A state, a message and a reply, each an array of one record."""
    state, msg, out = (np.zeros(1, layout(cls).dtype) for cls in (State, Sample, Stats))
    msg["sensor"], msg["value"], msg["xs"], msg["pose"]["y"] = 3, 8.0, np.arange(8), 5.0
    return [state, msg, out]


def step_of(body: str, file: Path | None = None, parameters: str = "state, msg, out", **names: Any) -> Any:
    """A step whose body begins in line 3; without a file it has no source."""
    source = f'def step({parameters}):\n    """A step."""\n{indent(body, "    ")}\n    return True\n'
    if file is not None:
        file.write_text(source)
    scope = {"np": np, "math": math, "GAIN": GAIN, "TABLE": TABLE, "scaled": scaled, "mean": mean, **names}
    exec(compile(source, file or "<string>", "exec"), scope)
    return scope["step"]


# -- what is compiled --------------------------------------------------------------------------------------------------


@needs_numba
def test_a_step_does_in_machine_code_what_it_does_in_python():
    native, plain = records(), records()
    step = device_function(Definition(stats))
    for value in (8.0, 4.0):
        native[1]["value"] = plain[1]["value"] = value
        assert step(*(array[0] for array in native)) is True
        with np.errstate(all="ignore"):
            stats(*(array.view(np.recarray)[0] for array in plain))
    for one, other in zip(native, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    assert native[2]["mean"][0] == 12.0


@needs_numba
def test_division_by_zero_is_no_exception_also_in_functions_of_numba():
    from numba import njit

    inverse = njit(lambda x: 1 / x)
    step = device_function(Definition(step_of("out.mean = inverse(msg.value) - 1 / state.count", inverse=inverse)))
    state, msg, out = records()
    msg["value"] = 0.0
    step(state[0], msg[0], out[0])
    assert math.isnan(out["mean"][0])


@needs_numba
def test_variables_of_an_enclosing_function_are_constants():
    factor = 3

    def multiply(x):
        return x * factor

    def step(state, msg, out):
        out.mean = multiply(msg.value) + factor
        return True

    state, msg, out = records()
    device_function(Definition(step))(state[0], msg[0], out[0])
    assert out["mean"][0] == 27.0


@needs_numba
def test_bounds_are_checked_where_it_is_asked_for():
    body = "out.mean = state.window[msg.sensor]"
    state, msg, out = records()
    msg["sensor"] = 8
    checked = device_function(Definition(step_of(body), boundscheck=True))
    with pytest.raises(IndexError):
        checked(state[0], msg[0], out[0])
    msg["sensor"] = -1
    state["window"][0, -1] = 4.0
    assert checked(state[0], msg[0], out[0])
    assert out["mean"][0] == 4.0


@needs_numba
def test_buffers_are_arrays_and_absent_records_are_none():
    weights = UnifiedBuffer((2, 3), np.float32)
    step = step_of("weights[1, 2] += msg.value", parameters="state, msg, out, weights")
    definition = Definition(step, state_type=None, reply_type=None, buffers={"weights": weights})
    function = device_function(definition)
    typed_check(definition, function)
    _, msg, _ = records()
    function(None, msg[0], None, weights.host)
    assert len(function.signatures) == 1
    assert weights.host[1, 2] == 8.0


# -- what is said when it cannot be ------------------------------------------------------------------------------------

WRONG = [
    ("state.total += msg", r"`\+=` cannot be done with float64 and Sample: use a field.*\.sensor"),
    ("out.mean = msg.value & 1", r"`&` cannot be done with float64 and 1"),
    ("out.mean = state.window", r"`Stats\.mean` is a float64, not an array of 8 float64: use one element"),
    ("out.mean = msg", r"not Sample: use a field"),
    ("out.mean = 1j", r"not complex128: use \.real"),
    ("out.mean = None", r"`Stats\.mean` is a float64, not None"),
    ("out.ys = 3.0", r"`Stats\.ys` is an array of 8 float64.*\.ys\[:\]"),
    ("out.ys = msg.xs[1:]", r"\.ys\[:\]"),
    ("out.pose = msg.pose", r"`Stats\.pose` is a Pose: set its fields"),
    ("out.ys[:] = msg.xs * 2", r"arithmetic with whole arrays.*loop"),
    ("out.ys += msg.xs", r"arithmetic with whole arrays.*loop"),
    ("if msg.xs > 0: return False", r"arithmetic with whole arrays"),
    ("out.ys[8] = 1", r"index 8 is out of bounds.*8 elements"),
    ("out.mean = msg.xs[-9]", r"index -9 is out of bounds"),
    ("out.mean = msg.xs[msg.value]", r"float64 cannot be an index.*int\(x\)"),
    ("out.mean = msg.value[0]", r"float64 has no elements"),
    ("for _ in range(msg.value): state.count += 1", r"range\(\) of float64.*int\(x\)"),
    ("a, b = msg.value", r"float64 cannot be taken apart"),
    ("out.mean = len(msg.value)", r"`len\(\)` cannot be done with float64"),
    ("out.mean = math.sqrt(msg.xs)", r"`sqrt\(\)` cannot be done with an array of 8 float64: use one element"),
    ("x = msg.xs if state.count else 1; out.mean = x", r"this expression is .* in one case and .* in another"),
    ("out.mean = msg.xs.foo", r"`\.foo`: an array of 8 float64 has no 'foo'"),
    ("out.mean = mean(msg.value)", r"missing a required argument: 'n'"),
    ("out.mean = missing + 1", r"'missing' is not defined"),
    ("out.mean = lane()", r"'lane' is not defined: write `from pydotcompute import lane`"),
    ("return msg.value", r"`return` of float64.*True"),
    ("return out", r"`return` of Stats.*True"),
    ("return 1, 2", r"`return` of a tuple.*True"),
    ("TABLE[msg.sensor] = 1", r"TABLE|constant"),
]


@needs_numba
@pytest.mark.parametrize(("body", "text"), WRONG, ids=[body for body, _ in WRONG])
def test_what_does_not_fit_is_told_with_its_line_and_what_to_write(tmp_path, body, text):
    file = tmp_path / "steps.py"
    with pytest.raises(StepError, match=text) as caught:
        typed_check(Definition(step_of(body, file)))
    error = caught.value
    assert str(error).startswith(f"{file}, line 3: ")
    assert str(error).endswith(f"\n    {body}")
    assert len(str(error).splitlines()) == 2
    assert "numba" not in str(error).lower()
    assert error.__cause__ is None
    assert error.__suppress_context__


@needs_numba
def test_a_fault_of_a_function_is_shown_there(tmp_path):
    file = tmp_path / "helpers.py"
    file.write_text("def twice(sample):\n    return sample.valu * 2\n")
    scope: dict[str, Any] = {}
    exec(compile(file.read_text(), file, "exec"), scope)
    with pytest.raises(StepError, match=r"no field 'valu'; did you mean 'value'") as caught:
        typed_check(Definition(step_of("out.mean = twice(msg)", tmp_path / "steps.py", **scope)))
    assert str(caught.value).startswith(f"{file}, line 2: ")


@needs_numba
def test_the_words_of_the_compiler_are_kept():
    with pytest.raises(StepError) as caught:
        typed_check(Definition(step_of("state.total += msg")))
    assert "No implementation of function" in caught.value.details


@needs_numba
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("raise ValueError", r"`raise`"),
        ("assert msg.value > 0", r"`assert`"),
        ("out.mean = np.sqrt(msg.value)", r"math\.sqrt"),
        ("out.mean = np.zeros(3)[0]", r"array field of the state"),
        ("out.mean = [msg.value, 2.0][0]", r"array field of the state"),
        ("out.mean = len('text')", r"text has no place"),
        ("out.mean = msg.sensr", r"'sensr'; did you mean 'sensor'"),
        ("return 'done'", r"text has no place|`return` of a text"),
    ],
)
def test_without_source_the_types_say_it(body, text):
    with pytest.raises(StepError, match=text):
        typed_check(Definition(step_of(body)))


@needs_numba
@pytest.mark.parametrize("body", ["return", "return None", "return 1", "return msg.value > 3", "pass"])
def test_a_step_returns_whether_it_replies(body):
    typed_check(Definition(step_of(body)))


def test_without_numba_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    missing = compiler_missing()
    assert missing is not None
    assert "pip install numba" in missing


def test_of_a_broken_numba_it_says_what_is_wrong(monkeypatch):
    plain = builtins.__import__

    def broken(name, *rest):
        if name == "numba":
            raise ImportError("Numba needs NumPy 2.9 or less")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    missing = compiler_missing()
    assert missing is not None
    assert "NumPy 2.9" in missing
    assert "pip install" in missing


@needs_numba
def test_where_numba_works_nothing_is_missing(monkeypatch):
    assert compiler_missing() is None
    from numba import config

    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    assert "NUMBA_DISABLE_JIT" in compiler_missing()


# -- what a step is known by -------------------------------------------------------------------------------------------


@needs_numba
def test_the_same_step_has_the_same_fingerprint_wherever_it_is_written(tmp_path):
    body = "out.mean = mean(msg.value, 2) + TABLE[1]"
    one, other = step_of(body, tmp_path / "one.py"), step_of(body, tmp_path / "other.py", TABLE=TABLE.copy())
    assert fingerprint(Definition(one)) == fingerprint(Definition(other)) is not None


BODY = "out.mean = other(msg.value) * GAIN + TABLE[1]"


def _other(factor):
    def other(x):
        return x * factor

    return other


def _with_default(factor):
    def other(x, by=factor):
        return x * by

    return other


class Wide(Record):
    count: np.int64
    total: np.float64
    window: Annotated[NDArray[np.float64], Shape(9)]


def named(change):
    """A change in words, which no address makes other ones in each process."""
    return re.sub(" at 0x[0-9a-f]+", "", str(change))


@needs_numba
@pytest.mark.parametrize(
    "change",
    [
        {"body": "out.mean = other(msg.value) * GAIN + TABLE[2]"},
        {"body": "out.mean = other(msg.pose.x) * GAIN + TABLE[1]"},
        {"GAIN": 3.0},
        {"GAIN": 2},
        {"GAIN": np.float32(2)},
        {"TABLE": np.arange(8.0) + 1},
        {"TABLE": np.arange(8)},
        {"other": _other(2)},
        {"other": _with_default(1)},
        {"other": lambda x: scaled(x)},
        {"state_type": Wide},
        {"reply_type": Sample},
        {"boundscheck": True},
        {"key": "sensor"},
        {"buffers": {"weights": UnifiedBuffer(3)}},
        {"extra": "more"},
    ],
    ids=named,
)
def test_whatever_changes_the_code_changes_the_fingerprint(change):
    def known_by(body=BODY, extra="", **change):
        names = {name: change.pop(name) for name in ("GAIN", "TABLE", "other") if name in change}
        return fingerprint(Definition(step_of(body, **{"other": _other(1), **names}), **change), extra)

    assert known_by() == known_by()
    assert known_by(**change) != known_by()


@needs_numba
def test_values_read_through_a_module_count_too():
    settings = ModuleType("settings")
    step = step_of("out.mean = settings.gain", settings=settings)
    settings.gain = 1  # type: ignore[attr-defined]
    before = fingerprint(Definition(step))
    settings.gain = 2  # type: ignore[attr-defined]
    assert fingerprint(Definition(step)) != before
    settings.unread = 3  # type: ignore[attr-defined]
    assert fingerprint(Definition(step)) == fingerprint(Definition(step))


@needs_numba
def test_functions_that_call_each_other_have_a_fingerprint():
    scope: dict[str, Any] = {}
    exec("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)", scope)
    step = step_of("return even(msg.sensor)", **scope)
    assert fingerprint(Definition(step)) == fingerprint(Definition(step))


@needs_numba
def test_a_value_without_hash_leaves_the_step_without_fingerprint():
    assert fingerprint(Definition(step_of("out.mean = thing", thing=object()))) is None


# -- what is kept on disk ----------------------------------------------------------------------------------------------

SOURCE = dedent(
    """
    @cfunc("float64(float64)", cache=CACHE)
    def run(x):
        return twice(x) + 1
    """
)


def run_module(key: str | None) -> ModuleType:
    from numba import cfunc, njit

    return cached_module(SOURCE, {"cfunc": cfunc, "twice": njit(lambda x: 2 * x)}, key)


def forget() -> None:
    """As in another process."""
    cache._modules.clear()


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("PYDOTCOMPUTE_CACHE_DIR", str(tmp_path))
    forget()
    return tmp_path / "steps"


@needs_numba
def test_what_was_compiled_is_found_again(directory):
    module = run_module("a" * 32)
    assert (module.run.ctypes(3.0), module.run.cache_hits) == (7.0, 0)
    assert run_module("a" * 32) is module
    forget()
    assert is_cached("a" * 32)
    again = run_module("a" * 32)
    assert (again.run.ctypes(3.0), again.run.cache_hits) == (7.0, 1)
    if os.name == "posix":
        assert stat.S_IMODE(directory.stat().st_mode) == stat.S_IMODE((directory / ("a" * 32)).stat().st_mode) == 0o700


@needs_numba
def test_a_cache_of_numbas_own_elsewhere_changes_nothing(directory, tmp_path, monkeypatch):
    from numba import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "elsewhere"))
    run_module("a" * 32)
    forget()
    assert run_module("a" * 32).run.cache_hits == 1
    assert not (tmp_path / "elsewhere").exists()
    assert str(tmp_path / "elsewhere") == config.CACHE_DIR


@needs_numba
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "lose"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_is_compiled_again(directory, damage, suffix):
    run_module("a" * 32)
    forget()
    (file,) = directory.rglob(f"*{suffix}")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 255
    file.write_bytes({"cut": data[: len(data) // 2], "flip": data}.get(damage, b""))
    if damage == "lose":
        file.unlink()
    assert not is_cached("a" * 32)
    module = run_module("a" * 32)
    assert (module.run.ctypes(3.0), module.run.cache_hits) == (7.0, 0)
    forget()
    assert run_module("a" * 32).run.cache_hits == 1


@needs_numba
def test_what_fails_to_compile_leaves_nothing(directory):
    for _ in range(2):
        with pytest.raises(NameError, match="nothing"):
            cached_module("nothing", {}, "b" * 32)
    assert list(directory.iterdir()) == []
    assert not [name for name in sys.modules if "b" * 32 in name]


@needs_numba
def test_without_a_key_nothing_is_kept(directory):
    assert run_module(None).run.ctypes(3.0) == 7.0
    assert not is_cached(None)
    assert not directory.exists()


@needs_numba
def test_a_directory_that_others_can_write_to_is_not_trusted(directory, tmp_path, monkeypatch):
    directory.mkdir()
    directory.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_module("a" * 32)
    assert list(directory.iterdir()) == []
    assert list((tmp_path / "home").rglob("seal"))


@needs_numba
def test_where_nothing_can_be_written_it_is_compiled_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    forget()
    for name in ("PYDOTCOMPUTE_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert run_module("a" * 32).run.ctypes(3.0) == 7.0


@needs_numba
def test_what_was_used_last_stays(directory, monkeypatch):
    monkeypatch.setattr(cache, "LIMIT", 2)
    for i, key in enumerate("abc"):
        run_module(key * 32)
        forget()
        if key == "b":  # `a` was made before `b`, and is used after it
            for known, at in (("b", 1), ("a", 2)):
                os.utime(directory / (known * 32), (at, at))
        assert len(list(directory.iterdir())) == min(i + 1, 2)
    assert {path.name[0] for path in directory.iterdir()} == {"a", "c"}


@needs_numba
def test_threads_may_compile_the_same_at_once(directory):
    found: list[ModuleType] = []
    threads = [threading.Thread(target=lambda: found.append(run_module("a" * 32))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(module) for module in found}) == 1


SCRIPT = """
import sys, numpy as np
from types import SimpleNamespace
from llvmlite import ir
from numba import carray, cfunc, types
from numba.extending import intrinsic
from pydotcompute import message
from pydotcompute.device.compiler import compiled
from pydotcompute.messages import layout

@message
class Number:
    n: np.int64

FACTOR = int(sys.argv[1])

def helper(x):
    return x * FACTOR

def step(state, msg, out):
    out.n = helper(msg.n)
    return True

@intrinsic
def pointer(context, address):
    return types.voidptr(types.int64), lambda c, b, s, a: b.inttoptr(a[0], ir.IntType(8).as_pointer())

SOURCE = '''
@cfunc("boolean(int64, int64)", cache=CACHE)
def run(message, reply):
    return step(None, carray(pointer(message), 1, NUMBER)[0], carray(pointer(reply), 1, NUMBER)[0])
'''
definition = SimpleNamespace(
    body=step, message_type=Number, reply_type=Number, state_type=None, buffers={}, boundscheck=False, key=None
)
dtype = layout(Number).dtype
names = {"cfunc": cfunc, "carray": carray, "pointer": pointer, "NUMBER": dtype}
module = compiled(definition, SOURCE, names)
message, reply = np.full(1, 7, np.int64), np.zeros(1, np.int64)
assert module.run.ctypes(message.ctypes.data, reply.ctypes.data)
print(reply[0], module.run.cache_hits)
"""


def _processes(arguments: list[str], directory: Path) -> list[str]:
    """What processes that run at the same time print."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "PYDOTCOMPUTE_CACHE_DIR": str(directory)}
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, argument], stdout=subprocess.PIPE, env=environment, text=True)
        for argument in arguments
    ]
    return [process.communicate(timeout=60)[0].strip() for process in running]


@needs_numba
def test_another_process_finds_the_step_as_long_as_it_is_the_same(tmp_path):
    assert _processes(["2", "2"], tmp_path)[0].split()[0] == "14"
    assert _processes(["2", "3"], tmp_path) == ["14 1", "21 0"]
    assert _processes(["3"], tmp_path) == ["21 1"]


@needs_numba
def test_a_step_is_checked_before_it_is_compiled(directory, tmp_path):
    step = step_of("out.mean = np.sqrt(msg.value)", tmp_path / "steps.py")
    with pytest.raises(StepError, match=r"math\.sqrt"):
        compiled(Definition(step), SOURCE, {})


@needs_numba
@pytest.mark.patience(120)  # two processes import Numba, and one compiles
def test_a_step_that_is_kept_is_found_when_its_module_has_another_name(tmp_path):
    source = """
import numpy as np
from pydotcompute import message, ring_kernel

@message
class Number:
    n: np.int64

def twice(n):
    return 2 * n

@ring_kernel(kernel_id="double", backend="cpu")
def double(state: None, msg: Number, out: Number) -> bool:
    out.n = twice(msg.n)
    return True
"""
    script = """
import asyncio, importlib, sys
module = importlib.import_module(sys.argv[1])
from pydotcompute import RingKernelRuntime

async def main():
    async with RingKernelRuntime() as runtime:
        await (await runtime.launch("double")).activate()
        print((await runtime.ask("double", module.Number(4), 20)).n)

asyncio.run(main())
"""
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))
    environment = {**os.environ, "PYTHONPATH": path, "PYDOTCOMPUTE_CACHE_DIR": str(tmp_path / "cache")}
    kept = []
    for name in ("kernels_of_mine", "renamed"):
        (tmp_path / f"{name}.py").write_text(source)
        ran = subprocess.run(
            [sys.executable, "-c", script, name], capture_output=True, env=environment, text=True, timeout=120
        )
        assert (ran.stdout, ran.stderr) == ("8\n", "")
        (tmp_path / f"{name}.py").unlink()
        kept.append(len(list((tmp_path / "cache" / "steps").iterdir())))
    assert kept[0] == kept[1]
