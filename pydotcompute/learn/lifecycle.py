"""Exercises of the tutorial "Lifecycle"."""

from __future__ import annotations

from typing import Any

from ..runtime import RingKernelRuntime
from . import Wrong, exercise
from ._trial import launched, some_kernel

_WHY = {
    "a": "a: a paused ring kernel goes on (`reactivate`) and can be stopped later. That is allowed.",
    "b": "b: what was never activated cannot be paused: it does not run yet.",
    "c": "c: what was launched need not be activated; `terminate` ends it as well.",
    "d": "d: a body that raises an error, and is not started again, is FAILED.",
    "e": "e: what has ended stays so; to have it again, launch it again: that is a new ring kernel.",
}


@exercise(
    "lifecycle.1",
    hints=(
        "Go along the arrows of the live picture, `lifecycle(kernel)`, one state after the other.",
        "Try it: launch one, and call `deactivate` at once. The error says what is possible.",
    ),
    solution="""
        ways = "acd"
    """,
    after="What is launched can be ended without ever having run, and what has ended stays so.",
)
def ways(ways: Any) -> None:
    """Which ways through the states there are."""
    given = "".join(map(str, ways)) if isinstance(ways, (list, tuple, set)) else ways
    letters = set(given.lower()) - set(", ") if isinstance(given, str) else {""}
    if not letters <= set(_WHY):
        raise Wrong(f'The answer is a text of the letters a to e, such as "be", not {ways!r}.')
    if wrong := sorted(letters ^ set("acd")):
        raise Wrong(_WHY[wrong[0]])


@exercise(
    "lifecycle.2",
    hints=(
        "What stands after `async for` is run when the ring kernel is stopped and its mailbox is empty.",
        "Collect the texts in a list of the body; what is done with it stands after the loop.",
    ),
    solution="""
        class Said:
            def __init__(self):
                self.said = []


        @ring_kernel(state=Said)
        async def collector(ctx):
            texts = []
            async for text in ctx:
                texts.append(text)
            ctx.state.said.append(" ".join(texts))
    """,
    after="The mailbox was closed first, then emptied, and only then did the loop end: nothing came too late.",
)
async def collector(runtime: RingKernelRuntime, collector: Any) -> None:
    """Does its work when it is stopped."""
    kernel = await launched(runtime, some_kernel(collector))
    state = kernel.user_state
    if not hasattr(state, "said"):
        raise Wrong("It has no `ctx.state.said`: write `state=Said` in the decorator.")
    await kernel.send("every")
    await runtime.wait_idle(kernel.id, timeout=5)
    if state.said:
        raise Wrong(f"It noted {state.said!r} although nobody has stopped it yet.")
    await kernel.deactivate()
    for text in ("page", "counts"):
        await kernel.send(text)
    await kernel.terminate()
    if kernel.statistics().replied:
        raise Wrong("It answers the texts: nobody asked for that.")
    if not state.said:
        raise Wrong("It was stopped, and `ctx.state.said` is still empty.")
    if state.said != ["every page counts"]:
        raise Wrong(
            f"It got 'every', 'page' and 'counts', and was stopped: `ctx.state.said` is {state.said!r}, and "
            f"['every page counts'] was expected."
        )
