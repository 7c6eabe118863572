"""Every exercise takes its own solution, and says what is wrong with wrong answers."""

from __future__ import annotations

import linecache
import sys
from types import ModuleType
from typing import Any

import pytest

import pydotcompute.learn as learn
from pydotcompute.learn import Exercise, check, exercise, hint, solution
from tests.learn.answers import WRONG

# Answers are judged on a loop of their own, which they may block.
pytestmark = [pytest.mark.needs_numba, pytest.mark.may_block]
EXERCISES = learn.exercises()
NAMES = """
import asyncio
from typing import Annotated
import numpy as np
from numpy.typing import NDArray
from pydotcompute import Backoff, KernelContext, MemoryPool, Record, Shape, UnifiedBuffer, message, ring_kernel
from pydotcompute import barrier, lane, width
from pydotcompute.exceptions import *
"""
"""What the tutorials have imported."""


def answered(one: Exercise, code: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The verdict on the answer that some code makes."""
    name = f"<answer to {one.name}>"
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # a step's source is read
    module = ModuleType("cells")  # a dataclass looks its module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    space = vars(module)
    exec(NAMES, space)
    exec(compile(code, name, "exec"), space)
    return check(one.name, *(space[part] for part in one.answers))


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = answered(EXERCISES[name], EXERCISES[name].solution, monkeypatch)
    assert verdict, repr(verdict)
    assert repr(verdict).startswith(f"✓ {name}: right.")


@pytest.mark.parametrize(("name", "code", "words"), [(name, *wrong) for name, some in WRONG.items() for wrong in some])
@pytest.mark.filterwarnings("ignore")  # wrong answers may also be poor ones
def test_a_wrong_answer_is_told_why(name: str, code: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = answered(EXERCISES[name], code, monkeypatch)
    assert not verdict
    assert words in verdict.text
    assert verdict.hint or words.endswith("nothing yet")  # who has not begun needs none


def test_every_exercise_has_wrong_answers() -> None:
    assert EXERCISES.keys() == WRONG.keys()
    assert all(len(wrong) >= 2 for wrong in WRONG.values())


@pytest.fixture
def double() -> Any:
    """An exercise of its own."""

    @exercise("own.1", hints=("Think.", "It is `2 * n`."), solution="twice = lambda n: 2 * n", after="Well done.")
    def judge(twice: Any) -> None:
        """Doubles a number."""
        if twice(3) != 6:
            raise learn.Wrong(f"Twice 3 is not {twice(3)}.")

    yield judge
    del learn._exercises["own.1"]
    learn._tries.clear()


def test_hints_go_on_with_each_try_and_end_with_the_solution(double: Exercise) -> None:
    said = [check("own.1", lambda n: n).hint for _ in range(3)]
    assert said == ["Think.", "It is `2 * n`.", 'It is `2 * n`. (`solution("own.1")` shows one way to do it.)']
    assert repr(hint("own.1")) == "own.1: It is `2 * n`."
    assert check("own.1", lambda n: 2 * n)
    assert check("own.1", lambda n: n).hint == "Think."  # anew
    assert repr(hint("own.1", 1)) == "own.1: Think."
    assert repr(solution("own.1")) == "# own.1: one way to do it\ntwice = lambda n: 2 * n"


def test_what_is_said_is_text(double: Exercise) -> None:
    verdict = check("own.1", lambda n: "<b>`6`</b>")
    assert repr(verdict) == "✗ own.1: not yet. Twice 3 is not <b>`6`</b>.\n  Hint: Think."
    assert "&lt;b&gt;<code>6</code>&lt;/b&gt;" in verdict._repr_html_()
    assert "<details>" in solution("own.1")._repr_html_()
    assert "<code>2 * n</code>" in hint("own.1", 2)._repr_html_()


def test_what_an_answer_raises_is_told(double: Exercise) -> None:
    assert "It raised ZeroDivisionError: division by zero." in repr(check("own.1", lambda n: n / 0))


def test_an_answer_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "PATIENCE", 0.05)

    @exercise("own.2", hints=("Think.",), solution="")
    async def judge(runtime: Any, wait: Any) -> None:
        await wait()

    async def forever() -> None:
        import asyncio

        await asyncio.Event().wait()

    try:
        assert "given up after 0.05 s" in check("own.2", forever).text
    finally:
        del learn._exercises["own.2"]
        learn._tries.clear()


def test_what_fails_in_a_check_is_reported_without_the_advice_to_restart_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "@ring_kernel\nasync def backwards(ctx):\n    await ctx.receive()\n    1 / 0"
    assert "ZeroDivisionError" in answered(EXERCISES["first_actor.1"], code, monkeypatch).text
    assert [record.__dict__["failed_kernel"] for record in caplog.records] == [None]


def test_the_end_of_a_check_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert not check("tour.2", 30)  # there a ring kernel waits for another until both are ended
    assert not caplog.records


def test_bad_questions(double: Exercise) -> None:
    with pytest.raises(ValueError, match=r"no exercise 'first_actor.l'; did you mean 'first_actor"):
        check("first_actor.l", 1)
    with pytest.raises(ValueError, match=r"no exercise 'zzz'; there are .*own\.1"):
        solution("zzz")
    with pytest.raises(TypeError, match=r"own.1 takes twice: write check\('own.1', twice\)"):
        check("own.1")
    with pytest.raises(ValueError, match=r"own\.1 has 2 hints: n is 1 to 2, not 3"):
        hint("own.1", 3)
    with pytest.raises(ValueError, match="already"):
        exercise("own.1", hints=("x",), solution="")(lambda x: None)
    with pytest.raises(ValueError, match="no hint"):
        exercise("own.3", hints=(), solution="")
