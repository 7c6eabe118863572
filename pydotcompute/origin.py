"""Where a user's code was defined: in which cell of a notebook, or in which module."""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from typing import Any


def notebook_shell() -> Any:
    """The IPython shell of a notebook kernel, or None: in scripts, in the terminal, and when IPython is not loaded."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell if getattr(shell, "kernel", None) is not None else None


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a cell of a notebook."""

    number: int
    """The execution count that the notebook shows: ``In [number]``."""
    id: str | None
    """The id of the cell itself, the same each time that it is run; None when the front end does not tell."""
    digest: int | None = None
    """CRC-32 of the UTF-8 of the source that was run, which tells whether the cell has changed since."""

    def __str__(self) -> str:
        return f"cell In [{self.number}]"


def current_cell() -> Cell | None:
    """The cell that is being run, or None outside a notebook."""
    shell = notebook_shell()
    if shell is None:
        return None
    try:
        request = shell.get_parent()
    except (AttributeError, LookupError):  # a kernel without the protocol's parent header
        request = {}
    cell_id, source = request.get("metadata", {}).get("cellId"), request.get("content", {}).get("code")
    # IPython counts a cell before or after it runs it, depending on the version: the number of its output fits in all.
    return Cell(
        shell.displayhook.prompt_count,
        cell_id if isinstance(cell_id, str) else None,
        zlib.crc32(source.encode("utf-8", "replace")) if isinstance(source, str) else None,
    )


def origin(module: str) -> str:
    """In words: ``cell In [7]``, or ``module mymod`` outside a notebook."""
    return str(current_cell() or f"module {module}")
