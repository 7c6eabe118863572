"""All ring kernels of the process: what the panel in JupyterLab is told of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ..origin import Cell, notebook_shell
from ..runtime import KernelState, RingKernel, RingKernelRuntime
from ..runtime.dead_letters import error_text
from ..runtime.kernel import _runtimes, definitions
from ..telemetry import STATES, Frame
from ..telemetry.html import STATE_WORDS
from . import wire
from .acts import fate, place, shortened, tag, traceback, verbs
from .rates import Rates

WORST = ("FAILED", "TERMINATING", "DEACTIVATED", "ACTIVE", "LAUNCHED", "CREATED", "TERMINATED")
"""Which state of several is told first."""
WORDS = 50
"""How many words of filters are remembered."""

_RANK = np.array([WORST.index(state) for state in STATES])
_FAILED = STATES.index("FAILED")
_STATES = [f"{STATE_WORDS[state]} {state.lower()}" for state in STATES]
_COLUMNS = {
    "state": "state",
    "version": "version",
    "depth": "queue_depth",
    "errors": "errors",
    "restarts": "restarts",
    "deadLetters": "dead_letters",
}
"""Where what the list can be sorted by is found in a row."""
_RATED = np.dtype([("processed", np.int64)])


def runtimes() -> list[tuple[RingKernelRuntime, str]]:
    """Those that are shown, with their names, as they were made: all that live, and closed ones that a variable holds.

    A closed one that no variable of the notebook holds is not seen any more, even if something else still holds it.
    """
    shell = notebook_shell()
    named = {
        id(value): name
        for name, value in (list(shell.user_ns.items()) if shell is not None else ())
        if isinstance(value, RingKernelRuntime) and not name.startswith("_")
    }
    shown = sorted(_present(), key=lambda runtime: runtime._serial)
    return [
        (runtime, wire.line(named.get(id(runtime), f"runtime {runtime._serial}")))
        for runtime in shown
        if id(runtime) in named or not runtime.closed
    ][: wire.MOST]


def runtime(serial: int) -> RingKernelRuntime | None:
    """The one of that number, while there is one."""
    return next((runtime for runtime in _present() if runtime._serial == serial), None)


def _present() -> list[RingKernelRuntime]:
    # Not through its iterator, which fails when another thread makes a runtime meanwhile.
    return [runtime for reference in list(_runtimes.data) if (runtime := reference()) is not None]  # type: ignore[attr-defined]


class _Reading:
    """What is known of a runtime. It does not hold the runtime, nor its kernels: that nobody looks at them any more
    must not be known only after the next look."""

    def __init__(self) -> None:
        self.rates = Rates(None)
        self.revision = 0
        """Another one when there are other kernels, or one runs another definition."""
        self.of: Any = None
        self.texts: list[str] = []
        """What words of a filter are looked for in."""
        self.found: dict[str, NDArray[np.bool_]] = {}
        """Which texts have a word in them."""
        self.cells: dict[str, Cell] = {}
        """The last run of each cell that defines some of the kernels."""
        self.cell_of: list[str | None] = []

    def read(self, runtime: RingKernelRuntime, name: str, frame: Frame) -> None:
        rated = np.empty(len(frame.rows), _RATED)  # the rest of a frame shall not be kept
        rated["processed"] = frame.rows["processed"]
        self.rates.add(replace(frame, rows=rated))
        of = frame.launches, int(frame.rows["version"].sum()), name
        if self.of is None or self.of[0] is not of[0] or self.of[1:] != of[1:]:
            self.of = of
            self._meet(runtime, name, frame)

    def _meet(self, runtime: RingKernelRuntime, name: str, frame: Frame) -> None:
        self.revision += 1
        self.texts, self.found, self.cells, self.cell_of = [], {}, {}, []
        kernels = runtime.kernels
        for kernel_id in frame.ids:
            definition = kernels[kernel_id].definition
            self.texts.append(f"{kernel_id}\n{tag(definition)}\n{name}".lower())
            cell = definition.cell
            if cell is None or cell.id is None or not 0 < len(cell.id) <= wire.KEY:
                self.cell_of.append(None)
            else:
                self.cell_of.append(cell.id)
                _keep_latest(self.cells, cell.id, cell)

    def having(self, word: str) -> NDArray[np.bool_]:
        """Which kernels have the word in their texts."""
        if word not in self.found:
            if len(self.found) >= WORDS:
                self.found.clear()
            self.found[word] = np.array([word in text for text in self.texts], np.bool_)
        return self.found[word]


@dataclass
class _Detail:
    """What is kept of a kernel that somebody looks at closely."""

    rates: Rates = field(default_factory=lambda: Rates(None))
    definition: tuple[Any, str | None] = (None, None)
    """Its source, and what it is the source of."""
    error: tuple[Any, dict[str, Any] | None] = (None, None)


class Census:
    """Looks at the runtimes now and then; keeps what the next look compares with."""

    def __init__(self) -> None:
        self._readings: WeakKeyDictionary[RingKernelRuntime, _Reading] = WeakKeyDictionary()
        self._details: dict[wire.Kernel, _Detail] = {}
        self._ranks: tuple[Any, NDArray[np.intp]] = (None, np.zeros(0, np.intp))

    def look(self, wanted: Collection[wire.Kernel] = ()) -> Survey:
        """What there is now; `wanted` are the kernels of which details may be asked."""
        found = []
        for runtime, name in runtimes():
            reading = self._readings.setdefault(runtime, _Reading())
            frame = runtime.sampler.frame()
            runtime._poke()
            reading.read(runtime, name, frame)
            found.append(_Found(runtime, name, frame, reading))
        self._details = {which: self._details.get(which) or _Detail() for which in wanted}
        survey = Survey(self, found)
        for which, detail in self._details.items():
            if (at := survey.find(which)) is not None:
                one, i = at
                frame = one.frame
                ids, rows = (which.kernel,), frame.rows[i : i + 1].copy()
                detail.rates.add(replace(frame, ids=ids, rows=rows, launches=frame.launches[i : i + 1]))
        return survey

    def rank(self, found: Iterable[_Found]) -> NDArray[np.intp]:
        """The place of each kernel in the order of ids, in which 2 comes before 10."""
        found = list(found)
        of = [(one.runtime._serial, one.reading.revision) for one in found]
        if self._ranks[0] != of:
            ids = [kernel_id for one in found for kernel_id in one.frame.ids]
            ranks = np.empty(len(ids), np.intp)
            ranks[sorted(range(len(ids)), key=[_natural(kernel_id) for kernel_id in ids].__getitem__)] = range(len(ids))
            self._ranks = of, ranks
        return self._ranks[1]


@dataclass
class _Found:
    """A runtime at one moment."""

    runtime: RingKernelRuntime
    name: str
    frame: Frame
    reading: _Reading


class Survey:
    """All kernels at one moment, one runtime after the other."""

    def __init__(self, census: Census, found: list[_Found]) -> None:
        self._census = census
        self._found = found
        self._ends = np.cumsum([len(one.frame.ids) for one in found], dtype=np.intp)

    @property
    def notebook_lag(self) -> float:
        """Seconds that the notebook's loop is late."""
        return max((one.frame.notebook_lag or 0.0 for one in self._found), default=0.0)

    def runtimes(self) -> list[dict[str, Any]]:
        return [
            {
                "id": one.runtime._serial,
                "name": one.name,
                "status": "closed" if one.runtime.closed else "live",
                "kernels": len(one.frame.ids),
            }
            for one in self._found
        ]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """All kernels together."""
        rate = self._rate
        lags = [one.frame.loop_lag for one in self._found if one.frame.loop_lag is not None and not one.runtime.closed]
        return {
            "kernels": len(self._state),
            "states": np.bincount(self._state, minlength=len(STATES)).tolist(),
            "queued": wire.count(int(self._column("queue_depth").sum())),
            "rate": _number(np.nansum(rate)) if not np.isnan(rate).all() else None,
            "lag": round(max(lags), 2) if lags else None,
            "deadLetters": wire.count(sum(one.frame.dead_letters for one in self._found)),
        }

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """The cells that define kernels which were launched."""
        cells: dict[str, Cell] = {}
        for one in self._found:
            for cell_id, cell in one.reading.cells.items():
                _keep_latest(cells, cell_id, cell)
        if not cells:
            return []
        for definition in definitions().values():  # a cell that was run again, and whose kernel has ended before
            if definition.cell is not None and definition.cell.id in cells:
                _keep_latest(cells, definition.cell.id, definition.cell)
        places: dict[str | None, int] = {cell_id: i for i, cell_id in enumerate(cells)}
        places[None] = -1
        cell_of = np.array([places[cell_id] for one in self._found for cell_id in one.reading.cell_of], np.intp)
        defined = np.flatnonzero(cell_of >= 0)
        cell_of, state, n = cell_of[defined], self._state[defined], len(cells)
        counts = np.bincount(cell_of * len(STATES) + state, minlength=n * len(STATES)).reshape(n, -1)
        queued = np.bincount(cell_of, self._column("queue_depth")[defined], n)
        versions = np.zeros(n, np.int64)
        np.maximum.at(versions, cell_of, self._column("version")[defined])
        order = np.lexsort((_RANK[state], cell_of))
        worst = defined[order[np.searchsorted(cell_of[order], np.arange(n))]]
        told = []
        for i, (cell_id, cell) in enumerate(list(cells.items())[: wire.MOST]):
            one, kernel = self._at(int(worst[i]))
            is_failed = int(self._state[worst[i]]) == _FAILED
            told.append(
                {
                    "cell": wire.text(cell_id, wire.KEY),
                    "digest": cell.digest or 0,
                    "number": wire.count(cell.number),
                    "runtime": one.runtime._serial,
                    "kernel": wire.text(kernel.id, wire.ID),
                    "kernels": int(counts[i].sum()),
                    "states": counts[i].tolist(),
                    "version": wire.count(int(versions[i])),
                    "queued": wire.count(int(queued[i])),
                    "failed": wire.line(shortened(error_text(kernel.exception))) if is_failed else None,
                }
            )
        return told

    def rows(self, wanted: wire.Rows) -> dict[str, Any]:
        """The part of the list that is wanted; if that lies behind its end, the last part."""
        matching = np.flatnonzero(self._passing(wanted.filter))
        if wanted.sort == "kernel":
            by: NDArray[Any] = self._census.rank(self._found)[matching]
        elif wanted.sort == "rate":
            by = self._rate[matching]
        else:
            by = self._column(_COLUMNS[wanted.sort])[matching]
        # What is not known comes last in both directions: NaN is sorted there.
        order = np.argsort(-by if wanted.descending else by, kind="stable")
        first = max(min(wanted.first, len(matching) - wanted.count), 0)
        chosen = matching[order[first : first + wanted.count]].tolist()
        return {"matching": len(matching), "first": first, "rows": [self._row(i) for i in chosen]}

    def find(self, which: wire.Kernel) -> tuple[_Found, int] | None:
        """Where a kernel is, and its place there."""
        for one in self._found:
            if one.runtime._serial == which.runtime and which.kernel in one.runtime.kernels:
                # One that was launched after the frame was taken is found by the next one.
                return (one, one.frame.ids.index(which.kernel)) if which.kernel in one.frame.ids else None
        return None

    def details(self, which: wire.Kernel) -> dict[str, Any]:
        """All there is to say of a kernel."""
        head: dict[str, Any] = {"runtime": which.runtime, "kernel": which.kernel}
        at = self.find(which)
        if at is None:
            return {**head, "missing": self._missing(which)}
        one, i = at
        kernel, row = one.runtime.kernels[which.kernel], one.frame.rows[i]
        detail = self._census._details[which]
        run = int(one.frame.launches[i]), int(row["version"])
        if detail.definition[0] != run:
            detail.definition = run, _source(kernel)
        failure = kernel.last_exception
        seen = *run, int(row["errors"]), kernel.restarts, id(failure)
        if detail.error[0] != seen:
            detail.error = seen, _error(kernel, failure) if failure is not None else None
        state = KernelState(STATES[int(row["state"])])
        rates, cell = detail.rates, kernel.definition.cell
        offered = [] if one.runtime.closed else verbs(state)
        if "resume" in offered:
            offered.insert(1, "step")
        return {
            **head,
            "missing": None,
            "tag": wire.line(tag(kernel.definition)),
            "state": int(row["state"]),
            "version": wire.count(int(row["version"])),
            "origin": wire.line(kernel.definition.origin + (f", on {kernel.node}" if kernel.node else "")),
            "cell": cell.id if cell is not None and cell.id in one.reading.cells else None,
            "source": detail.definition[1],
            "waiting": wire.line(shortened(kernel.waiting_for)),
            "error": detail.error[1],
            "statistics": {
                **{
                    name: wire.count(int(row[column]))
                    for name, column in (
                        ("depth", "queue_depth"),
                        ("bound", "queue_size"),
                        ("peak", "queue_peak"),
                        ("received", "received"),
                        ("processed", "processed"),
                        ("replied", "replied"),
                        ("unread", "replies_unread"),
                        ("dropped", "dropped"),
                        ("deadLetters", "dead_letters"),
                        ("errors", "errors"),
                        ("restarts", "restarts"),
                    )
                },
                "rate": _number(one.reading.rates.rate[i]),
                "busy": float(row["busy_ns"]) / 1e9,
                "waitP50": _number(rates.wait[0][0]),
                "waitP99": _number(rates.wait[1][0]),
                "handleP50": _number(rates.handle[0][0]),
                "handleP99": _number(rates.handle[1][0]),
            },
            "verbs": offered,
        }

    # -- all kernels, one runtime after the other ----------------------------------------------------------------------

    def _column(self, name: str) -> NDArray[np.int64]:
        columns = [one.frame.rows[name] for one in self._found]
        return np.concatenate(columns) if columns else np.zeros(0, np.int64)

    @cached_property
    def _state(self) -> NDArray[np.int64]:
        return self._column("state")

    @cached_property
    def _rate(self) -> NDArray[np.float64]:
        rates = [one.reading.rates.rate for one in self._found]
        return np.concatenate(rates) if rates else np.zeros(0)

    def _passing(self, words: str) -> NDArray[np.bool_]:
        """Which kernels have all of these words in their id, tag, state, or the name of their runtime."""
        passing = np.ones(len(self._state), np.bool_)
        for word in words.lower().split():
            in_state = np.array([word in text for text in _STATES])
            in_text = [one.reading.having(word) for one in self._found]
            passing &= in_state[self._state] | (np.concatenate(in_text) if in_text else False)
        return passing

    def _at(self, i: int) -> tuple[_Found, RingKernel]:
        one, i = self._where(i)
        return one, one.runtime.kernels[one.frame.ids[i]]

    def _where(self, i: int) -> tuple[_Found, int]:
        at = int(np.searchsorted(self._ends, i, "right"))
        return self._found[at], i - (int(self._ends[at - 1]) if at else 0)

    def _row(self, place: int) -> list[Any]:
        one, i = self._where(place)
        kernel_id, row = one.frame.ids[i], one.frame.rows[i]
        kernel = one.runtime.kernels[kernel_id]
        note = ""
        if kernel.exception is not None:
            note = f"failed: {shortened(error_text(kernel.exception))}"
        elif kernel.state in (KernelState.ACTIVE, KernelState.TERMINATING) and (what := kernel.waiting_for):
            note = f"waiting: {shortened(what)}"
        return [
            one.runtime._serial,
            wire.text(kernel_id, wire.ID),
            wire.line(tag(kernel.definition)),
            int(row["state"]),
            *(wire.count(int(row[name])) for name in ("version", "queue_depth", "queue_size", "queue_peak")),
            _number(self._rate[place]),
            *(wire.count(int(row[name])) for name in ("errors", "restarts", "dead_letters")),
            wire.line(note),
        ]

    def _missing(self, which: wire.Kernel) -> str:
        if all(one.runtime._serial != which.runtime for one in self._found):
            return "the runtime of this kernel is gone"
        return f"no ring kernel {shortened(which.kernel, 100)!r} was launched on this runtime"


def _keep_latest(cells: dict[str, Cell], cell_id: str, cell: Cell) -> None:
    former = cells.get(cell_id)
    if former is None or former.number < cell.number:
        cells[cell_id] = cell


def _natural(kernel_id: str) -> list[Any]:
    """By what ids are sorted: texts and numbers in turn."""
    parts: list[Any] = re.split("([0-9]+)", kernel_id.lower())
    numbers = [digits.lstrip("0") for digits in parts[1::2]]
    parts[1::2] = [(len(digits), digits) for digits in numbers]
    return parts


def _number(value: float) -> float | None:
    """In four digits; None: not known, or nothing that a browser could read."""
    return float(f"{value:.4g}") if 0 <= value < float("inf") else None


def _source(kernel: RingKernel) -> str | None:
    try:
        return wire.text(inspect.getsource(inspect.unwrap(kernel.definition.body)), wire.LONGEST)
    except (OSError, TypeError):  # made by `exec`, or in C
        return None


def _error(kernel: RingKernel, error: BaseException) -> dict[str, Any]:
    where = ", ".join(filter(None, (place(kernel, error), fate(kernel))))
    return {
        "text": wire.text(error_text(error)),
        "traceback": wire.text(traceback(error), wire.LONGEST),
        "place": wire.line(where),
    }
