"""Steps to machine code, by Numba, which is imported when the first is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import CellType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from . import block
from .cache import cached_module, fingerprint, is_cached, read_from_outside
from .rules import check_step, users_function

if TYPE_CHECKING:
    from ..runtime.step import StepDefinition


def compiler_missing() -> str | None:
    """Why steps cannot be compiled here and what to do about it; None if they can."""
    try:
        from numba import config
    except ModuleNotFoundError as error:
        if error.name == "numba":
            return "Numba is not installed: `pip install numba`, and restart the notebook's kernel"
        return f"Numba cannot be imported ({error}): `pip install --force-reinstall numba`"
    except Exception as error:  # noqa: BLE001 - whatever is wrong with an installation
        return (
            f"Numba cannot be imported ({type(error).__name__}: {error}): `pip install --upgrade numba` takes a "
            "version that fits the other packages; restart the notebook's kernel afterwards"
        )
    if config.DISABLE_JIT:
        return "Numba is switched off: unset the environment variable NUMBA_DISABLE_JIT"
    return None


@cache
def _njit() -> Any:
    """Numba's decorator, once it knows what `lane`, `width` and `barrier` are in compiled code."""
    from numba import njit
    from numba.extending import overload

    overload(block.lane)(lambda: lambda: 0)
    overload(block.width)(lambda: lambda: 1)
    overload(block.barrier)(lambda: lambda: None)
    return njit


def device_function(definition: StepDefinition, *, boundscheck: bool | None = None) -> Any:
    """The step as a Numba dispatcher: ``step(state_record, message_record, reply_record, *arrays) -> bool``.

    Functions that the step calls are compiled alike, whether they are plain or ``@njit``: division by zero gives inf or
    nan, as on a GPU. `boundscheck`, by default that of the definition, makes an index out of bounds an IndexError.
    Nothing is compiled before the first call or `typed_check`.
    """
    from .diagnosis import CheckingCompiler, Diagnosis

    diagnosis = Diagnosis(definition)
    options = {
        "error_model": "numpy",
        "nogil": True,
        "boundscheck": definition.boundscheck if boundscheck is None else boundscheck,
        "pipeline_class": CheckingCompiler,
    }

    def jit(function: FunctionType, fastmath: Any) -> Any:
        function.diagnosis = diagnosis  # type: ignore[attr-defined] # for the CheckingCompiler
        return _njit()(fastmath=fastmath, **options)(function)

    return with_helpers(definition.body, jit, {})


def typed_check(definition: StepDefinition, step: Any = None) -> None:
    """Compile the step for the types of its records and arrays; `step` is its `device_function`, if there is one yet.

    Raises:
        StepError: with the line, and what to write instead; `details` is what Numba says.
    """
    from .diagnosis import Diagnosis

    __tracebackhide__ = True  # the error shows the line of the user
    diagnosis = Diagnosis(definition)
    if step is None:
        step = device_function(definition)
    try:
        step.compile(diagnosis.argument_types())
    except Exception as error:  # noqa: BLE001 - Numba raises what it likes; `details` keeps it
        told = diagnosis.translated(error)
    else:
        return
    raise told.with_traceback(None) from None


def with_helpers(function: Any, jit: Callable[[FunctionType, Any], Any], made: dict[FunctionType, Any]) -> Any:
    """What ``jit(copy, fastmath)`` makes of a function, which reads what `jit` makes of the functions that it reads.

    `made` are those there are.
    """
    fastmath = getattr(function, "targetoptions", {}).get("fastmath", False)
    plain: FunctionType = getattr(function, "py_func", function)
    if plain in made:
        return made[plain]
    scope = dict(plain.__globals__)
    cells = tuple(CellType() for _ in plain.__code__.co_freevars)
    copy = FunctionType(plain.__code__, scope, plain.__name__, plain.__defaults__, cells)
    copy.__kwdefaults__, copy.__qualname__ = plain.__kwdefaults__, plain.__qualname__
    # Numba imports the module of what it finds on disk: that of the user may have another name by then.
    copy.__module__ = __name__
    made[plain] = jit(copy, fastmath)
    # Only now, as a function may call itself.
    for name, value in read_from_outside(plain).items():
        if users_function(value) is not None:
            value = with_helpers(value, jit, made)
        if name in plain.__code__.co_freevars:
            cells[plain.__code__.co_freevars.index(name)].cell_contents = value
        else:
            scope[name] = value
    return made[plain]


def compiled(
    definition: StepDefinition, source: str, namespace: Mapping[str, Any], extra: tuple[object, ...] = ()
) -> ModuleType:
    """The module that `source` makes around the step, which is its global `step`; from disk if it was made before.

    Like `cached_module`, and so `source` writes ``cache=CACHE``. What it reads in `namespace` must follow from this
    package, from the definition's layouts, buffers and key, or from `extra`.

    Raises:
        StepError: as `typed_check`; a step that is on disk was checked when it was compiled.
    """
    __tracebackhide__ = True
    key = fingerprint(definition, source, extra)
    step = device_function(definition)
    if not is_cached(key):
        check_step(definition)  # once more: a function that it calls may have been defined since
        typed_check(definition, step)
    return cached_module(source, {**namespace, "step": step}, key)
