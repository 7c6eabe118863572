"""Exercises of the tutorial "Routing"."""

from __future__ import annotations

from typing import Any, get_args

from ..exceptions import PyDotComputeError
from ..runtime import RingKernelRuntime, ring_kernel
from ..runtime.routing import Routing
from . import Wrong, exercise

_STRATEGIES = get_args(Routing)


@exercise(
    "routing.1",
    hints=(
        "Does it matter who gets a message? Is all work of the same size? Must somebody remember something?",
        "Pictures of different sizes: the one with the shortest queue. Sensors: always the same one. Reload: all.",
    ),
    solution="""
        thumbnails, sensors, reload = "least_queue", "hash", "broadcast"
    """,
)
def strategies(thumbnails: Any, sensors: Any, reload: Any) -> None:
    """Which strategy fits."""
    for name, answer in (("thumbnails", thumbnails), ("sensors", sensors), ("reload", reload)):
        if answer not in _STRATEGIES:
            raise Wrong(f"{name}: there is no strategy {answer!r}; there are {', '.join(map(repr, _STRATEGIES))}.")
    if thumbnails == "round_robin":
        raise Wrong("thumbnails: each in turn, but one large picture holds up all that come after it to the same one.")
    if thumbnails != "least_queue":
        raise Wrong(f"thumbnails: {thumbnails!r} does not look at who has time.")
    if sensors != "hash":
        raise Wrong(f"sensors: with {sensors!r} the values of one sensor go to several, and none has its mean.")
    if reload != "broadcast":
        raise Wrong(f"reload: with {reload!r} one of them hears of it, not all.")


_TOPICS = (
    "station.de.berlin.wind",
    "station.de.berlin.temperature",
    "station.fr.paris.temperature",
    "station.de.kiel.sea.temperature",
    "station.no.oslo.sea.wind",
)


@exercise(
    "routing.2",
    hints=(
        "`*` stands for exactly one word, `#` for none or more.",
        "A temperature has four words, of which two may be any. What comes from Germany begins with `station.de.`.",
    ),
    solution="""
        temperatures, germany = "station.*.*.temperature", "station.de.#"
    """,
    after="A pattern is checked word by word: `station.de.*` would take no city's wind at all.",
)
async def patterns(runtime: RingKernelRuntime, temperatures: Any, germany: Any) -> None:
    """Patterns of topics."""
    wanted = {
        "temperatures": (temperatures, {_TOPICS[1], _TOPICS[2]}),
        "germany": (germany, {_TOPICS[0], _TOPICS[1], _TOPICS[3]}),
    }
    heard: dict[str, set[str]] = {name: set() for name in wanted}

    async def listen(ctx: Any) -> None:
        async for topic in ctx:
            heard[ctx.kernel_id].add(topic)

    for name, (pattern, _) in wanted.items():
        kernel = await runtime.launch(ring_kernel(name)(listen))
        await kernel.activate()
        try:
            await runtime.subscribe(pattern, name)
        except (PyDotComputeError, ValueError, TypeError, AttributeError) as error:
            raise Wrong(f"{name}: {pattern!r} is no pattern: {error}.") from error
    for topic in _TOPICS:
        await runtime.publish(topic, topic)
    await runtime.wait_idle(*wanted, timeout=5)
    for name, (pattern, expected) in wanted.items():
        for topic in _TOPICS:
            if (topic in heard[name]) != (topic in expected):
                word = "does not take" if topic in expected else "also takes"
                raise Wrong(f"{name}: {pattern!r} {word} `{topic}`.")
