"""Exercises that check themselves, as the tutorials have them.

    from pydotcompute.learn import check

    answer = ...  # yours
    check("messages.1", answer)  # what is wrong with it, and a hint; or that it is right

`hint` and `solution` help further. Who writes tutorials makes more of them with `exercise`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape
from importlib import import_module
from pkgutil import iter_modules
from textwrap import dedent
from threading import get_ident
from typing import Any

from ..runtime import RingKernelRuntime
from ..runtime.dead_letters import error_text

__all__ = ["Exercise", "Hint", "Solution", "Verdict", "Wrong", "check", "exercise", "exercises", "hint", "solution"]

PATIENCE = 20.0
"""Seconds that a judge may take, all that it waits for included."""
ENOUGH = 3
"""Tries after which a solution is offered."""


class Wrong(Exception):
    """Raised by a judge: what is wrong with the answer, in a sentence to the student."""


@dataclass(frozen=True)
class Exercise:
    """What `exercise` makes."""

    name: str
    hints: tuple[str, ...]
    solution: str
    after: str
    judge: Callable[..., Any]

    @property
    def answers(self) -> list[str]:
        """What an answer consists of: the names of the judge's parameters, without the runtime."""
        names = list(inspect.signature(self.judge).parameters)
        return names[1:] if inspect.iscoroutinefunction(self.judge) else names


_exercises: dict[str, Exercise] = {}
_tries: Counter[str] = Counter()


def exercise(name: str, *, hints: tuple[str, ...], solution: str, after: str = "") -> Callable[[Any], Exercise]:
    """Make an exercise of a function that judges answers.

    A plain function takes the parts of the answer. An `async def` takes a fresh `RingKernelRuntime` before them, on
    whose loop it runs and which is closed after it. Both raise `Wrong`; another exception counts as one that
    the answer has caused.

    Args:
        name: ``"topic.number"``.
        hints: one for each wrong try, the last one for all others.
        solution: code that makes a right answer, for the cell of the exercise.
        after: what is said of a right answer, besides that it is right.

    Raises:
        ValueError: there is an exercise of that name, or no hint.
    """
    if name in _exercises:
        raise ValueError(f"there is an exercise {name!r} already: choose another name")
    if not hints:
        raise ValueError(f"exercise {name!r} has no hint: give one in hints=")

    def made(judge: Callable[..., Any]) -> Exercise:
        _exercises[name] = Exercise(name, hints, dedent(solution).strip(), after, judge)
        return _exercises[name]

    return made


def exercises() -> dict[str, Exercise]:
    """All that there are, by name: those of this package, and those that were made since."""
    for topic in _topics():
        import_module(f".{topic}", __name__)
    return dict(_exercises)


def check(name: str, *answers: Any) -> Verdict:
    """Judge an answer; show the result as the last expression of a cell.

    Args:
        name: of the exercise, ``"messages.1"``.
        answers: its parts, in the order in which the exercise names them.

    Raises:
        ValueError: there is no such exercise.
        TypeError: the answer has other parts.
    """
    one = _known(name)
    if len(answers) != len(one.answers):
        raise TypeError(f"{name} takes {', '.join(one.answers)}: write check({name!r}, {', '.join(one.answers)})")
    missing = [what for what, answer in zip(one.answers, answers, strict=True) if answer is ...]
    try:
        if missing:
            where = "in place of `...`; a function or a class in place of the whole line"
            return Verdict(name, False, f"{' and '.join(missing)}: nothing yet. Write your answer {where}.")
        _judge(one, answers)
    except Wrong as wrong:
        return _not_yet(one, str(wrong))
    except Exception as error:  # noqa: BLE001 - of the student's code, whatever it is
        return _not_yet(one, f"It raised {error_text(error)}.")
    _tries.pop(name, None)
    return Verdict(name, True, one.after)


def hint(name: str, n: int | None = None) -> Hint:
    """A hint: the next one, or number `n`, from 1.

    Raises:
        ValueError: there is no such exercise, or no such hint.
    """
    one = _known(name)
    if n is None:
        n = min(_tries[name] + 1, len(one.hints))
    if not 1 <= n <= len(one.hints):
        raise ValueError(f"{name} has {len(one.hints)} hints: n is 1 to {len(one.hints)}, not {n!r}")
    return Hint(name, one.hints[n - 1])


def solution(name: str) -> Solution:
    """One way to do it, as code.

    Raises:
        ValueError: there is no such exercise.
    """
    return Solution(name, _known(name).solution)


@dataclass(frozen=True)
class Verdict:
    """What `check` says; true if the answer is right."""

    name: str
    right: bool
    text: str
    hint: str = ""

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        said = (
            f"{'✓' if self.right else '✗'} {self.name}: {'right.' if self.right else 'not yet.'} {self.text}".rstrip()
        )
        return f"{said}\n  Hint: {self.hint}" if self.hint else said

    def _repr_html_(self) -> str:
        colour, word = ("#1a7f37", "✓ right") if self.right else ("#9a6700", "✗ not yet")
        text = f" {_marked(self.text)}" if self.text else ""
        more = f'<div style="margin-top:4px">Hint: {_marked(self.hint)}</div>' if self.hint else ""
        return (
            f'<div style="border-left:4px solid {colour};padding:6px 10px">'
            f"<b>{escape(self.name)}: {word}.</b>{text}{more}</div>"
        )


@dataclass(frozen=True)
class Hint:
    """What `hint` says."""

    name: str
    text: str

    def __repr__(self) -> str:
        return f"{self.name}: {self.text}"

    def _repr_html_(self) -> str:
        return f'<div style="padding:6px 10px"><b>{escape(self.name)}:</b> {_marked(self.text)}</div>'


@dataclass(frozen=True)
class Solution:
    """What `solution` shows."""

    name: str
    code: str

    def __repr__(self) -> str:
        return f"# {self.name}: one way to do it\n{self.code}"

    def _repr_html_(self) -> str:
        return (
            f"<details><summary>{escape(self.name)}: one way to do it</summary><pre>{escape(self.code)}</pre></details>"
        )


def _judge(one: Exercise, answers: tuple[Any, ...]) -> None:
    if not inspect.iscoroutinefunction(one.judge):
        one.judge(*answers)
        return

    log, loops, closing = logging.getLogger("pydotcompute"), set[int](), False

    def reported(record: logging.LogRecord) -> bool:
        if record.thread not in loops:
            return True
        if hasattr(record, "failed_kernel"):
            record.failed_kernel = None  # no advice to restart it: it is not one of the notebook's
        return not closing

    async def judged() -> None:
        loops.add(get_ident())
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                await one.judge(runtime, *answers)
        except TimeoutError:
            if limit.expired():
                raise Wrong(f"It was given up after {PATIENCE:g} s: does it wait for what never comes?") from None
            raise

    runtime = RingKernelRuntime(loop="thread")  # it must not wait for the loop of a notebook, on which the cell runs
    log.addFilter(reported)
    try:
        runtime.sync.call(judged)
    finally:
        closing = True  # what was asked then hears that nobody answers any more
        runtime.sync.close(drain=False)
        log.removeFilter(reported)


def _not_yet(one: Exercise, text: str) -> Verdict:
    _tries[one.name] += 1
    tries = _tries[one.name]
    said = one.hints[min(tries, len(one.hints)) - 1]
    if tries >= ENOUGH:
        said += f' (`solution("{one.name}")` shows one way to do it.)'
    return Verdict(one.name, False, text, said)


def _known(name: str) -> Exercise:
    if name not in _exercises:
        topic = str(name).partition(".")[0].replace("-", "_")
        if topic in _topics():
            import_module(f".{topic}", __name__)
    if name not in _exercises:
        names = list(exercises())
        near = get_close_matches(str(name), names, 3)
        said = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"no exercise {name!r}; {said}")
    return _exercises[name]


def _topics() -> list[str]:
    """The modules of this package that hold exercises."""
    return [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]


def _marked(text: str) -> str:
    """Text as HTML, with what stands between backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
