"""The two sides of buffers: which one is the newest, and what is copied between them."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import numpy as np

from ...device.memory import DEVICE, HOST, Side
from ...device.memory_pool import MemoryPool
from ...device.text import human_size
from ...device.unified_buffer import UnifiedBuffer
from ...exceptions import PyDotComputeError
from ...telemetry import Frame
from ...telemetry.html import escape
from ..reports import short_errors
from .live import LiveWidget, OwnSource, source, style

MOST = 24
"""How many buffers are shown: of more, those between whose sides the most is copied."""
CALM = 2.0
"""Seconds that the choice of them stays at least, and in which a rate comes down to a third when nothing is copied."""
STILL = 5.0
"""Seconds after the last copy from which on the rate is 0."""
GRACE = 5.0
"""Seconds from the end of what it shows to that of the view: a page may be slow to open one that has just been made."""


@short_errors
def memory(
    what: UnifiedBuffer | MemoryPool | Iterable[UnifiedBuffer | MemoryPool] | Mapping[str, UnifiedBuffer | MemoryPool],
    *,
    hz: float = 5.0,
) -> Memory:
    """A live view of buffers: the copies on host and device, which one is the newest, and transfers as they happen.

    Make it the last expression of a cell. It keeps no buffer alive, and closes once all that it shows are gone. Where
    there is no GPU, both sides of a buffer are one and nothing is ever copied; the view says so.

    Args:
        what: a buffer; a pool, of which all buffers are shown, also those that come later; or several of these, by
            names if you like: ``memory({"weights": weights, "pool": pool})``.
        hz: pictures a second while it is in sight (0 < hz <= 20).

    Raises:
        TypeError: something else.
        UnifiedBufferError: one of the buffers is closed.
        ValueError: a rate out of range.
    """
    return Memory(what, hz=hz)


class Seen:
    """Memory that is shown, and what was seen of it last."""

    def __init__(self, number: int, name: str, buffer: UnifiedBuffer) -> None:
        memory = buffer._memory
        self._memory = weakref.ref(memory)
        self.bytes = memory.nbytes
        self.last = 0.0
        """When the last copy was, or else 0."""
        self._rates = [0.0, 0.0]
        self._copied = [memory.copies[HOST].nbytes, memory.copies[DEVICE].nbytes]
        self._looked = time.monotonic()
        part = buffer.nbytes < memory.nbytes
        self.row: dict[str, Any] = {
            "number": number,
            "name": name,
            "shape": str(buffer.shape),
            "dtype": str(buffer.dtype),
            "bytes": buffer.nbytes,
            "whole": memory.nbytes if part else None,  # this much is copied at a time, for the part that a view is
        }

    @property
    def gone(self) -> bool:
        return self._memory() is None

    @property
    def rate(self) -> float:
        """Bytes a second, both ways."""
        return sum(self._rates)

    def look(self) -> None:
        memory = self._memory()
        self.row["gone"] = memory is None
        if memory is None:
            self._rates = [0.0, 0.0]
            return
        now, wall = time.monotonic(), time.time()
        passed, self._looked = now - self._looked, now
        host, device = memory.newest
        self.row |= {
            "shared": memory.shared,
            "host": host or memory.shared,
            "device": device or memory.shared,
            "allocated": memory.shared or memory.block.device is not None,
            "gpu": memory.index,
            "kernel": memory.kernel,
            "toHost": self._copies(memory.copies[HOST], HOST, passed, wall),
            "toDevice": self._copies(memory.copies[DEVICE], DEVICE, passed, wall),
        }

    def _copies(self, copies: Any, side: Side, passed: float, wall: float) -> dict[str, Any]:
        new, self._copied[side] = copies.nbytes - self._copied[side], copies.nbytes
        if copies.last is not None:
            self.last = max(self.last, copies.last)
        if new and passed > 0:
            weight = -math.expm1(-passed / CALM)
            self._rates[side] += (new / passed - self._rates[side]) * weight
        elif copies.last is None or wall - copies.last > STILL:
            self._rates[side] = 0.0
        else:
            self._rates[side] *= math.exp(-passed / CALM)
        return {"count": copies.count, "bytes": copies.nbytes, "rate": self._rates[side]}


class Sight(OwnSource):
    """What a view shows: buffers have no runtime, and none of them is kept alive."""

    def __init__(self, parts: Mapping[str, UnifiedBuffer | MemoryPool]) -> None:
        super().__init__()
        self._numbers = count()
        self._seen: weakref.WeakKeyDictionary[Any, Seen] = weakref.WeakKeyDictionary()
        self.pools = [(name, weakref.ref(pool)) for name, pool in parts.items() if isinstance(pool, MemoryPool)]
        self._alone = len(parts) == 1
        self.named: list[Seen] = []
        for name, buffer in parts.items():
            if isinstance(buffer, UnifiedBuffer):
                one = Seen(next(self._numbers), name, buffer)
                self.named.append(one)
                self._seen.setdefault(buffer._memory, one)  # if it is also one of a pool

    def _of_pool(self, name: str, buffer: UnifiedBuffer) -> Seen:
        key = buffer._memory
        found = self._seen.get(key)
        if found is None:
            number = next(self._numbers)
            whose = "" if self._alone else f"{name}: "
            found = self._seen[key] = Seen(number, f"{whose}buffer {number}", buffer)
        return found

    @property
    def closed(self) -> bool:
        return all(one.gone for one in self.named) and all(pool() is None for _, pool in self.pools)

    def buffers(self) -> list[Seen]:
        """All that there are now, and those that were there when the view began."""
        found = dict.fromkeys(self.named)
        for name, reference in self.pools:
            if (pool := reference()) is not None:
                for buffer in pool.buffers:
                    try:
                        found[self._of_pool(name, buffer)] = None
                    except PyDotComputeError:  # closed just now
                        continue
        return list(found)


class Memory(LiveWidget):
    """What `memory` makes."""

    _esm = source("memory")
    _css = style("memory")

    def __init__(self, what: Any, *, hz: float) -> None:
        self._sight = Sight(dict(_parts(what)))
        self._rows: list[dict[str, Any]] = []
        self._totals: dict[str, Any] = {}
        self._pools: list[dict[str, Any]] = []
        self._chosen: set[Seen] = set()
        self._chosen_at = 0.0
        self._over_at: float | None = None
        super().__init__(self._sight, hz=hz)

    def __repr__(self) -> str:
        return f"Memory(hz={self._hz:g})"

    def _check(self) -> bool:
        """Widgets live until they are closed: with what it shows it goes itself."""
        if not super()._check():
            return False
        if self._status == "closed" and not self._ended.is_set():
            now = time.monotonic()
            self._over_at = now if self._over_at is None else self._over_at
            if now - self._over_at < GRACE:
                return False
            self.close()
        return True

    # -- sampling and sending: with the lock ---------------------------------------------------------------------------

    def _look(self, frame: Frame) -> None:
        if self._sight.closed and self._totals:  # what there was
            self._rows = [{**row, "gone": True} for row in self._rows]
            self._pools = [{**pool, "gone": True} for pool in self._pools]
            return
        buffers = self._sight.buffers()
        for one in buffers:
            one.look()
        self._rows = [one.row for one in self._busiest(buffers)]
        there = [one for one in buffers if not one.gone]
        self._totals = {
            "buffers": len(there),
            "bytes": sum(one.bytes for one in there),
            "more": len(buffers) - len(self._rows),
            "shared": any(one.row["shared"] for one in there),
        }
        self._pools = [_pool(name, pool) for name, reference in self._sight.pools if (pool := reference()) is not None]

    def _busiest(self, buffers: list[Seen]) -> list[Seen]:
        """Those that are shown, each in its place for as long as it is."""
        now = time.monotonic()
        if len(buffers) <= MOST:
            return buffers
        if now - self._chosen_at >= CALM or not self._chosen <= set(buffers):
            self._chosen_at = now
            ranked = sorted(buffers, key=lambda one: (one.rate, one.last, one in self._chosen, one.bytes), reverse=True)
            self._chosen = set(ranked[:MOST])
        return [one for one in buffers if one in self._chosen]

    def _content(self, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        closed = "given up" if self._sight.closed else None
        return {"rows": self._rows, "pools": self._pools, "totals": self._totals, "closed": closed}, []

    def _picture(self) -> dict[str, str]:
        return {"text/html": memory_html(self._rows, self._pools, self._totals)}


def _parts(what: Any) -> Iterator[tuple[str, UnifiedBuffer | MemoryPool]]:
    """What shall be shown, by name."""
    wanted = "memory() takes a UnifiedBuffer, a MemoryPool, or several of them"
    if isinstance(what, UnifiedBuffer | MemoryPool):
        given: list[tuple[Any, Any]] = [(type(what).__name__, what)]
    elif isinstance(what, Mapping):
        given = list(what.items())
    elif isinstance(what, Iterable) and not isinstance(what, str | bytes | np.ndarray):
        given = [(f"{'pool' if isinstance(one, MemoryPool) else 'buffer'} {i}", one) for i, one in enumerate(what)]
    else:
        raise TypeError(f"{wanted}, not type {type(what).__name__}")
    if not given:
        raise TypeError(f"{wanted}; there is none in {what!r}")
    for name, one in given:
        if not isinstance(one, UnifiedBuffer | MemoryPool):
            raise TypeError(f"{wanted}, not type {type(one).__name__}")
        if not isinstance(name, str):
            raise TypeError(f"the names of what memory() shows are strings, not {name!r}")
        yield name, one


def _pool(name: str, pool: MemoryPool) -> dict[str, Any]:
    now = pool.statistics()
    return {
        "name": name,
        "inUse": now.in_use,
        "kept": now.kept,
        "blocks": now.kept_blocks,
        "peak": now.peak,
        "limit": now.limit,
        "buffers": now.buffers,
        "reused": now.reused,
        "allocated": now.allocated,
        "gone": False,
    }


# -- the picture that stays --------------------------------------------------------------------------------------------

_INK2 = "color-mix(in srgb, currentColor 72%, transparent)"
_LINE = "color-mix(in srgb, currentColor 22%, transparent)"
_FILL = "color-mix(in srgb, #1a8a4a 14%, transparent)"
_SIDE = f"flex:1 1 0;min-width:110px;padding:4px 10px;border:1px solid {_LINE};border-radius:6px"


def memory_html(rows: list[dict[str, Any]], pools: list[dict[str, Any]], totals: dict[str, Any]) -> str:
    """Pools and buffers as HTML that needs no style sheet."""
    parts = [_pool_html(pool) for pool in pools] + [_buffer_html(row) for row in rows]
    if not rows and not any(pool["gone"] for pool in pools):
        parts.append(f"<div style='color:{_INK2}'>no buffer is in use</div>")
    if totals["more"]:
        parts.append(
            f"<div style='color:{_INK2}'>and {totals['more']:,} more, between whose sides less is copied</div>"
        )
    style = "color:var(--jp-content-font-color1,inherit);font:13px/1.45 var(--jp-ui-font-family,system-ui,sans-serif)"
    return f"<div style='{style};max-width:720px'>{''.join(parts)}</div>"


def _pool_html(pool: dict[str, Any]) -> str:
    limit = "no limit" if pool["limit"] is None else f"limit {human_size(pool['limit'])}"
    facts = (
        f"{human_size(pool['inUse'])} in use in {_counted(pool['buffers'], 'buffer')}",
        f"{human_size(pool['kept'])} kept in {_counted(pool['blocks'], 'free block')}",
        f"most in use {human_size(pool['peak'])}",
        f"{pool['reused']:,} hits and {_counted(pool['allocated'], 'miss')}",
        limit,
        *(["given up"] if pool["gone"] else []),
    )
    return (
        f"<div style='padding:4px 0'><b>{escape(pool['name'])}</b> &ensp;"
        f"<span style='color:{_INK2}'>{' · '.join(facts)}</span></div>"
    )


def _buffer_html(row: dict[str, Any]) -> str:
    head = f"<b>{escape(row['name'])}</b> &ensp;<span style='color:{_INK2}'>{escape(_what(row))}</span>"
    return f"<div style='padding:6px 0'><div>{head}</div>{_sides_html(row)}</div>"


def _sides_html(row: dict[str, Any]) -> str:
    if row["gone"]:
        return f"<div style='color:{_INK2}'>given up</div>"
    if row["shared"]:
        return (
            f"<div style='{_SIDE};background:{_FILL}'><b>host = device</b> "
            f"<span style='color:{_INK2}'>one memory, for there is no GPU: nothing is copied</span></div>"
        )
    device = "device" if row["gpu"] is None else f"GPU {row['gpu']}"
    boxes = [
        f"<div style='{_SIDE}{f';background:{_FILL}' if fresh else ''}'><b>{name}</b><br>"
        f"<span style='color:{_INK2}'>{words}</span></div>"
        for name, fresh, words in (("host", row["host"], side(row, HOST)), (device, row["device"], side(row, DEVICE)))
    ]
    arrows = "<br>".join(
        f"{arrow} {copies['count']:,} × · {human_size(copies['bytes'])}"
        for arrow, copies in (("→", row["toDevice"]), ("←", row["toHost"]))
    )
    middle = f"<div style='padding:4px 10px;text-align:center;color:{_INK2};white-space:nowrap'>{arrows}</div>"
    return f"<div style='display:flex;align-items:center'>{boxes[0]}{middle}{boxes[1]}</div>"


def _what(row: dict[str, Any]) -> str:
    whole = f", part of {human_size(row['whole'])}" if row["whole"] is not None else ""
    user = f" · ring kernel {row['kernel']} works on it" if row.get("kernel") else ""
    return f"{row['shape']} {row['dtype']} · {human_size(row['bytes'])}{whole}{user}"


def side(row: dict[str, Any], of: Side) -> str:
    """How a side is, in words; `static/memory.js` has the same."""
    if of == DEVICE and not row["allocated"]:
        return "not allocated"
    if row["host"] and row["device"]:
        return "up to date"
    return "newest" if row["device" if of == DEVICE else "host"] else "out of date"


def _counted(n: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"
