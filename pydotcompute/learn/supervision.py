"""Exercises of the tutorial "Supervision"."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ..runtime import RingKernelRuntime, ring_kernel
from . import Wrong, exercise
from ._trial import launched, unreported

_LINES = 30
_PATIENCE = 2.0
"""Seconds in which all lines are to be written."""


class _Count:
    lines = 0


@exercise(
    "supervision.1",
    hints=(
        "First let it begin again at all (`restart=`), then let it have the same line once more (`max_retries=`).",
        "Each line costs a restart: how many may there be (`max_restarts=`), and how long are the waits (`backoff=`)?",
        "The number of lines stands in `ctx.state`, and a restart makes that anew unless you say `keep_state=True`.",
    ),
    solution="""
        options = dict(restart="on_failure", max_retries=1, max_restarts=100, backoff=None, keep_state=True)
    """,
    after="Five decisions, and the body knows of none of them.",
)
async def options(runtime: RingKernelRuntime, options: Any) -> None:
    """A policy that survives a failure at the first attempt of each line."""
    if not isinstance(options, Mapping):
        raise Wrong(f"A `dict` of options is wanted, such as `dict(max_restarts=3)`, not {type(options).__name__}.")
    tried: set[str] = set()
    written: list[tuple[int, str]] = []

    async def logger(ctx: Any) -> None:
        async for line in ctx:
            if line not in tried:
                tried.add(line)
                raise OSError("the disk is busy")
            ctx.state.lines += 1
            written.append((ctx.state.lines, line))

    kernel = await launched(runtime, ring_kernel("logger", state=_Count, **options)(logger))
    lines = [f"line {n}" for n in range(1, _LINES + 1)]
    try:
        with unreported():
            await kernel.send_many(lines)
            await runtime.wait_idle("logger", timeout=_PATIENCE)
    except TimeoutError:
        raise Wrong(
            f"After {_PATIENCE:g} s {len(written)} of {_LINES} lines are written: it spends its time waiting."
        ) from None
    counted, ended = kernel.statistics(), kernel.state.over
    if ended and not counted.restarts:
        raise Wrong(f"Its first failure was its last: it is {counted.state}, and no line is written.")
    if ended:
        raise Wrong(f"It is {counted.state} after {counted.restarts} restarts, with {len(written)} lines written.")
    if missing := [line for line in lines if line not in [text for _, text in written]]:
        raise Wrong(
            f"{len(missing)} of {_LINES} lines are not written but dead letters: whoever begins again goes on with the "
            f"next line."
        )
    if wrong := [one for one in enumerate(lines, 1) if one not in written]:
        number, line = wrong[0]
        found = next(n for n, text in written if text == line)
        raise Wrong(f"All are written, but {line!r} as number {found} instead of {number}: it has forgotten the count.")


@exercise(
    "supervision.2",
    hints=(
        "`max_restarts` counts bodies that begin again. There was one before them.",
        "Each line is handed out twice: `max_retries=1`. Write down, for each body, which line it gets.",
    ),
    solution="""
        bodies, lines = 5, 3
    """,
    after="The bodies got lines 1, 1, 2, 2 and 3. That one and the two that nobody has seen are dead letters as well.",
)
async def count(runtime: RingKernelRuntime, bodies: Any, lines: Any) -> None:
    """How many bodies begin until it is FAILED, and how many lines they see."""
    for name, said in (("bodies", bodies), ("lines", lines)):
        if not isinstance(said, int) or isinstance(said, bool):
            raise Wrong(f"{name}: a number is wanted, such as 12, not {said!r}.")
    seen: list[int] = []

    async def hopeless(ctx: Any) -> None:
        seen.append(await ctx.receive())
        raise ValueError("hopeless")

    options: dict[str, Any] = {"restart": "on_failure", "max_restarts": 4, "max_retries": 1, "backoff": None}
    kernel = await runtime.launch(ring_kernel("hopeless", **options)(hopeless))
    await kernel.send_many(range(1, 6))
    with unreported():
        await kernel.activate()
        await runtime.wait_ended("hopeless", timeout=5)
    if bodies == kernel.restarts:
        raise Wrong(f"bodies: {bodies} is the number of restarts. What ran before the first of them?")
    if bodies != len(seen):
        raise Wrong(f"bodies: not {bodies}. There are at most 4 restarts.")
    if lines == len(seen):
        raise Wrong(f"lines: {lines} would be one for each body, but a line that failed is handed out once more.")
    if lines > len(set(seen)):
        raise Wrong(f"lines: {lines} is too many. How often is a line that fails handed out?")
    if lines != len(set(seen)):
        raise Wrong(f"lines: not {lines!r}. The last body gets a line, too.")


@exercise(
    "supervision.3",
    hints=(
        "Who has to begin again when `numberer` does? Those make a group.",
        "Section 6 makes such a group. Who belongs in it, and who does not?",
    ),
    solution="""
        async def protect(runtime):
            await runtime.supervise("numberer", "checker", strategy="one_for_all")
    """,
    after="A group is as large as what has to agree, and no larger.",
)
async def protect(runtime: RingKernelRuntime, protect: Any) -> None:
    """A group of those that belong together, and of no others."""
    if not inspect.iscoroutinefunction(protect):
        raise Wrong("A coroutine is wanted: `async def protect(runtime):`.")
    complaints: list[str] = []

    async def numberer(ctx: Any) -> None:
        number = 0
        async for line in ctx:
            number += 1
            float(line)
            await ctx.tell("checker", number)

    async def checker(ctx: Any) -> None:
        seen = 0
        async for number in ctx:
            if number != seen + 1:
                complaints.append(f"it expected number {seen + 1} and got number {number}")
            seen = number

    async def clock(ctx: Any) -> None:
        ticks = 0
        async for _ in ctx:
            ticks += 1
            await ctx.send(ticks)

    for body in (checker, numberer, clock):
        name = body.__name__
        # Under that name there is one in the tutorial, whose definition this one is not to replace.
        definition = ring_kernel(f"{name} of supervision.3", restart="on_failure", backoff=None)(body)
        await launched(runtime, definition, name)
    await protect(runtime)
    for tick, line in enumerate(["20.5", "20.7", "sensor error", "20.9", "21.0"], 1):
        with unreported():
            await runtime.send("numberer", line)
            await runtime.wait_idle("numberer", "checker", timeout=5)
        if complaints:
            raise Wrong(
                f"numberer failed, began again at 1, and checker did not: {complaints[0]}. (If you have made a "
                f"group: is the `await` there?)"
            )
        if await runtime.ask("clock", "tick", timeout=5) != tick:
            raise Wrong("clock began again together with numberer, and lost its count: the two are independent.")
