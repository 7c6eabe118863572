"""Definitions of compiled ring kernels: what they take from a step, and what they say when it cannot be one."""

import functools
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import KernelContext, Record, Shape, UnifiedBuffer, message, ring_kernel
from pydotcompute.exceptions import BackendUnavailableError, DefinitionError
from pydotcompute.runtime import RingKernelDefinition, definitions
from pydotcompute.runtime.step import StepDefinition

interpreted = functools.partial(ring_kernel, backend="interpreted")


@message
class Sample:
    sensor: np.int32
    value: np.float64
    valid: bool = True


@message
class Stats:
    mean: np.float64


class Gain(Record):
    gain: np.float64 = 2.0
    used: np.int64


class Curve(Record):
    points: Annotated[NDArray[np.float64], Shape(4)]


class Plain:
    pass


def amplify(state: Gain, msg: Sample, out: Sample) -> bool:
    state.used += 1
    out.sensor = msg.sensor
    out.value = msg.value * state.gain
    return True


def stateless(state: None, msg: Sample, out: Stats) -> bool:
    out.mean = msg.value
    return True


def silent(state: None, msg: Sample, out: None) -> None:
    pass


def weigh(state: None, msg: Sample, out: Stats, weights, uses) -> bool:
    uses[msg.sensor] += 1
    out.mean = weights[msg.sensor] * msg.value
    return True


# -- what it knows -------------------------------------------------------------------------------------------------


def test_types_come_from_the_annotations():
    step = interpreted(amplify)
    assert isinstance(step, StepDefinition)
    assert isinstance(step, RingKernelDefinition)
    assert definitions() == {"amplify": step}
    assert (step.kernel_id, step.body, step.__name__) == ("amplify", amplify, "amplify")
    assert (step.message_type, step.reply_type, step.state_type) == (Sample, Sample, Gain)
    assert (step.input_types, step.output_types) == ((Sample,), (Sample,))
    assert (step.instances, step.key, step.buffers, step.boundscheck, step.quantum) == (1, None, {}, False, "auto")
    assert (step.threads, step.device) == (1, "auto")
    assert (step.queue_size, step.backpressure) == (1024, "block")
    assert step.backend == step.backend_name == "interpreted"
    assert step.origin == f"module {__name__}"


def test_annotations_may_be_texts_and_local_names():
    @message
    class Local:
        n: np.int64

    @interpreted()
    def step(state: "None", msg: "Local", out: "'Local'") -> "bool":
        return False

    assert (step.state_type, step.message_type, step.reply_type) == (None, Local, Local)


def test_a_step_may_keep_no_state_and_never_reply():
    step = interpreted(silent)
    assert (step.state_type, step.reply_type, step.output_types, step.initial()) == (None, None, (), None)


def test_types_may_be_given_beside_a_step_without_annotations():
    def bare(state, msg, out):
        return False

    step = interpreted(bare, input_type=Sample, output_type=Stats, state=Gain)
    assert (step.message_type, step.reply_type, step.state_type) == (Sample, Stats, Gain)
    assert interpreted("never", input_type=Sample, output_type=type(None), state=Gain)(bare).reply_type is None


@pytest.mark.parametrize(
    ("state", "gains"),
    [(None, [2.0] * 3), (Gain, [2.0] * 3), (Gain(gain=5.0), [5.0] * 3), (lambda: Gain(gain=7.0), [7.0] * 3)],
    ids=["annotation", "class", "object", "function"],
)
def test_every_instance_has_a_state_of_its_own(state, gains):
    step = interpreted(amplify, state=state, instances=3)
    states = step.initial()
    assert states.dtype == Gain.dtype
    assert states["gain"].tolist() == gains
    states["gain"] = 0
    assert step.initial()["gain"].tolist() == gains


def test_a_function_may_make_each_instance_another_state():
    gains = iter([0.0, 1.0, 2.0, 3.0])  # the first tells what class it makes
    step = interpreted(amplify, state=lambda: Gain(gain=next(gains)), instances=3)
    assert step.initial()["gain"].tolist() == [1.0, 2.0, 3.0]


def test_a_function_that_makes_another_class_later_is_told():
    made = iter([Gain(), Curve()])
    step = interpreted(amplify, state=lambda: next(made))
    with pytest.raises(DefinitionError, match=r"state= of 'amplify' must make a Gain each time; it made Curve\("):
        step.initial()


def test_buffers_come_in_the_order_of_the_parameters():
    uses, weights = UnifiedBuffer(4, np.int64), UnifiedBuffer(4)
    step = interpreted(weigh, buffers={"uses": uses, "weights": weights})
    assert list(step.buffers.items()) == [("weights", weights), ("uses", uses)]


def test_a_definition_can_be_called_to_test_its_step():
    step = interpreted(amplify)
    state, out = Gain(), Sample(0, 0.0)
    assert step(state, Sample(3, 4.0), out) is True
    assert (out, state.used) == (Sample(3, 8.0), 1)


@pytest.mark.parametrize(
    "options",
    [{"quantum": 2}, {"quantum": 0.5}, {"quantum": None}, {"quantum": "auto"}]
    + [{"threads": threads} for threads in (1, 32, 96, 1024)]
    + [{"device": device} for device in (0, 7, "auto")]
    + [{"boundscheck": True, "threads": 1}],
    ids=str,
)
def test_options_are_kept_as_they_were_given(options):
    step = interpreted(**options)(amplify)
    assert {name: getattr(step, name) for name in options} == options


def test_a_program_is_built_once(monkeypatch):
    step = interpreted(amplify)
    assert not step.is_built
    program = step.build()
    assert program.definition is step
    assert step.is_built
    assert step.build() is program


@pytest.mark.parametrize(
    ("options", "differences"),
    [
        ({}, []),
        ({"state": Gain(gain=1.0), "backpressure": "reject", "quantum": 0.1, "boundscheck": True}, []),
        ({"threads": 64, "quantum": None}, []),
        ({"queue_size": 7}, ["queue_size"]),
        ({"device": 1}, ["device"]),
        ({"instances": 2, "key": "sensor"}, ["instances", "key"]),
    ],
)
def test_definitions_whose_memory_differs_cannot_replace_one_another(options, differences):
    assert interpreted("one")(amplify).differences(interpreted("two", **options)(amplify)) == differences


def test_steps_whose_layouts_differ_cannot_replace_one_another():
    def other(state: Curve, msg: Stats, out: None) -> None:
        pass

    words = "the layout of its state", "the layout of its messages", "the layout of its replies"
    assert interpreted(amplify).differences(interpreted(other)) == list(words)
    buffers = {"uses": UnifiedBuffer(4, np.int64), "weights": UnifiedBuffer(4)}
    one = interpreted("one", buffers=buffers)(weigh)
    assert one.differences(interpreted("two", buffers=buffers | {"uses": UnifiedBuffer(4, np.int64)})(weigh)) == []
    assert one.differences(interpreted("three", buffers=buffers | {"uses": UnifiedBuffer(5, np.int64)})(weigh)) == [
        "buffers"
    ]


# -- what cannot be ------------------------------------------------------------------------------------------------


def two(state: None, msg: Sample) -> bool:
    return False


def five(state: None, msg: Sample, out: Stats, more, other) -> bool:
    return False


def default(state: None, msg: Sample, out: Stats = None) -> bool:
    return False


def arguments(state: None, msg: Sample, out: Stats, *more) -> bool:
    return False


def keyword(state: None, msg: Sample, *, out: Stats) -> bool:
    return False


def no_state(memory, msg: Sample, out: Stats) -> bool:
    return False


def no_message(state: None, sample, out: Stats) -> bool:
    return False


def no_reply(state: None, msg: Sample, answer) -> bool:
    return False


def union(state: None, msg: Sample | Stats, out: Stats) -> bool:
    return False


def context(ctx: KernelContext[Sample, Stats]) -> None:
    pass


def record(state: None, msg: Gain, out: Stats) -> bool:
    return False


def untyped(state: None, msg: Any, out: Stats) -> bool:
    return False


def number(state: None, msg: Sample, out: float) -> bool:
    return False


def plain_state(state: Plain, msg: Sample, out: Stats) -> bool:
    return False


def unknown(state: None, msg: "Sampel", out: Stats) -> bool:  # noqa: F821
    return False


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (two, r"def two\(state, msg, out\).*it has \(state, msg\)"),
        (five, r"one for each buffer.*it has \(state, msg, out, more, other\)"),
        (default, "none with a default"),
        (arguments, "one for each buffer"),
        (keyword, "three parameters"),
        (context, r"`async def context\(ctx\)`"),
        (no_state, "parameter 'memory' of 'no_state' has no annotation.*inherits from Record.*None.*state="),
        (no_message, "parameter 'sample' of 'no_message' has no annotation.*input_type="),
        (no_reply, "parameter 'answer' of 'no_reply' has no annotation.*or None.*output_type="),
        (union, "'msg' of 'union'.*@message, not .*Sample"),
        (record, "'msg' of 'record'.*@message, not Gain"),
        (untyped, "'msg' of 'untyped'.*@message, not .*Any"),
        (number, "'out' of 'number'.*or None.*@message, not float"),
        (plain_state, "state of 'plain_state'.*inherits from Record.*not Plain"),
        (unknown, "types of 'unknown' cannot be read.*Sampel"),
    ],
)
def test_a_function_that_is_no_step_is_told_what_one_is(step, text):
    with pytest.raises(DefinitionError, match=f"(?s){text}"):
        interpreted(step)
    assert definitions() == {}


@pytest.mark.parametrize(
    ("step", "options", "text"),
    [
        (amplify, {"state": Curve}, "Gain where parameter 'state' is annotated, but Curve by state="),
        (amplify, {"state": 3}, "Record.*not 3"),
        (amplify, {"state": Plain}, "Record.*not Plain"),
        (amplify, {"state": lambda: 3}, "Record.*not 3"),
        (amplify, {"state": lambda size: Gain()}, "without arguments"),
        (stateless, {"state": Gain}, "'stateless' has state=, but its parameter 'state' is annotated with None"),
        (stateless, {"instances": 0}, "instances of 'stateless'.*at least 1, not 0"),
        (stateless, {"instances": 2.0}, "instances.*not 2.0"),
        (stateless, {"instances": True}, "instances.*not True"),
        (stateless, {"instances": 2, "key": "sensr"}, r"integer field of Sample \(it has: 'sensor'\), not 'sensr'"),
        (stateless, {"instances": 2, "key": "value"}, "integer field.*not 'value'"),
        (stateless, {"instances": 2, "key": "valid"}, "integer field.*not 'valid'"),
        (stateless, {"key": "sensor"}, "chooses among instances: add instances="),
        (stateless, {"boundscheck": 1}, "boundscheck.*True or False, not 1"),
        (stateless, {"quantum": 0}, "quantum.*above 0, not 0"),
        (stateless, {"quantum": float("inf")}, "quantum.*not inf"),
        (stateless, {"quantum": "1"}, "quantum.*'auto', None or a number.*not '1'"),
        (stateless, {"quantum": True}, "quantum.*not True"),
        (stateless, {"threads": 0}, "threads of 'stateless' must be 1 or a multiple of 32 up to 1024.*not 0"),
        (stateless, {"threads": 2}, "threads.*not 2"),
        (stateless, {"threads": 33}, "threads.*not 33"),
        (stateless, {"threads": 1056}, "threads.*not 1056"),
        (stateless, {"threads": 32.0}, "threads.*not 32.0"),
        (stateless, {"threads": "auto"}, "threads.*not 'auto'"),
        (stateless, {"threads": 32, "boundscheck": True}, "boundscheck=True and threads=32.*threads=1"),
        (stateless, {"device": -1}, "device of 'stateless' must be 'auto' or the number of a GPU from 0 on, not -1"),
        (stateless, {"device": 1.0}, "device.*not 1.0"),
        (stateless, {"device": float("inf")}, "device.*not inf"),
        (stateless, {"device": True}, "device.*not True"),
        (stateless, {"device": "cuda:0"}, "device.*not 'cuda:0'"),
        (stateless, {"device": None}, "device.*not None"),
        (stateless, {"backend": "gpu"}, "no backend 'gpu'.*'interpreted'"),
        (stateless, {"backend": 3}, "backend.*not 3"),
        (stateless, {"queue_size": 0}, "queue_size of 'stateless'"),
        (stateless, {"backpressure": "wait"}, "block, reject, drop_oldest, drop_newest"),
        (stateless, {"kernel_id": ""}, "not empty"),
        (weigh, {}, "one for each buffer in buffers="),
        (weigh, {"buffers": {"weights": UnifiedBuffer(4)}}, "one for each buffer"),
        (weigh, {"buffers": {"weights": UnifiedBuffer(4), "use": UnifiedBuffer(4)}}, "under its name"),
        (weigh, {"buffers": {"weights": UnifiedBuffer(4), "uses": np.zeros(4)}}, "'uses'.*UnifiedBuffer.from_array"),
        (weigh, {"buffers": {"weights": UnifiedBuffer(4), "uses": [0, 0]}}, "'uses'.*UnifiedBuffer, not list"),
        (weigh, {"buffers": [UnifiedBuffer(4)]}, "buffers of 'weigh' must be a dict"),
    ],
)
def test_an_option_that_cannot_be_is_refused_where_it_is_written(step, options, text):
    with pytest.raises(DefinitionError, match=f"(?s){text}"):
        ring_kernel(**({"backend": "interpreted"} | options))(step)
    assert definitions() == {}


def test_a_field_without_a_fixed_size_is_named():
    @message
    class Named:
        name: str

    def greet(state: None, msg: Named, out: None) -> None:
        pass

    def answer(state: None, msg: Sample, out: Named) -> bool:
        return False

    for step in (greet, answer):
        with pytest.raises(DefinitionError, match=r"Named\.name: str has no fixed size"):
            interpreted(step)


def test_gpus_are_refused_with_what_to_use_instead():
    with pytest.raises(BackendUnavailableError, match="'cpu' or 'auto'"):
        ring_kernel(backend="cuda")(stateless)


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "interpreted"},
        {"instances": 2},
        {"key": "sensor"},
        {"buffers": {}},
        {"boundscheck": True},
        {"quantum": 1.0},
        {"threads": 32},
        {"device": 0},
    ],
)
def test_options_of_steps_are_refused_for_async_bodies(options):
    async def body(ctx): ...

    with pytest.raises(DefinitionError, match=f"{next(iter(options))}= is for compiled ring kernels"):
        ring_kernel(**options)(body)
    assert definitions() == {}
