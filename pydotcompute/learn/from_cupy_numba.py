"""Exercises of the tutorial for who comes from CuPy and Numba."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import numpy as np

from ..messages import Record, message
from ..runtime import RingKernelRuntime, ring_kernel
from . import Wrong, exercise
from ._trial import launched, some_step, tried


@exercise(
    "from_cupy_numba.1",
    hints=(
        "The body of the loop is the step: `sensors[i]` is `msg.sensor`, `values[i]` is `msg.value`; `seen` and "
        "`highest` are fields of `state`.",
        "Where `out[n]` was written, fill in `out.sensor` and `out.value`, and return True; else return False.",
        "Count `state.seen[msg.sensor]` for each message, also for one that gets no reply.",
    ),
    solution="""
        @message
        class Sample:
            sensor: np.int32
            value: np.float64


        @message
        class Peak:
            sensor: np.int32
            value: np.float64


        class Highest(Record):
            seen: Annotated[NDArray[np.int64], Shape(64)]
            highest: Annotated[NDArray[np.float64], Shape(64)]


        @ring_kernel
        def peak(state: Highest, msg: Sample, out: Peak) -> bool:
            first = state.seen[msg.sensor] == 0
            state.seen[msg.sensor] += 1
            if not first and msg.value <= state.highest[msg.sensor]:
                return False
            state.highest[msg.sensor] = msg.value
            out.sensor, out.value = msg.sensor, msg.value
            return True
    """,
    after="The loop, the index and the count of what was filled are gone: the ring kernel does that.",
)
async def peak(runtime: RingKernelRuntime, peak: Any) -> None:
    """Replies to each value that is higher than all before it from its sensor."""
    step = some_step(peak, replies=True)
    random = np.random.default_rng(5)
    sensors = random.integers(0, 64, 600)
    values = np.round(random.normal(-20, 6, 600), 1)  # below zero: no state that is zero at first is a peak
    values[300:310], sensors[300:310] = values[300], sensors[300]  # equal ones
    highest: dict[int, float] = {}
    wanted: list[tuple[int, float]] = []
    equal = 0
    for sensor, value in zip(sensors.tolist(), values.tolist(), strict=True):
        equal += highest.get(sensor) == value
        if sensor not in highest or value > highest[sensor]:
            highest[sensor] = value
            wanted.append((sensor, value))
    replies, _ = await tried(runtime, step, sensor=sensors, value=values)
    if len(replies) == len(values):
        raise Wrong(f"It replies to all {len(values)} values: return False for one that is no peak.")
    if len(replies) == len(wanted) + equal:
        raise Wrong("It also replies to values that are equal to the highest one: a peak is higher.")
    if len(replies) != len(wanted):
        raise Wrong(
            f"{len(wanted)} of {len(values)} values, all below zero, were peaks, and it replied {len(replies)} times: "
            f"the first value of each sensor is one."
        )
    for n, ((sensor, value), reply) in enumerate(zip(wanted, replies, strict=True)):
        for name, one in (("sensor", sensor), ("value", value)):
            if reply[name] != one:
                raise Wrong(
                    f"Peak {n + 1} was {value} of sensor {sensor}, and its reply has `{name}` {reply[name]:g}, "
                    f"not {one:g}."
                )


@exercise(
    "from_cupy_numba.2",
    hints=(
        "`send_batch` is a launch: it comes back before the messages are handled.",
        "`synchronize` is `await runtime.wait_idle(kernel_id)`.",
        "`.get()` is `await runtime[kernel_id].snapshot()`.",
    ),
    solution="""
        async def collect(runtime, kernel_id, batches):
            for batch in batches:
                await runtime.send_batch(kernel_id, batch)
            await runtime.wait_idle(kernel_id)
            return await runtime[kernel_id].snapshot()
    """,
    after="`wait_idle` also takes several names, as you would wait for several streams.",
)
async def collect(runtime: RingKernelRuntime, collect: Any) -> None:
    """Sends batches, waits until they are handled, returns the state."""
    if not inspect.iscoroutinefunction(collect):
        raise Wrong("A coroutine is wanted: `async def collect(runtime, kernel_id, batches):`.")
    kernel = await launched(runtime, ring_kernel("adder of from_cupy_numba.2", backend="interpreted")(_add), "adder")
    batches = [np.zeros(size, Value.dtype) for size in (3, 40, 7)]  # type: ignore[attr-defined]
    for n, batch in enumerate(batches):
        batch["value"] = n + 1.0
    await kernel.deactivate()
    collecting = asyncio.ensure_future(collect(runtime, kernel.id, batches))
    done, _ = await asyncio.wait([collecting], timeout=0.2)
    await kernel.reactivate()
    state = await collecting
    if not hasattr(state, "total"):
        raise Wrong(f"It returns {state!r}, not the state of the ring kernel: `snapshot` makes a copy of that.")
    if done:
        raise Wrong(
            f"The ring kernel was paused, and it did not wait: it returned a state that knows of {state.count} of the "
            f"50 messages."
        )
    if state.count != 50:
        raise Wrong(f"Three batches had 50 messages, and the state that it returns knows of {state.count}.")


@message
class Value:
    """A number."""

    value: np.float64


class Total(Record):
    """Of what has come."""

    count: np.int64
    total: np.float64


def _add(state: Total, msg: Value, out: None) -> bool:
    state.count += 1
    state.total += msg.value
    return False


_CHOICES = {"call": "a call for each value", "launch": "one launch on an array", "ring": "a ring kernel"}
_REASONS = {
    "image": ("launch", "all of it is there already, as one array, and nothing else is coming."),
    "root": ("call", "each answer is needed before there is a next question: nothing can be gathered in a batch."),
    "meters": ("ring", "many send, whenever they like, to one state that outlives them."),
}


@exercise(
    "from_cupy_numba.3",
    hints=(
        "Ask of each: is the data there already? Does anybody else send? What has to be kept?",
        "Each of the three is right once.",
    ),
    solution="""
        image, root, meters = "launch", "call", "ring"
    """,
    after="What decides is where the values come from and who keeps what they leave, and not the arithmetic.",
)
def choose(image: Any, root: Any, meters: Any) -> None:
    """What suits."""
    for name, answer in (("image", image), ("root", root), ("meters", meters)):
        if answer not in list(_CHOICES):
            raise Wrong(f'{name}: "call", "launch" or "ring", not {answer!r}.')
        wanted, reason = _REASONS[name]
        if answer != wanted:
            raise Wrong(f"{name}: not {_CHOICES[answer]}; {reason}")
