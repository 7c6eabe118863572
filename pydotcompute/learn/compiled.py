"""Exercises of the tutorial "Compiled ring kernels"."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..runtime import RingKernelRuntime
from . import Wrong, exercise
from ._trial import some_step, tried

_SAMPLE = """
        @message
        class Sample:
            station: np.int32
            hour: np.int32
            celsius: np.float64

"""


@exercise(
    "compiled.1",
    hints=(
        "A step is called once for each message: compare `msg.celsius` with 0, and add 1 where it is below.",
        "`state.hours[msg.station] += 1`; the step ends with `return False`, for it replies nothing.",
    ),
    solution=_SAMPLE
    + """
        class Frost(Record):
            hours: Annotated[NDArray[np.int64], Shape(3)]


        @ring_kernel
        def frost(state: Frost, msg: Sample, out: None) -> bool:
            if msg.celsius < 0:
                state.hours[msg.station] += 1
            return False
    """,
    after="Three counters in one array: a state has a fixed size, whatever comes.",
)
async def frost(runtime: RingKernelRuntime, frost: Any) -> None:
    """Counts, for each station, the hours below 0 °C."""
    step = some_step(frost, replies=False)
    random = np.random.default_rng(1)
    stations, celsius = random.integers(0, 3, 500), random.integers(-4, 7, 500) / 2.0
    _, state = await tried(runtime, step, station=stations, hour=np.arange(500), celsius=celsius)
    if not hasattr(state, "hours"):
        raise Wrong("Its state has no `hours`: annotate `state` with Frost.")
    for station in range(3):
        own = celsius[stations == station]
        below, zero, counted = np.sum(own < 0), np.sum(own == 0), state.hours[station]
        if counted == below + zero:
            raise Wrong(f"Station {station}: it counts {counted}, also the {zero} hours of exactly 0 °C.")
        if counted != below:
            raise Wrong(f"Station {station}: of {len(own)} hours, {below} were below 0 °C, and it counts {counted}.")


@exercise(
    "compiled.2",
    hints=(
        "Write round and round: `state.last[msg.station, state.seen[msg.station] % 24] = msg.celsius`.",
        "At first fewer than 24 have come: look at `min(seen, 24)` places, in a loop, and not at the zeros after them.",
    ),
    solution=_SAMPLE
    + """
        @message
        class Warmest:
            celsius: np.float64


        class Window(Record):
            seen: Annotated[NDArray[np.int64], Shape(3)]
            last: Annotated[NDArray[np.float64], Shape(3, 24)]


        @ring_kernel
        def warmest(state: Window, msg: Sample, out: Warmest) -> bool:
            state.last[msg.station, state.seen[msg.station] % 24] = msg.celsius
            state.seen[msg.station] += 1
            highest = msg.celsius
            for place in range(min(state.seen[msg.station], 24)):
                highest = max(highest, state.last[msg.station, place])
            out.celsius = highest
            return True
    """,
    after="Such an array is called a ring buffer: it is what the mailbox of a compiled ring kernel is made of, too.",
)
async def warmest(runtime: RingKernelRuntime, warmest: Any) -> None:
    """Replies with the highest of the last 24 readings of the station."""
    step = some_step(warmest, replies=True)
    random = np.random.default_rng(2)
    stations = random.integers(0, 3, 500)
    celsius = np.round(random.normal(-30, 8, 500), 1)  # below zero: a place not written yet is warmer than all
    replies, _ = await tried(runtime, step, station=stations, hour=np.arange(500), celsius=celsius)
    if len(replies) != 500:
        raise Wrong(f"It replied {len(replies)} times to 500 readings: return True for each.")
    for n in range(500):
        earlier = celsius[: n + 1][stations[: n + 1] == stations[n]]
        wanted, answer = earlier[-24:].max(), replies["celsius"][n]
        if answer != wanted:
            raise Wrong(
                f"At reading {len(earlier)} of station {stations[n]}, {celsius[n]} °C, the highest of its last "
                f"{min(len(earlier), 24)} was {wanted} °C, and not {answer:g} °C, as it replies."
            )


@exercise(
    "compiled.3",
    hints=(
        "A step that cannot reply returns False; do that before it changes its state.",
        "A list takes memory, which a step cannot allocate: two numbers have a mean without one.",
        "The first reading has none before it. `Before` can count: `if state.seen == 0: ...`",
    ),
    solution="""
        import math

"""
    + _SAMPLE
    + """
        @message
        class Smoothed:
            celsius: np.float64


        class Before(Record):
            seen: np.int64
            celsius: np.float64


        @ring_kernel
        def smooth(state: Before, msg: Sample, out: Smoothed) -> bool:
            if math.isnan(msg.celsius):
                return False
            if state.seen == 0:
                state.celsius = msg.celsius
            out.celsius = (state.celsius + msg.celsius) / 2
            state.celsius = msg.celsius
            state.seen += 1
            return True
    """,
    after="What was raised is now a message without a reply. If it has to be told, a field of the reply can do so.",
)
async def smooth(runtime: RingKernelRuntime, smooth: Any) -> None:
    """A step that was refused, repaired."""
    step = some_step(smooth, replies=True)
    random = np.random.default_rng(3)
    celsius = np.round(random.normal(12, 8, 200), 1)
    celsius[10::17] = np.nan
    replies, _ = await tried(runtime, step, station=0, hour=np.arange(200), celsius=celsius)
    numbers = celsius[~np.isnan(celsius)]
    if len(replies) == 200:
        raise Wrong("It replies to readings that are no number (NaN), too: `return False` sends no reply.")
    if len(replies) != len(numbers):
        raise Wrong(f"Of 200 readings {len(numbers)} were numbers, and it replied {len(replies)} times.")
    wanted = (np.concatenate([numbers[:1], numbers[:-1]]) + numbers) / 2
    answers = replies["celsius"]
    if abs(answers[0] - wanted[0]) > 1e-9:
        raise Wrong(
            f"The first reading, {numbers[0]} °C, has none before it and stays as it is, not {answers[0]:g} °C."
        )
    wrong = np.flatnonzero(~(np.abs(answers - wanted) < 1e-9))
    if len(wrong):
        n = wrong[0]
        raise Wrong(
            f"After {numbers[n - 1]} °C came {numbers[n]} °C (readings that are no number do not count): their mean is "
            f"{wanted[n]:.2f} °C, not {answers[n]:g} °C."
        )
