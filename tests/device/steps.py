"""Messages, states and steps of the ring kernels that the tests of all backends share."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from pydotcompute import KernelContext, Record, Shape, barrier, lane, message, width

CELLS = 64


@message
class Number:
    n: np.int64


@message
class Tagged:
    n: np.int64
    tag: np.int64


@message
class Rounds:
    n: np.int64


@message
class Fraction:
    a: np.float64
    b: np.float64
    c: np.int64
    d: np.int64


@message
class Quotients:
    real: np.float64
    whole: np.int64


class Point(Record):
    x: np.float32
    y: np.float64


@message
class Everything:
    flag: np.bool_
    i8: np.int8
    u8: np.uint8
    i16: np.int16
    u16: np.uint16
    i32: np.int32
    u32: np.uint32
    i64: np.int64
    u64: np.uint64
    f32: np.float32
    f64: np.float64
    c64: np.complex64
    c128: np.complex128
    truth: bool
    whole: int
    real: float
    turn: complex
    grid: Annotated[NDArray[np.float32], Shape(2, 3)]
    point: Point


@message
class Sample:
    sensor: np.int32
    value: np.float64


@message
class Stats:
    sensor: np.int32
    mean: np.float64


@message
class Block:
    lane: np.int64
    width: np.int64


class Tally(Record):
    """What a kernel has seen of a series of numbers that should be 0, 1, 2 ..."""

    handled: np.int64
    total: np.int64
    mixed: np.int64
    disorder: np.int64
    """How many did not follow on their predecessor."""
    last: np.int64 = -1


class Pair(Record):
    """Counted in every cell: between two messages they are all the same."""

    first: np.int64
    cells: Annotated[NDArray[np.int64], Shape(CELLS)]
    negative: np.int64


class Lines(Record):
    """The latest number of each producer, and how many came out of order."""

    last: Annotated[NDArray[np.int64], Shape(16)]
    handled: np.int64
    total: np.int64
    disorder: np.int64


class SensorState(Record):
    count: Annotated[NDArray[np.int64], Shape(16)]
    total: Annotated[NDArray[np.float64], Shape(16)]


class Gain(Record):
    gain: np.float64 = 2.0
    used: np.int64


MIX = 2_654_435_761


def note(state, n):
    """A helper that steps call: account for one number of a series."""
    if n != state.last + 1:
        state.disorder += 1
    state.last = n
    state.handled += 1
    state.total += n
    state.mixed ^= n * MIX


def tally_of(n: int) -> Tally:
    """What `note` leaves after the numbers from 0 to n - 1."""
    series = np.arange(n, dtype=np.int64)
    mixed = np.bitwise_xor.reduce(series * MIX) if n else 0
    return Tally(handled=n, total=series.sum(), mixed=mixed, last=n - 1)


# -- steps ---------------------------------------------------------------------------------------------------------


def echo(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return True


def count(state: Tally, msg: Number, out: None) -> None:
    note(state, msg.n)


def tally(state: Tally, msg: Number, out: Number) -> bool:
    note(state, msg.n)
    out.n = msg.n
    return True


def double(state: None, msg: Number, out: Number) -> bool:
    out.n = 2 * msg.n
    return True


def increment(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n + 1
    return True


def even(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return msg.n % 2 == 0


def first(state: Tally, msg: Number, out: Tagged) -> bool:
    note(state, msg.n)
    out.n = msg.n
    out.tag = 1
    return True


def second(state: Tally, msg: Number, out: Tagged) -> bool:
    note(state, msg.n)
    out.n = msg.n
    out.tag = 2
    return True


def spin(state: None, msg: Rounds, out: Number) -> bool:
    """Work that no compiler can leave out or shorten: each round needs the one before."""
    x = 1
    for _ in range(msg.n):
        x = (x * 1_103_515_245 + 12_345) % 2_147_483_648
    out.n = x
    return True


def divide(state: None, msg: Fraction, out: Quotients) -> bool:
    out.real = msg.a / msg.b
    out.whole = msg.c // msg.d
    return True


def agree(state: Pair, msg: Number, out: None) -> None:
    state.first += 1
    for i in range(len(state.cells)):
        state.cells[i] += 1
    state.negative -= 1


def listen(state: Lines, msg: Tagged, out: Tagged) -> bool:
    """`n` is a number of the producer `tag`, each of whose series begins with 1."""
    if msg.n != state.last[msg.tag] + 1:
        state.disorder += 1
    state.last[msg.tag] = msg.n
    state.handled += 1
    state.total += msg.n
    out.n = msg.n
    out.tag = msg.tag
    return True


def hand_over(state: None, msg: Tagged, out: Tagged) -> bool:
    out.n = msg.n
    out.tag = msg.tag
    return True


def stats(state: SensorState, msg: Sample, out: Stats) -> bool:
    i = msg.sensor
    state.count[i] += 1
    state.total[i] += msg.value
    out.sensor, out.mean = i, state.total[i] / state.count[i]
    return True


def amplify(state: Gain, msg: Sample, out: Sample) -> bool:
    state.used += 1
    out.sensor = msg.sensor
    out.value = msg.value * state.gain
    return True


def weigh(state: None, msg: Sample, out: Sample, weights, uses) -> bool:
    """`weights` has two dimensions; what was used is counted in `uses`."""
    uses[msg.sensor] += 1
    out.sensor = msg.sensor
    out.value = msg.value * weights[msg.sensor, 0] + weights[msg.sensor, 1]
    return True


def pick(state: SensorState, msg: Number, out: Number) -> bool:
    out.n = state.count[msg.n]
    return True


def copy_everything(state: None, msg: Everything, out: Everything) -> bool:
    out.flag = msg.flag
    out.i8 = msg.i8
    out.u8 = msg.u8
    out.i16 = msg.i16
    out.u16 = msg.u16
    out.i32 = msg.i32
    out.u32 = msg.u32
    out.i64 = msg.i64
    out.u64 = msg.u64
    out.f32 = msg.f32
    out.f64 = msg.f64
    out.c64 = msg.c64
    out.c128 = msg.c128
    out.truth = msg.truth
    out.whole = msg.whole
    out.real = msg.real
    out.turn = msg.turn
    for row in range(2):  # the compiler takes seconds for the assignment of whole arrays
        for column in range(3):
            out.grid[row, column] = msg.grid[row, column]
    out.point.x = msg.point.x
    out.point.y = msg.point.y
    return True


def sparse(state: None, msg: Number, out: Tagged) -> bool:
    """Writes a field of its reply only now and then."""
    out.n = msg.n
    if msg.n % 2 == 0:
        out.tag = 7
    return True


def block(state: None, msg: Number, out: Block) -> bool:
    barrier()
    out.lane = lane()
    out.width = width()
    return True


# -- bodies of async ring kernels that do the same -----------------------------------------------------------------


async def double_body(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(Number(2 * number.n))


async def increment_body(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(Number(number.n + 1))


async def echo_body(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(number)


# -- steps that no backend takes -----------------------------------------------------------------------------------


@message
class Named:
    name: str


class Loose:
    pass


def raises(state: None, msg: Number, out: Number) -> bool:
    if msg.n < 0:
        raise ValueError("negative")  # the line
    return True


def asserts(state: None, msg: Number, out: Number) -> bool:
    assert msg.n >= 0  # the line
    return True


def tries(state: None, msg: Number, out: Number) -> bool:
    try:  # the line
        out.n = msg.n
    finally:
        out.n = 0
    return True


def prints(state: None, msg: Number, out: Number) -> bool:
    print(msg.n)  # the line
    return True


def allocates(state: None, msg: Number, out: Number) -> bool:
    scratch = np.zeros(4)  # the line
    out.n = scratch[0]
    return True


def lists(state: None, msg: Number, out: Number) -> bool:
    scratch = [msg.n, 2]  # the line
    out.n = scratch[0]
    return True


def uses_np_sqrt(state: None, msg: Sample, out: Sample) -> bool:
    out.value = np.sqrt(msg.value)  # the line
    return True


def returns_text(state: None, msg: Number, out: Number) -> bool:
    out.n = msg.n
    return "done"  # the line


def _print_helper(n):
    print(n)  # the line


def calls_a_helper_that_prints(state: None, msg: Number, out: Number) -> bool:
    _print_helper(msg.n)
    return True


def two_parameters(state: None, msg: Number) -> bool:
    return False


def four_parameters(state: None, msg: Number, out: Number, more) -> bool:
    return False


def five_parameters(state: None, msg: Number, out: Number, more, still) -> bool:
    return False


def no_message_type(state: None, msg, out: Number) -> bool:
    return False


def no_reply_type(state: None, msg: Number, out) -> bool:
    return False


def unsized_message(state: None, msg: Named, out: Number) -> bool:
    return False


def unsized_reply(state: None, msg: Number, out: Named) -> bool:
    return False


def message_of_no_kind(state: None, msg: Loose, out: Number) -> bool:
    return False


def state_of_no_kind(state: Loose, msg: Number, out: Number) -> bool:
    return False


def weighs(state: None, msg: Number, out: Number, weights) -> bool:
    out.n = weights[msg.n]
    return True
