"""Checks of arguments that several functions take."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ..exceptions import DefinitionError

Promise = Literal["at_most_once", "at_least_once"]
"""What becomes of messages that are on a node of a cluster when that is lost."""
PROMISES: tuple[str, ...] = get_args(Promise)


def checked_timeout(timeout: Any) -> None:
    """Refuse what is not a number of seconds.

    Raises:
        TypeError: not a number, or a bool.
        ValueError: negative, NaN or infinite.
    """
    if timeout is None:
        return
    if not is_number(timeout):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if not 0 <= timeout < float("inf"):
        raise ValueError(f"timeout must be 0 or more and finite (None waits for ever), not {timeout!r}")


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; a bool is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is an integer of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def checked_id(kernel_id: Any) -> str:
    """The id of a kernel.

    Raises:
        DefinitionError: not a text, or empty.
    """
    if not isinstance(kernel_id, str) or not kernel_id:
        raise DefinitionError(f"kernel_id must be a text that is not empty, not {kernel_id!r}")
    return kernel_id
