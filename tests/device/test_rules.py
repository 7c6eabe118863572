"""What a step must not do, found in its source."""

import math
import random
import time
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import Record, Shape, UnifiedBuffer, barrier, lane, message, width
from pydotcompute.device.rules import check_step
from pydotcompute.exceptions import StepError


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


class Color(IntEnum):
    RED = 1


@dataclass
class Definition:
    """What the rules ask of a definition."""

    body: Any
    message_type: Any = Sample
    reply_type: Any = Stats
    state_type: Any = State
    buffers: dict[str, Any] = field(default_factory=dict)
    boundscheck: bool = False
    key: str | None = None


def helper(a, b):
    return a + b


def loud_helper(x):
    print(x)  # the line
    return x


def calls_loud_helper(x):
    return loud_helper(x)


def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)


SCOPE = {
    "np": np,
    "math": math,
    "random": random,
    "time": time,
    "lane": lane,
    "width": width,
    "barrier": barrier,
    "Stats": Stats,
    "State": State,
    "Color": Color,
    "UnifiedBuffer": UnifiedBuffer,
    "sqrt": np.sqrt,
    "helper": helper,
    "loud_helper": loud_helper,
    "calls_loud_helper": calls_loud_helper,
    "factorial": factorial,
    "NAMES": ["a"],
    "LOOK": {1: 2},
    "LABEL": "x",
    "SETTINGS": SimpleNamespace(gain=2),
    "TABLE": np.arange(8.0),
    "GAIN": 2.0,
    "PAIR": (1, 2),
    "weights": UnifiedBuffer(3),
}


def step_of(file: Path, body: str, parameters: str = "state, msg, out") -> Any:
    """A step in a file of its own; its body begins in line 3."""
    source = f'def step({parameters}):\n    """A step."""\n{indent(body, "    ")}\n    return True\n'
    file.write_text(source)
    scope = dict(SCOPE)
    exec(compile(source, file, "exec"), scope)
    return scope["step"]


WRONG = [
    ("ctx.send(msg)", r"`\.send\(\)`.*fields of `out`.*return True"),
    ("out.mean = np.sqrt(msg.value)", r"`np.sqrt` .* math\.sqrt\(x\)"),
    ("out.mean = sqrt(msg.value)", r"math\.sqrt\(x\)"),
    ("out.mean = np.maximum(msg.value, 2)", r"max\(a, b\)"),
    ("out.mean = np.arctan2(msg.value, 2)", r"math\.atan2"),
    ("out.mean = np.zeros(3)[0]", r"array field of the state"),
    ("out.mean = np.random.rand()", r"np\.random\.rand"),
    ("print(msg.value)", r"print.*snapshot"),
    ("breakpoint()", r"interpreted"),
    ("import pdb", r"import it above"),
    ('out.mean = f"{msg.value}"', r"f-string.*numbers"),
    ('out.mean = "high"', r"'high': text"),
    ('return "done"', r"`return` of a text.*True"),
    ("values = [1, 2]", r"a list .*array field of the state"),
    ("values = {}", r"a dict .*array field of the state"),
    ("out.mean = [x for x in msg.xs][0]", r"a list comprehension"),
    ("out.mean = sum(x for x in msg.xs)", r"generator.*loop"),
    ("out.mean = sorted(msg.xs)[0]", r"`sorted\(\)`"),
    ("raise ValueError", r"`raise`.*return False"),
    ("assert msg.value", r"`assert`.*return False"),
    ("try:\n    out.mean = 1\nfinally:\n    out.mean = 2", r"`try`.*`if`"),
    ("with SETTINGS:\n    pass", r"`with`"),
    ("global GAIN", r"`global`.*state"),
    ("square = lambda x: x * x", r"`lambda`.*above"),
    ("def square(x):\n    return x * x", r"`def`.*above"),
    ("del msg", r"`del`"),
    ("yield msg", r"`yield`.*`return True`"),
    ("out.mean = (y := msg.value) + y", r"`:=`"),
    ("out.mean = helper(*msg.xs)", r"`\*`"),
    ("out.mean = msg.sensr", r"Sample has no field 'sensr'; did you mean 'sensor'\?"),
    ("out.mean = msg.pose.z", r"Pose has no field 'z'; it has: x, y"),
    ("out.average = 1", r"Stats has no field 'average'"),
    ("state.totl += 1", r"State has no field 'totl'; did you mean 'total'\?"),
    ("out.mean = msg['value']", r"write msg\.value"),
    ("out = Stats(1, 2.0)", r"`out\.sensor = \.\.\.`"),
    ("state = State()", r"`state\.count = \.\.\.`"),
    ("return Stats(1, 2.0)", r"makes no objects.*`out`"),
    ("msg.value = 3", r"stays as it came"),
    ("msg.xs[0] += 3", r"stays as it came"),
    ("TABLE[0] = 3", r"TABLE is a constant"),
    ("out.mean = NAMES[0]", r"`NAMES` is a list"),
    ("out.mean = LOOK[1]", r"`LOOK` is a dict"),
    ("out.mean = LABEL", r"`LABEL` is a text"),
    ("out.mean = SETTINGS.gain", r"`SETTINGS` is a SimpleNamespace"),
    ("out.mean = weights.host[0]", r"`weights` is a UnifiedBuffer.*buffers="),
    ("out.mean = time.time()", r"the time in a field of the message"),
    ("out.mean = random.random()", r"random numbers in the message"),
    ("out.mean = math.factorial(3)", r"math\.factorial"),
    ("out.mean = math.fmod(msg.value, 3)", r"math\.fmod"),
    ("out.mean = msg.value @ msg.value", r"`@` .*loop"),
    ("out.mean = math.sqr(3)", r"math has no 'sqr'"),
    ("out.mean = msg.xs.max()", r"max\(x\)"),
    ("out.mean = factorial(3)", r"factorial calls itself.*loop"),
]


@pytest.mark.parametrize(("body", "text"), WRONG, ids=[body.partition("\n")[0] for body, _ in WRONG])
def test_it_is_refused_with_its_line_and_what_to_write_instead(tmp_path, body, text):
    file = tmp_path / "steps.py"
    with pytest.raises(StepError, match=text) as caught:
        check_step(Definition(step_of(file, body)))
    told = str(caught.value)
    if "factorial calls itself" in told:
        assert "def factorial" in told or "return 1 if n < 2" in told
    else:
        assert told.startswith(f"{file}, line 3: ")
        assert told.endswith(f"\n    {body.splitlines()[0]}")


RIGHT = [
    "out.mean = np.float64(msg.value) + np.int32(3)",
    "out.ys[1:] = msg.xs[:-1]; out.mean = msg.xs[1:3].sum() + msg.xs.mean()",
    "for i, v in enumerate(msg.xs): out.mean += v * i",
    "out.mean = math.sqrt(abs(msg.value)) + np.pi + math.inf",
    "out.mean = helper(msg.value, GAIN) + PAIR[0] + TABLE[msg.sensor]",
    "out.mean, out.pose.x = msg.pose.x, 3",
    "out.mean = Color.RED if msg.sensor == Color.RED else max(msg.xs)",
    "state.window[:] = 0\nstate.count += 1",
    "for i in range(lane(), len(msg.xs), width()): out.ys[i] = msg.xs[i]\nbarrier()",
    '"""Text that does nothing."""',
    'n: "int" = 3\nout.mean = n',
    "if msg.value > 1:\n    return False",
    "out.mean = helper_that_comes_later(msg.value)",
    "x = msg.xs\nx = x[1:]\nout.mean = x[0]",
]


@pytest.mark.parametrize("body", RIGHT)
def test_what_a_gpu_can_do_is_let_pass(tmp_path, body):
    check_step(Definition(step_of(tmp_path / "steps.py", body)))


@pytest.mark.parametrize("called", ["loud_helper", "calls_loud_helper"])
def test_functions_that_the_step_calls_follow_the_same_rules(tmp_path, called):
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "print(x)  # the" in text)
    with pytest.raises(StepError, match=r"print") as caught:
        check_step(Definition(step_of(tmp_path / "steps.py", f"out.mean = {called}(msg.value)")))
    assert str(caught.value).startswith(f"{__file__}, line {line}: ")


def test_records_that_are_not_there_have_no_fields(tmp_path):
    step = step_of(tmp_path / "steps.py", "out.mean = 1")
    with pytest.raises(StepError, match=r"out is None, as its annotation says"):
        check_step(Definition(step, reply_type=None))


def test_parameters_may_have_names_of_their_own(tmp_path):
    step = step_of(tmp_path / "steps.py", "answer.mean = request.valu", "memory, request, answer")
    with pytest.raises(StepError, match=r"`request.valu`.*did you mean 'value'"):
        check_step(Definition(step))


@pytest.mark.parametrize("call", ["breakpoint()", "pdb.set_trace()"])
def test_only_the_interpreted_backend_stops_for_the_debugger(tmp_path, monkeypatch, call):
    import pdb

    monkeypatch.setitem(SCOPE, "pdb", pdb)
    step = step_of(tmp_path / "steps.py", call)
    check_step(Definition(step), interpreted=True)
    with pytest.raises(StepError, match=r"backend='interpreted'"):
        check_step(Definition(step))


def test_a_step_without_source_is_left_to_the_compiler():
    scope: dict[str, Any] = {}
    exec("def step(state, msg, out):\n    raise ValueError", scope)
    check_step(Definition(scope["step"]))


def test_a_file_that_was_edited_since_is_not_taken_for_the_source(tmp_path):
    file = tmp_path / "steps.py"
    step = step_of(file, "out.mean = 1")
    file.write_text("def another():\n    raise ValueError\n")
    check_step(Definition(step))


async def test_a_step_may_be_defined_in_a_running_loop(tmp_path):
    def step(state, msg, out):
        out.mean = np.sqrt(msg.value)

    with pytest.raises(StepError, match=r"math\.sqrt"):
        check_step(Definition(step))
