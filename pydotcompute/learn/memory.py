"""Exercises of the tutorial "Unified memory"."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..device.memory_pool import MemoryPool
from ..exceptions import PoolLimitError
from . import Wrong, exercise

_SIDES = ("host", "device")
_VERBS = ("read", "change", "overwrite")


class _Twin:
    """Two arrays that are copied to each other by the rules of a `UnifiedBuffer`, and counted."""

    def __init__(self, shape: tuple[int, ...] = (1,)) -> None:
        self._arrays = {side: np.zeros(shape, np.float32) for side in _SIDES}
        self._newest = set(_SIDES)
        self._given: list[NDArray[np.float32]] = []  # which may be written
        self.copies: list[str] = []
        """What each of them was for."""

    def access(self, verb: str, side: str) -> NDArray[np.float32]:
        if verb != "overwrite" and side not in self._newest:
            (other,) = self._newest
            self._arrays[side][...] = self._arrays[other]
            self._newest.add(side)
            self.copies.append(f"to the {side}")
        array = self._arrays[side].view()
        if verb == "read":
            array.flags.writeable = False
            return array
        for given in self._given:
            given.flags.writeable = False
        self._newest, self._given = {side}, [array]
        if verb == "overwrite":
            array[...] = np.nan  # what is there may not be counted on
        return array

    @property
    def latest(self) -> NDArray[np.float32]:
        """What is up to date, without an access."""
        return self._arrays[min(self._newest)]

    shape = property(lambda self: self._arrays["host"].shape)
    dtype = property(lambda self: self._arrays["host"].dtype)
    host = property(lambda self: self.access("change", "host"), lambda self, x: self._assign("host", x))
    device = property(lambda self: self.access("change", "device"), lambda self, x: self._assign("device", x))

    def _assign(self, side: str, values: Any) -> None:
        self.access("change", side)[...] = values

    @contextmanager
    def _within(self, verb: str, side: str) -> Iterator[NDArray[np.float32]]:
        array = self.access(verb, side)
        yield array
        array.flags.writeable = False

    def read_host(self) -> Any:
        return self._within("read", "host")

    def read_device(self) -> Any:
        return self._within("read", "device")

    def write_host(self) -> Any:
        return self._within("overwrite", "host")

    def write_device(self) -> Any:
        return self._within("overwrite", "device")

    def numpy(self) -> NDArray[np.float32]:
        return self.access("read", "host")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.numpy(), dtype, copy=copy)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"buffers that count have host, device, read_host, write_host, read_device, write_device, numpy, shape and "
            f"dtype, and no {name!r}"
        )


@exercise(
    "memory.1",
    hints=(
        "Keep what the rule is about: the set of the sides that are up to date. What does each of the three verbs do "
        "to it?",
        "Read: copy if the side is not in the set, and put it in. Change: the same, and then it is the only one in "
        "there. Overwrite: it is the only one in there, and nothing is copied.",
    ),
    solution="""
        def count_copies(accesses):
            newest, copies = {"host", "device"}, 0
            for verb, side in accesses:
                if verb != "overwrite" and side not in newest:
                    copies += 1
                newest = newest | {side} if verb == "read" else {side}
            return copies
    """,
    after="That is all a buffer does: two flags, and a copy where one of them is not set.",
)
def count_copies(count_copies: Any) -> None:
    """The copies that a row of accesses needs."""
    if not callable(count_copies):
        raise Wrong("A function is wanted: `def count_copies(accesses):`.")
    rows = [
        [],
        [("read", "device")],
        [("change", "host")],
        [("change", "host"), ("read", "device")],
        [("change", "host"), ("read", "device"), ("read", "device")],
        [("change", "host"), ("read", "host"), ("change", "host")],
        [("change", "host"), ("read", "device"), ("read", "host")],
        [("change", "host"), ("overwrite", "device"), ("read", "host")],
        [("change", "host"), ("change", "device"), ("read", "host")],
        [("overwrite", "device"), ("change", "host"), ("read", "device")],
    ]
    chance = random.Random(2)
    rows += [[(chance.choice(_VERBS), chance.choice(_SIDES)) for _ in range(n)] for n in (6, 12, 40)]
    for row in rows:
        twin = _Twin()
        for verb, side in row:
            twin.access(verb, side)
        found, expected = count_copies([*row]), len(twin.copies)
        if found == expected and not isinstance(found, bool):
            continue
        if isinstance(found, bool) or not isinstance(found, int | np.integer):
            raise Wrong(f"It returns {found!r}: a number is wanted.")
        if not row:
            raise Wrong(f"Nothing is accessed, and it says {found}.")
        story = ", ".join(f"{verb} {side}" for verb, side in row[:6]) + (" ..." if len(row) > 6 else "")
        raise Wrong(f"Accesses: {story}. It says {found}, and {expected} copies are needed.")


@exercise(
    "memory.2",
    hints=(
        "For each of the four arrays that are taken: is it read, or overwritten as a whole? There is a context for "
        "each.",
        "`frame` is overwritten on the host and read on the device; `result` the other way round.",
    ),
    solution="""
        def turn(frame, result, picture):
            with frame.write_host() as h:
                h[:] = picture
            with frame.read_device() as f, result.write_device() as r:
                r[:] = f * 2
            with result.read_host() as h:
                return float(h.mean())
    """,
    after="The frame to the device, the result to the host: what has to be moved, and nothing else.",
)
def turn(turn: Any) -> None:
    """A turn of a stream with as few copies as can be."""
    if not callable(turn):
        raise Wrong("A function is wanted: `def turn(frame, result, picture):`.")
    frame, result = _Twin((4, 5)), _Twin((4, 5))
    for number in range(4):
        before = len(frame.copies), len(result.copies)
        picture = np.arange(20, dtype=np.float32).reshape(4, 5) + number
        found = turn(frame, result, picture)
        if not isinstance(found, (float, np.float32)):
            raise Wrong(f"It returns {found!r}, and not the mean, a float.")
        found = float(found)
        expected, doubled = 2 * float(picture.mean()), result.latest
        if np.isnan(found) or np.isnan(doubled).any():
            raise Wrong(
                "Some elements were never written: `write_host` and `write_device` promise to overwrite every one, and "
                "what is in there before is of no use."
            )
        if abs(found - expected) > 1e-3:
            raise Wrong(
                f"Turn {number + 1}: the mean of the doubled picture is {expected:g}, and it returns {found:g}."
            )
        if not np.array_equal(doubled, 2 * picture):
            raise Wrong(f"Turn {number + 1}: the mean is right, but `result` does not hold the doubled picture.")
        copies = [f"`frame` {how}" for how in frame.copies[before[0] :]]
        copies += [f"`result` {how}" for how in result.copies[before[1] :]]
        if "`frame` to the device" not in copies:
            raise Wrong("It doubles the picture on the host: the device is to do that.")
        if len(copies) > 2:
            raise Wrong(f"Turn {number + 1}: right, and {len(copies)} copies: {', '.join(copies)}.")


@exercise(
    "memory.3",
    hints=(
        "How many buffers are needed at a time?",
        "One picture after the other: into a buffer, its means into the list, and then nobody uses the buffer any "
        "more. `buffer.close()` says so, and so does giving its name to the next one.",
    ),
    solution="""
        def means(pool, pictures):
            found = []
            for picture in pictures:
                buffer = pool.empty(picture.shape, picture.dtype)
                with buffer.write_host() as h:
                    h[:] = picture
                found.append(np.mean(buffer, axis=0))
                buffer.close()
            return found
    """,
    after="However long the stream is, it takes the memory of a picture or two.",
)
def means(means: Any) -> None:
    """Buffers of a pool that go back to it."""
    if not callable(means):
        raise Wrong("A function is wanted: `def means(pool, pictures):`.")
    pictures = [np.random.default_rng(n).random((64, 16)) for n in range(12)]
    pool = MemoryPool(limit=2 * pictures[0].nbytes)
    try:
        found = means(pool, pictures)
    except PoolLimitError:
        used = pool.statistics().buffers
        raise Wrong(
            f"The pool has room for two buffers, and a third one was asked for: who still holds the others? ({used} in "
            "use.)"
        ) from None
    if not isinstance(found, list):
        raise Wrong(
            f"It returns something of type {type(found).__name__}: a list is wanted, of an array for each picture."
        )
    if len(found) != len(pictures):
        raise Wrong(f"Of {len(pictures)} pictures it returns the means of {len(found)}.")
    for number, (one, picture) in enumerate(zip(found, pictures, strict=True)):
        if np.shape(one) != (16,):
            raise Wrong(f"Picture {number} has 16 columns, and what it returns has the shape {np.shape(one)}.")
        if not np.allclose(one, picture.mean(axis=0)):
            again = next((n for n, other in enumerate(pictures) if np.allclose(one, other.mean(axis=0))), None)
            if again is not None:
                raise Wrong(f"For picture {number} it returns the means of picture {again}.")
            raise Wrong(f"The means of picture {number} are wrong.")
    now = pool.statistics()
    if not now.reused + now.allocated:
        raise Wrong("The means are right, but no buffer of the pool was used.")
