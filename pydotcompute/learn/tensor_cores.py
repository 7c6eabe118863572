"""Exercises of the tutorial "Tensor cores"."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from ..exceptions import KernelFailedError
from ..runtime import RingKernelRuntime
from ..runtime.dead_letters import error_text
from . import Wrong, exercise
from ._trial import launched, unreported


@exercise(
    "tensor_cores.1",
    hints=(
        "What overflows or is rounded is the product in float16: widen both vectors before you multiply.",
        "`a.astype(np.float32)`, and so with `b`; then `@`.",
    ),
    solution="""
        def dot(a, b):
            return a.astype(np.float32) @ b.astype(np.float32)
    """,
    after="Stored in half of the memory, and each product exact: that is what a tensor core computes.",
)
def dot(dot: Any) -> None:
    """A scalar product that is stored narrowly and added widely."""
    if not callable(dot):
        raise Wrong(f"A function is wanted, `def dot(a, b):`, not {type(dot).__name__}.")
    ones = np.ones(5001, np.float16)
    large = np.full(4, 300, np.float16)
    fine = np.full(4096, 0.1, np.float16)
    cases = (
        (ones, ones, "two vectors of 5001 ones"),
        (large, large, "two vectors of four times 300"),
        (large, -large, "a vector of four times 300 and one of four times -300"),
        (fine, fine, "two vectors of 4096 times 0.1"),
    )
    for a, b, words in cases:
        true = float(a.astype(np.float64) @ b.astype(np.float64))
        with np.errstate(over="ignore"):
            answer = dot(a.copy(), b.copy())
        if np.ndim(answer) != 0 or not isinstance(answer, float | np.floating):
            raise Wrong(f"Of {words} it makes {answer!r}: a single number is wanted.")
        if not abs(float(answer) - true) <= 1e-5 * abs(true):
            said = ", for what is above 65,504 is infinite in float16" if np.isinf(answer) else ""
            raise Wrong(f"Of {words} it makes {float(answer):g}, not {true:g}{said}.")
        if not isinstance(answer, np.float32):
            raise Wrong(f"It is right, but a {type(answer).__name__}: add up in np.float32, which is what it returns.")


@exercise(
    "tensor_cores.2",
    hints=(
        "Each of the m k numbers of the result takes n multiplications and n additions.",
        "A float16 has 2 bytes, a float32 has 4: the factors have 2 (m n + n k) bytes. And the result?",
    ),
    solution="""
        def intensity(m, n, k):
            return 2 * m * n * k / (2 * (m * n + n * k) + 4 * m * k)
    """,
    after="With one column it is below 1, however large the matrix is; with many it grows with the smallest side.",
)
def intensity(intensity: Any) -> None:
    """Operations per byte."""
    if not callable(intensity):
        raise Wrong(f"A function is wanted, `def intensity(m, n, k):`, not {type(intensity).__name__}.")
    for m, n, k in ((4096, 4096, 1), (4096, 1024, 64), (100, 3000, 500)):
        operations, factors, result = 2 * m * n * k, m * n + n * k, m * k
        wanted = operations / (2 * factors + 4 * result)
        answer = intensity(m, n, k)
        slips = {
            operations / 2 / (2 * factors + 4 * result): "an addition is an operation, too",
            operations / (2 * factors): "the result goes through memory, too",
            operations / (2 * factors + 2 * result): "the result is float32, which has 4 bytes",
            operations / (4 * factors + 4 * result): "the factors are float16, which have 2 bytes",
            operations / (factors + result): "those are operations per number, and a number has 2 or 4 bytes",
            (2 * factors + 4 * result) / operations: "those are bytes per operation",
        }
        if not isinstance(answer, int | float | np.number):
            raise Wrong(f"For m, n, k = {m}, {n}, {k} it returns {answer!r}, not a number.")
        if not np.isclose(answer, wanted, rtol=1e-6):
            known = [words for slip, words in slips.items() if np.isclose(answer, slip, rtol=1e-6)]
            said = f": {known[0]}" if known else ""
            raise Wrong(f"For m, n, k = {m}, {n}, {k} it is {wanted:.2f}, not {float(answer):.2f}{said}.")


MOST = 16
"""Rows that may be multiplied at once."""


@exercise(
    "tensor_cores.3",
    hints=(
        "Begin with a list of the one question that the loop has brought; append others while there are fewer than 16.",
        "`try: batch.append(await ctx.receive(timeout=0))`, and `except QueueTimeoutError: break`.",
        "Then `rows = ctx.state(np.stack([one.row for one in batch]))`, and for each question "
        "`await ctx.send(one.reply(Answer, row=row))`.",
    ),
    solution="""
        @message
        class Question:
            row: object


        @message
        class Answer:
            row: object


        class Small:
            def __init__(self):
                self.weights = np.random.default_rng(5).random((32, 32), dtype=np.float32)
                self.sizes = []

            def __call__(self, rows):
                self.sizes.append(len(rows))
                return (rows.astype(np.float32) @ self.weights).astype(np.float16)


        @ring_kernel(state=Small)
        async def gatherer(ctx):
            async for question in ctx:
                batch = [question]
                while len(batch) < 16:
                    try:
                        batch.append(await ctx.receive(timeout=0))
                    except QueueTimeoutError:
                        break
                rows = ctx.state(np.stack([one.row for one in batch]))
                for one, row in zip(batch, rows, strict=True):
                    await ctx.send(one.reply(Answer, row=row))
    """,
    after="The more ask at the same time, the larger the products: under load it gets faster for each of them.",
)
async def gatherer(runtime: RingKernelRuntime, gatherer: Any, Question: Any) -> None:  # noqa: N803
    """An actor that multiplies all rows that wait at once."""
    kernel = await launched(runtime, gatherer)
    state = kernel.user_state
    if not hasattr(state, "sizes") or not hasattr(state, "weights"):
        raise Wrong("Its state is not a `Small`: write `@ring_kernel(state=Small)`.")
    rows = np.random.default_rng(6).random((40, 32)).astype(np.float16)
    wanted = rows.astype(np.float32) @ state.weights

    with unreported():
        try:
            alone = await runtime.ask(kernel.id, Question(rows[0]), timeout=2)
        except KernelFailedError as error:
            raise Wrong(f"Asked a question, it failed: {error_text(error.__cause__ or error)}.") from error
        except TimeoutError:
            raise Wrong(
                "A question that came alone got no answer. Does it wait for others, or not say which question it "
                "answers?"
            ) from None
    _right(alone, wanted[0], "a question that came alone")
    if state.sizes != [1]:
        raise Wrong(
            f"One question came, and `ctx.state` was given matrices of {state.sizes} rows: call it once for it."
        )
    state.sizes.clear()
    await kernel.deactivate()  # until all 40 are waiting
    asking = [asyncio.ensure_future(runtime.ask(kernel.id, Question(row))) for row in rows]
    for _ in range(10):
        await asyncio.sleep(0)  # each of them has its turn
    await kernel.reactivate()
    _, waiting = await asyncio.wait(asking, timeout=2)
    for one in waiting:
        one.cancel()
    if kernel.exception is not None:
        raise kernel.exception
    if waiting:
        raise Wrong(
            f"40 questions were waiting, and {len(waiting)} got no answer. Does it wait for a full batch, or answer "
            "the last question of each alone?"
        )
    for n, one in enumerate(asking):
        _right(await one, wanted[n], f"question {n + 1} of 40 that were waiting")
    if max(state.sizes) > MOST:
        raise Wrong(f"It multiplied {max(state.sizes)} rows at once: 16 are the most.")
    if len(state.sizes) > len(rows) // MOST + 2:
        raise Wrong(
            f"40 questions were waiting, and it multiplied {len(state.sizes)} times: 16, 16 and 8 rows would have "
            "been 3."
        )


def _right(answer: Any, wanted: Any, words: str) -> None:
    row: Any = getattr(answer, "row", None)
    if np.shape(row) != wanted.shape:
        raise Wrong(f"To {words} it answers {answer!r}: an `Answer` with a `row` of shape {wanted.shape} is wanted.")
    if not np.allclose(row, wanted, rtol=0.01):
        raise Wrong(f"To {words} it gives the answer to another one.")
