"""Exercises of the tutorial on pictures in a chain of ring kernels."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..exceptions import KernelStateError
from ..messages import Shape, message
from ..runtime import RingKernel, RingKernelRuntime, StepDefinition
from ..runtime.dead_letters import error_text
from . import Wrong, exercise
from ._trial import TIMEOUT, launched, some_kernel, some_step, tried

SIDE, MARGIN, COLUMNS = 32, 2, 4


@message
class Edges:
    """A tile, as that of the notebook."""

    picture: np.int32
    row: np.int32
    column: np.int32
    edges: Annotated[NDArray[np.uint8], Shape(SIDE, SIDE)]


_GREY = """
        @message
        class Grey:
            picture: np.int32
            row: np.int32
            column: np.int32
            grey: Annotated[NDArray[np.uint8], Shape(36, 36)]

"""


@exercise(
    "images.1",
    hints=(
        "Two loops go over the pixels of `out`; for each of them a third one copies the nine values into `state.nine`.",
        "Put each value into its place when it comes: move those before it that are larger by one, then write it. "
        "After nine the array is in order, and `state.nine[4]` is the median.",
        "For n from 0 to 8, `msg.pixels[y + n // 3, x + n % 3]` is the next value, and n its place at first. "
        "`while place > 0 and state.nine[place - 1] > value:` moves one that is larger.",
    ),
    solution="""
        @message
        class Patch:
            pixels: Annotated[NDArray[np.uint8], Shape(18, 18)]


        @message
        class Clean:
            pixels: Annotated[NDArray[np.uint8], Shape(16, 16)]


        class Nine(Record):
            nine: Annotated[NDArray[np.uint8], Shape(9)]


        @ring_kernel
        def median(state: Nine, msg: Patch, out: Clean) -> bool:
            for y in range(16):
                for x in range(16):
                    for n in range(9):
                        value = msg.pixels[y + n // 3, x + n % 3]
                        place = n
                        while place > 0 and state.nine[place - 1] > value:
                            state.nine[place] = state.nine[place - 1]
                            place -= 1
                        state.nine[place] = value
                    out.pixels[y, x] = state.nine[4]
            return True
    """,
    after="Sorting by insertion is slow for many values, and the quickest there is for nine.",
)
async def median(runtime: RingKernelRuntime, median: Any) -> None:
    """A filter that takes out single wrong pixels."""
    step = some_step(median, replies=True)
    random = np.random.default_rng(14)
    y, x = np.mgrid[:18, :18]
    patches = np.stack([40 * n + 3 * y + 2 * x for n in range(4)]).astype(np.uint8)
    patches += random.integers(0, 8, patches.shape, np.uint8)
    wrong = random.random(patches.shape)
    patches[wrong < 0.05], patches[wrong > 0.95] = 0, 255
    replies, _ = await tried(runtime, step, pixels=patches)
    if len(replies) != len(patches):
        raise Wrong(f"It replied {len(replies)} times to {len(patches)} patches: return True for each.")
    if "pixels" not in (replies.dtype.names or ()) or replies["pixels"].shape[1:] != (16, 16):
        raise Wrong("Its replies have no `pixels` of 16 × 16: annotate `out` with Clean.")

    around = sliding_window_view(patches, (3, 3), axis=(1, 2)).reshape(len(patches), 16, 16, 9)
    answer, right = replies["pixels"], np.median(around, axis=-1)
    others = {
        "the pixels as they came: are the nine values in order before the fifth is taken?": around[..., 4],
        "the mean of the nine, which the wrong pixels spoil. The median is the fifth of them in order.": (
            around.sum(axis=-1) // 9
        ),
        "the largest of the nine: that one stands at the end, and the median in the middle.": around.max(axis=-1),
        "the smallest of the nine: that one stands at the beginning, and the median in the middle.": (
            around.min(axis=-1)
        ),
        "the fourth of the nine in order. Places are counted from 0: the fifth is at place 4.": (
            np.sort(around, axis=-1)[..., 3]
        ),
        "the sixth of the nine in order. Places are counted from 0: the fifth is at place 4.": (
            np.sort(around, axis=-1)[..., 5]
        ),
    }
    if np.array_equal(answer, right):
        return
    for story, other in others.items():
        if np.array_equal(answer, other):
            raise Wrong(f"It replies with {story}")
    inner = (slice(None), slice(0, 15), slice(0, 15))
    if np.array_equal(answer[:, 1:, 1:], right[inner]):
        raise Wrong(
            "Each median is one pixel too far down and to the right: the nine of `out.pixels[y, x]` begin at "
            "`msg.pixels[y, x]`."
        )
    n, row, column = np.argwhere(answer != right)[0]
    values = ", ".join(map(str, around[n, row, column]))
    raise Wrong(
        f"Patch {n}, pixel [{row}, {column}]: of {values} the median is {right[n, row, column]:.0f}, and it replies "
        f"{answer[n, row, column]}."
    )


@exercise(
    "images.2",
    hints=(
        "A tile has 36 × 36 pixels, of which the middle 32 × 32 are its own.",
        "Two loops over `range(2, 34)`; what is counted is `state.pixels[msg.grey[y, x]] += 1`.",
    ),
    solution=_GREY
    + """
        class Brightness(Record):
            pixels: Annotated[NDArray[np.int64], Shape(256)]


        @ring_kernel
        def histogram(state: Brightness, msg: Grey, out: None) -> bool:
            for y in range(2, 34):
                for x in range(2, 34):
                    state.pixels[msg.grey[y, x]] += 1
            return False
    """,
    after="As it depends on no order, several ring kernels could count, each its own, and you add up in the end.",
)
async def histogram(runtime: RingKernelRuntime, histogram: Any) -> None:
    """Counts the pixels of all tiles by their brightness."""
    step = some_step(histogram, replies=False)
    random = np.random.default_rng(15)
    whole = random.integers(0, 256, (3 * SIDE, 2 * SIDE), np.uint8)
    whole[:40, :50] = 255
    whole[60:, 30:] = 0
    padded = np.pad(whole, MARGIN, "edge")
    length = SIDE + 2 * MARGIN
    places = [(row, column) for row in range(3) for column in range(2)]
    tiles = np.stack([padded[row * SIDE :, column * SIDE :][:length, :length] for row, column in places])
    rows, columns = np.array(places).T
    _, state = await tried(runtime, step, picture=0, row=rows, column=columns, grey=tiles)
    counted = getattr(state, "pixels", None)
    if counted is None or np.shape(counted) != (256,):
        raise Wrong("Its state has no `pixels` of 256 numbers: annotate `state` with Brightness.")

    wanted = np.bincount(whole.ravel(), minlength=256)
    if np.array_equal(counted, wanted):
        return
    own = tiles[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    story = f"A picture of {whole.shape[0]} × {whole.shape[1]} = {whole.size:,} pixels came in {len(tiles)} tiles"
    if np.array_equal(counted, np.bincount(tiles.ravel(), minlength=256)):
        raise Wrong(f"{story}, and it counts {counted.sum():,}: those of the margins too, which belong to neighbours.")
    if np.array_equal(counted, np.bincount(own[-1].ravel(), minlength=256)):
        raise Wrong(f"{story}, and only the last one is counted. A state begins with zeros; nobody has to clear it.")
    shifted = np.bincount(tiles[:, :SIDE, :SIDE].ravel(), minlength=256)
    if np.array_equal(counted, shifted):
        raise Wrong(f"{story}. It counts 32 × 32 pixels of each, but those in the corner: its own begin at [2, 2].")
    if counted.sum() != whole.size:
        raise Wrong(f"{story}, and it counts {counted.sum():,}.")
    value = np.flatnonzero(counted != wanted)[0]
    raise Wrong(f"{story}. {wanted[value]:,} pixels have the brightness {value}, and it counts {counted[value]:,}.")


@exercise(
    "images.3",
    hints=(
        "Keep what has come in a dictionary, by row and column, and the number of the row that is to be sent next.",
        "After each tile look at the next row only. If all its tiles are there, send it, and look again: the one after "
        "it may have been complete for long. That is a `while`, and no `if`.",
        "`while all((following, column) in tiles for column in range(COLUMNS)):` send "
        "`np.hstack([tiles.pop((following, column)) for column in range(COLUMNS)])`, and add 1 to `following`.",
    ),
    solution="""
        COLUMNS = 4


        @ring_kernel
        async def strips(ctx):
            tiles, following = {}, 0
            async for tile in ctx:
                tiles[tile.row, tile.column] = tile.edges
                while all((following, column) in tiles for column in range(COLUMNS)):
                    await ctx.send(np.hstack([tiles.pop((following, column)) for column in range(COLUMNS)]))
                    following += 1
    """,
    after="That is how a network puts packets back into order; what it has to keep is as much as they are mixed up.",
)
async def strips(runtime: RingKernelRuntime, strips: Any) -> None:
    """Puts tiles together, and strips into order."""
    definition = some_kernel(strips)
    if isinstance(definition, StepDefinition):
        raise Wrong(f"{definition.kernel_id} is a step: an async ring kernel is wanted, `async def strips(ctx):`.")
    taken: Any = Edges if object in definition.input_types else definition.input_types[0]
    random = np.random.default_rng(16)
    rows = 5
    tiles = random.integers(0, 256, (rows, COLUMNS, SIDE, SIDE), np.uint8)
    places = [(row, column) for row in range(rows) for column in range(COLUMNS)]
    orders = {
        "in order": places,
        "from right to left": [(row, COLUMNS - 1 - column) for row, column in places],
        "from the bottom up": places[::-1],
        "mixed up": [places[n] for n in random.permutation(len(places))],
    }
    for kind, order in orders.items():
        kernel = await launched(runtime, definition, f"strips, {kind}")
        sent, missing = 0, [COLUMNS] * rows
        for row, column in order:
            missing[row] -= 1
            ready = next((n for n in range(rows) if missing[n]), rows)
            after = f"Tiles come {kind}; after that of row {row}, column {column},"
            try:
                message = taken(0, row, column, tiles[row, column])
            except TypeError:
                raise Wrong(f"It takes {taken.__name__}, and it is sent Edges: `KernelContext[Edges, ...]`.") from None
            came = await _strips(kernel, message, after)
            for strip in came:
                _judge_strip(strip, after, sent, tiles)
                sent += 1
            if sent < ready and came:
                raise Wrong(
                    f"{after} it sends row {sent - 1} and stops. Row {sent} has been complete before: it follows."
                )
            if sent < ready:
                raise Wrong(f"{after} row {sent} is complete and is the next one, and it is not sent.")


async def _strips(kernel: RingKernel, message: Any, after: str) -> list[Any]:
    """What it replies to one more tile."""
    try:
        await kernel.send(message)
        await kernel.runtime.wait_idle(kernel.id, timeout=TIMEOUT)
    except TimeoutError:
        raise Wrong(f"{after} it is still busy {TIMEOUT:g} s later.") from None
    except KernelStateError:
        raise Wrong(
            f"It has ended before the tile of row {message.row}, column {message.column}: one that takes every message "
            f"has a loop, `async for tile in ctx:`."
        ) from None
    if kernel.exception is not None:
        raise Wrong(f"{after} it failed: {error_text(kernel.exception)}.")
    return [await kernel.receive() for _ in range(kernel.statistics().replies_unread)]


def _judge_strip(strip: Any, after: str, sent: int, tiles: NDArray[np.uint8]) -> None:
    """One that it has sent, when the first `sent` of them were right."""
    if not isinstance(strip, np.ndarray):
        raise Wrong(f"{after} it sends {type(strip).__name__}, and not an array: the pixels are wanted.")
    shape = SIDE, SIDE * COLUMNS
    if strip.shape != shape:
        raise Wrong(f"{after} it sends an array of shape {strip.shape}: a strip has {shape}.")
    whose = {tile.tobytes(): (n // COLUMNS, n % COLUMNS) for n, tile in enumerate(tiles.reshape(-1, SIDE, SIDE))}
    found = [whose.get(part.astype(np.uint8).tobytes()) for part in np.split(strip, COLUMNS, axis=1)]
    row = -1 if found[0] is None else found[0][0]
    if found != [(row, column) for column in range(COLUMNS)]:
        named = "; ".join("none" if place is None else f"row {place[0]}, column {place[1]}" for place in found)
        raise Wrong(
            f"{after} it sends a strip of these tiles: {named}. It has one row, from column 0 to {COLUMNS - 1}."
        )
    if row != sent:
        why = "again" if row < sent else f"and row {sent}, which comes before it, has not been sent"
        raise Wrong(f"{after} it sends row {row}, {why}.")
