"""Exercises of the tutorial "An image pipeline"."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..messages import message
from ..runtime import RingKernelRuntime
from . import Wrong, exercise
from ._trial import launched, some_kernel, some_step, tried

_SIZE = 68
_TILE = """
        @message
        class Tile:
            row: np.int32
            column: np.int32
            pixels: Annotated[NDArray[np.float32], Shape(68, 68)]

"""


def _tiles(n: int) -> NDArray[np.float32]:
    """Slopes with noise, so that each direction and each neighbour shows."""
    y, x = np.indices((_SIZE, _SIZE)) / _SIZE
    random = np.random.default_rng(3)
    slopes = [0.3 * (1 + k / n) * y + 0.4 * x + 0.2 * random.random((_SIZE, _SIZE)) for k in range(n)]
    return np.stack(slopes).astype(np.float32)


def _total(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sum of the nine pixels around each but those of the rim."""
    n = _SIZE - 2
    wide = pixels.astype(np.float64)
    total: NDArray[np.float64] = np.sum([wide[:, y : y + n, x : x + n] for y in range(3) for x in range(3)], axis=0)
    return total


@exercise(
    "images.1",
    hints=(
        "`clean` visits the nine neighbours of each pixel: do the same, and add them up instead of sorting them.",
        "Begin with `total = 0.0` for each pixel, add `msg.pixels[y - 1 + n // 3, x - 1 + n % 3]` for the nine `n`, "
        "and divide.",
    ),
    solution=_TILE
    + """
        @ring_kernel
        def soft(state: None, msg: Tile, out: Tile) -> bool:
            out.row, out.column = msg.row, msg.column
            for y in range(1, 67):
                for x in range(1, 67):
                    total = 0.0
                    for n in range(9):
                        total += msg.pixels[y - 1 + n // 3, x - 1 + n % 3]
                    out.pixels[y, x] = total / 9
            return True
    """,
    after="A mean spreads a spoilt pixel over nine; the median drops it. Try both on `noisy`.",
)
async def soft(runtime: RingKernelRuntime, soft: Any) -> None:
    """The mean of 3 × 3 pixels."""
    step = some_step(soft, replies=True)
    pixels = _tiles(2)
    replies, _ = await tried(runtime, step, row=np.array([3, 5]), column=np.array([7, 0]), pixels=pixels)
    if len(replies) != 2:
        raise Wrong(f"It was given 2 tiles and replied with {len(replies)}: end it with `return True`.")
    if replies["row"].tolist() != [3, 5] or replies["column"].tolist() != [7, 0]:
        raise Wrong(
            f"Tiles at (3, 7) and (5, 0) come back at {tuple(replies[0][['row', 'column']].tolist())} and "
            f"{tuple(replies[1][['row', 'column']].tolist())}: nobody would know where they belong."
        )
    found, total = replies["pixels"][:, 1:67, 1:67], _total(pixels)
    expected = total / 9
    off = np.abs(found - expected) > 1e-4
    if not off.any():
        return
    centre = pixels[:, 1:67, 1:67]
    if np.allclose(found, (total - centre) / 8, atol=1e-4):
        raise Wrong("It is the mean of the eight around a pixel: the pixel itself belongs to the nine.")
    if np.allclose(found, total / 8, atol=1e-4) or np.allclose(found, np.minimum(total / 8, 1), atol=1e-4):
        raise Wrong("It is brighter than it should be, by an eighth: nine pixels are added, and divided by 8.")
    if np.allclose(found, total, atol=1e-3):
        raise Wrong("It is the sum of the nine: a mean is divided by their number.")
    if np.allclose(found, centre, atol=1e-4):
        raise Wrong("The tile comes back as it was.")
    rim = np.ones_like(off)
    rim[:, 1:-1, 1:-1] = False
    if not (off & ~rim).any():
        raise Wrong("It is right inside and wrong at the rim: pixels 1 to 66 are wanted, `range(1, 67)`.")
    which, y, x = np.argwhere(off)[0]
    raise Wrong(
        f"Pixel ({y + 1}, {x + 1}) of a tile is {found[which, y, x]:.4f}, and the mean of its nine neighbours is "
        f"{expected[which, y, x]:.4f}."
    )


@exercise(
    "images.2",
    hints=(
        "Which pixels of a tile belong to the picture, and which are there for the neighbours only?",
        "`int(16 * pixel)` is the class, but for a pixel of exactly 1; the pixels of the picture are 2 to 65.",
    ),
    solution=_TILE
    + """
        class Histogram(Record):
            counts: Annotated[NDArray[np.int64], Shape(16)]


        @ring_kernel
        def brightness(state: Histogram, msg: Tile, out: None) -> bool:
            for y in range(2, 66):
                for x in range(2, 66):
                    state.counts[min(int(16 * msg.pixels[y, x]), 15)] += 1
            return False
    """,
    after="The margins overlap: who counts them counts some pixels twice.",
)
async def brightness(runtime: RingKernelRuntime, brightness: Any) -> None:
    """A histogram over all tiles."""
    step = some_step(brightness, replies=False)
    pixels = _tiles(3)
    pixels[1, 20:24] = 1.0
    pixels[2, 30:34, 5] = 0.5
    _, state = await tried(runtime, step, row=np.arange(3), column=np.zeros(3), pixels=pixels)
    if not hasattr(state, "counts"):
        raise Wrong("Its state has no `counts`: annotate `state` with Histogram.")
    inner = pixels[:, 2:66, 2:66]
    expected, every = (np.bincount(np.minimum(16 * of, 15).astype(int).ravel(), minlength=16) for of in (inner, pixels))
    found = np.asarray(state.counts)
    if np.array_equal(found, expected):
        return
    if np.array_equal(found, every):
        raise Wrong(
            f"3 tiles have {inner.size:,} pixels of the picture, and it counts {found.sum():,}: also the margins, "
            f"which other tiles have as their own."
        )
    if found.sum() == len(inner[0].ravel()):
        raise Wrong(f"It counts {found.sum():,} pixels, those of one tile: 3 tiles came.")
    if found.sum() != inner.size:
        raise Wrong(f"3 tiles have {inner.size:,} pixels of the picture, and it counts {found.sum():,}.")
    place = int(np.argmax(found != expected))
    raise Wrong(
        f"All {inner.size:,} pixels are counted, but from {place}/16 on there are {expected[place]:,}, and it counts "
        f"{found[place]:,}."
    )


@message
class _Piece:
    picture: int
    row: int
    column: int
    rows: int
    columns: int
    pixels: np.ndarray[Any, Any]


@exercise(
    "images.3",
    hints=(
        "Keep the pieces in a dict of dicts: by the number of the picture, and in it by (row, column). When is one "
        "full?",
        "`pieces = ctx.state.pictures.setdefault(piece.picture, {})`; when it has rows × columns pieces, `np.block` "
        "makes an array of a list of rows.",
    ),
    solution="""
        @ring_kernel
        async def assembler(ctx):
            pictures = {}
            async for piece in ctx:
                pieces = pictures.setdefault(piece.picture, {})
                pieces[piece.row, piece.column] = piece.pixels
                if len(pieces) == piece.rows * piece.columns:
                    del pictures[piece.picture]
                    rows, columns = range(piece.rows), range(piece.columns)
                    await ctx.send(np.block([[pieces[row, column] for column in columns] for row in rows]))
    """,
    after="A number that may be used again is forgotten in time: so the memory stays bounded as well.",
)
async def assembler(runtime: RingKernelRuntime, assembler: Any) -> None:
    """Whole pictures of mixed pieces."""
    kernel = await launched(runtime, some_kernel(assembler), "assembler")
    random = np.random.default_rng(5)
    pictures = {number: random.integers(0, 256, shape) for number, shape in ((7, (4, 6)), (2, (6, 9)), (0, (2, 3)))}
    pieces = [
        _Piece(number, y, x, len(whole) // 2, whole.shape[1] // 3, whole[2 * y : 2 * y + 2, 3 * x : 3 * x + 3].copy())
        for number, whole in pictures.items()
        for y in range(len(whole) // 2)
        for x in range(whole.shape[1] // 3)
    ]
    for turn in range(2):  # the numbers are used again
        missing = {number: sum(piece.picture == number for piece in pieces) for number in pictures}
        for place in random.permutation(len(pieces)).tolist():
            piece = pieces[place]
            missing[piece.picture] -= 1
            await kernel.send(piece)
            await runtime.wait_idle(kernel.id, timeout=5)
            if kernel.state.over:
                why = f": {kernel.exception}" if kernel.exception is not None else ""
                raise Wrong(f"It has ended after a piece of picture {piece.picture}{why}. All pieces need a loop.")
            came = kernel.statistics().replies_unread
            whole = pictures[piece.picture]
            case = f"the piece ({piece.row}, {piece.column}) of picture {piece.picture}"
            if missing[piece.picture]:
                if came:
                    raise Wrong(f"After {case} it sends something, and {missing[piece.picture]} more are to come.")
                continue
            again = " The number was used once before." * turn
            if came != 1:
                raise Wrong(f"After {case}, the last one, {came or 'nothing'} is sent.{again}")
            found = await runtime.receive(kernel.id)
            if not isinstance(found, np.ndarray):
                raise Wrong(f"It sends {type(found).__name__}, and not an array.")
            if found.shape != whole.shape:
                raise Wrong(f"Picture {piece.picture} has the shape {whole.shape}, and it sends one of {found.shape}.")
            if not np.array_equal(found, whole):
                raise Wrong(
                    f"Picture {piece.picture} is sent when it is complete, but not all pieces are in place.{again}"
                )
