"""Exercises of the tutorial "PageRank: a graph of actors"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime import RingKernelRuntime
from . import Wrong, exercise
from ._trial import some_step, tried

_DAMPING = 0.85
_NAMES = ("Ada", "Ben", "Cem", "Dia", "Eva")
_LINKS: tuple[dict[str, dict[str, float]], ...] = (
    {"Ada": {"Ben": 1.0}, "Ben": {"Cem": 1.0}, "Cem": {"Ada": 1.0}},
    {
        "Ada": {"Ben": 0.5, "Cem": 0.5},
        "Ben": {"Ada": 0.25, "Dia": 0.75},
        "Cem": {"Ada": 1.0},
        "Dia": {"Eva": 1.0},
        "Eva": {"Cem": 0.4, "Ada": 0.6},
    },
)


def _settled(links: Mapping[str, Mapping[str, float]], shares: Mapping[str, float]) -> dict[str, float]:
    """What came to each when all of it has flowed: the sum over all steps, as a linear system."""
    names = list(links)
    flow = np.array([[links[source].get(target, 0.0) for source in names] for target in names])
    first = np.array([shares.get(name, 0.0) for name in names])
    came = np.linalg.solve(np.eye(len(names)) - _DAMPING * flow, first)
    return dict(zip(names, came.tolist(), strict=True))


def _shares(function: Any, written: str, names: Mapping[str, Any], *arguments: Any) -> dict[str, float]:
    """What a function of the student's returns, if it is a dict of numbers by name."""
    if not callable(function):
        raise Wrong(f"A function is wanted: `def {written}:`.")
    result = function(*arguments)
    if not isinstance(result, dict):
        raise Wrong(f"It returns {result!r}, no dict with an amount for each name.")
    if strange := [name for name in result if name not in names]:
        raise Wrong(f"Among the names of its dict is {strange[0]!r}, and nobody is called so.")
    if odd := [(name, share) for name, share in result.items() if not isinstance(share, (int, float, np.number))]:
        raise Wrong(f"For {odd[0][0]!r} it says {odd[0][1]!r}, which is no number.")
    return {name: float(share) for name, share in result.items()}


@exercise(
    "pagerank.1",
    hints=(
        "At first everybody got (1 - 0.85) / 77: the 15 % of a bored reader, spread evenly. Where do they go now?",
        "One name gets all of the 15 %.",
    ),
    solution="""
        def first_shares(names, home):
            return {home: 1 - 0.85}
    """,
    after="That is personalised PageRank: who is close to home, by all ways, short and long.",
)
def first_shares(first_shares: Any) -> None:
    """The reader who is bored goes home."""
    for links in _LINKS:
        for home in list(links)[:2]:
            names = list(links)
            given = _shares(first_shares, "first_shares(names, home)", links, names, home)
            total = sum(given.values())
            if elsewhere := [name for name, share in given.items() if share and name != home]:
                raise Wrong(f"With {home} as home, {elsewhere[0]} gets some as well: nobody begins anew there.")
            if abs(total - 1) < 1e-9:
                raise Wrong(
                    f"{home} gets {total:g}, and in the end all ranks add up to {1 / 0.15:.2f}: of the reader's steps "
                    f"only 15 % begin anew."
                )
            if abs(total - 0.15) > 1e-9:
                raise Wrong(f"{home} gets {total:g}; with that, all ranks add up to {total / 0.15:.3f}, not to 1.")


@exercise(
    "pagerank.2",
    hints=(
        "Three kinds of messages come: one that ends a round (or is the first), an edge, and an edge to nowhere. Look "
        "at `msg.source` first, then at `msg.target`.",
        "In a round, an edge to nowhere adds `state.rank[msg.source]` to `state.stuck`. At its end, everybody gets "
        "`0.85 * state.stuck / state.size` besides, and then it is 0 again.",
    ),
    solution="""
        @message
        class Edge:
            source: np.int32
            target: np.int32
            probability: np.float64


        class Mended(Record):
            size: np.int64
            rank: Annotated[NDArray[np.float64], Shape(64)]
            coming: Annotated[NDArray[np.float64], Shape(64)]
            stuck: np.float64


        @ring_kernel
        def mended(state: Mended, msg: Edge, out: None) -> bool:
            if msg.source >= 0 and msg.target >= 0:
                state.coming[msg.target] += 0.85 * state.rank[msg.source] * msg.probability
            elif msg.source >= 0:
                state.stuck += state.rank[msg.source]
            elif state.size == 0:
                state.size = msg.target
                state.rank[: msg.target] = 1.0 / msg.target
            else:
                for vertex in range(state.size):
                    state.rank[vertex] = (0.15 + 0.85 * state.stuck) / state.size + state.coming[vertex]
                    state.coming[vertex] = 0.0
                state.stuck = 0.0
            return False
    """,
    after="The ranks add up to 1 in every round, which is a good thing to watch while it runs.",
)
async def mended(runtime: RingKernelRuntime, mended: Any) -> None:
    """PageRank with vertices that have no links."""
    step = some_step(mended, replies=False)
    rows = [(0, 1, 0.5), (0, 2, 0.5), (1, 0, 1.0), (2, -1, 0.0), (3, 0, 0.25), (3, 2, 0.75), (4, -1, 0.0)]
    n = 5
    flow, stuck = np.zeros((n, n)), np.zeros(n)
    for source, target, probability in rows:
        if target < 0:
            stuck[source] = 1
        else:
            flow[target, source] = probability
    for rounds in (0, 1, 2, 60):
        edges = np.array([(-1, n, 0.0), *([*rows, (-1, 0, 0.0)] * rounds)])
        columns = {"source": edges[:, 0], "target": edges[:, 1], "probability": edges[:, 2]}
        _, state = await tried(runtime, step, **columns)
        await _free(runtime)
        found = _ranks(state, n)
        expected, plain, undamped = (np.full(n, 1 / n) for _ in range(3))
        for _ in range(rounds):
            expected = 0.15 / n + 0.85 * (flow @ expected + stuck @ expected / n)
            plain = 0.15 / n + 0.85 * flow @ plain
            undamped = 0.15 / n + 0.85 * flow @ undamped + stuck @ undamped / n
        what = f"After {rounds} round{'s' * (rounds != 1)} with 5 vertices, of which 2 have no links,"
        if np.allclose(found, expected, atol=1e-12):
            continue
        if rounds == 0:
            raise Wrong(f"After the first message alone, (-1, 5, 0), the ranks are {_listed(found)}, not 0.2 each.")
        if np.allclose(found, plain, atol=1e-12):
            raise Wrong(f"{what} the ranks add up to {found.sum():.3f}: what is stuck leaks away.")
        if np.allclose(found, undamped, atol=1e-12):
            raise Wrong(
                f"{what} the ranks add up to {found.sum():.3f}: of what is stuck, too, only 85 % go on; the other 15 % "
                f"are those of the bored reader."
            )
        if abs(found.sum() - 1) < 1e-9:
            raise Wrong(
                f"{what} the ranks add up to 1, as they should, but they are {_listed(found)} and not "
                f"{_listed(expected)}."
            )
        raise Wrong(
            f"{what} the ranks are {_listed(found)}, which add up to {found.sum():.3f}; right would be "
            f"{_listed(expected)}."
        )


@exercise(
    "pagerank.3",
    hints=(
        "By the old links it has passed on `0.85 * rank` in all, to each neighbour its share. What should each of them "
        "have got by the new links?",
        "For each name in either dict, `before | after`: 85 % of the rank, times how much larger its share has become. "
        "Who is not in a dict has the share 0 there.",
    ),
    solution="""
        def correction(rank, before, after):
            return {
                name: 0.85 * rank * (after.get(name, 0.0) - before.get(name, 0.0))
                for name in before | after
            }
    """,
    after="A small change makes little water flow. That is why those who keep ranks of a living graph do it so.",
)
def correction(correction: Any) -> None:
    """What to send when a vertex gets other links."""
    links = _LINKS[1]
    even = dict.fromkeys(links, 0.15 / len(links))
    changes = (
        ("Dia", {"Eva": 0.5, "Ada": 0.5}),  # one more
        ("Eva", {"Ada": 1.0}),  # one less
        ("Ada", {"Eva": 1.0}),  # all others
    )
    for vertex, after in changes:
        before, old = links[vertex], _settled(links, even)
        new = _settled({**links, vertex: after}, even)
        given = _shares(correction, "correction(rank, before, after)", links, old[vertex], dict(before), dict(after))
        more = _settled({**links, vertex: after}, given)
        found = {name: old[name] + more[name] for name in links}
        case = f"{vertex} has links to {_and(before)}, and then to {_and(after)} instead"
        if all(abs(found[name] - new[name]) < 1e-9 for name in links):
            continue
        total = sum(found.values())
        if total > 1 + 1e-9:
            raise Wrong(
                f"{case}. With your amounts the ranks add up to {total:.3f}: what went by the old links is not taken "
                f"back."
            )
        if total < 1 - 1e-9:
            raise Wrong(
                f"{case}. With your amounts the ranks add up to {total:.3f}, not to 1: more is taken back than sent."
            )
        worst = max(links, key=lambda name: abs(found[name] - new[name]))
        raise Wrong(f"{case}. With your amounts {worst} settles at {found[worst]:.4f}, and not at {new[worst]:.4f}.")


async def _free(runtime: RingKernelRuntime) -> None:
    """End what was tried, so that it can be tried again."""
    for kernel_id, kernel in runtime.kernels.items():
        if not kernel.state.over:
            await runtime.terminate(kernel_id)


def _ranks(state: Any, n: int) -> NDArray[np.float64]:
    if not hasattr(state, "rank"):
        raise Wrong("Its state has no `rank`: annotate `state` with Mended.")
    return np.asarray(state.rank[:n], np.float64)


def _listed(ranks: NDArray[np.float64]) -> str:
    return ", ".join(f"{rank:.3f}" for rank in ranks)


def _and(names: Mapping[str, Any]) -> str:
    return " and ".join(names)
