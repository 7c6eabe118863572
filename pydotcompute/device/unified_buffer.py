"""An array that the host and the device share."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..exceptions import UnifiedBufferError

ALIGNMENT = 64
"""Bytes: one cache line, and at least what any vector load asks for."""


class UnifiedBuffer:
    """A C-contiguous array of zeros that has a host side and a device side.

    `shape` is an int or a sequence of ints, `dtype` any NumPy dtype of fixed size in native byte order, also
    a structured one. The memory starts at a multiple of 64 bytes.

    Where there is no GPU the device side *is* the host side, so that code written for one runs on the other::

        buf = UnifiedBuffer((1000,), dtype=np.float32)
        buf.host[:] = np.random.randn(1000)
        buf.device          # the same numbers

    There are three ways to the host side. `host` is for reading and writing and always right; the other two
    say what will be done, which can save a copy between host and device: `read_host()` leaves a copy on the
    device valid, and `write_host()` does not fetch what is about to be overwritten.

    NumPy functions take a buffer for an array: `np.mean(buf)`, `np.asarray(buf)` (read-only, no copy).

    Raises `UnifiedBufferError` (a `ValueError`) for a shape or dtype that no buffer can have, `TypeError`
    where they are no shape or dtype at all, and `MemoryError` where the machine cannot give that much.
    """

    def __init__(self, shape: SupportsIndex | Sequence[SupportsIndex], dtype: DTypeLike = np.float32) -> None:
        self._host = _aligned_zeros(_checked_shape(shape), _checked_dtype(dtype))

    @classmethod
    def from_array(cls, array: ArrayLike) -> Self:
        """A new buffer with the shape, dtype and a copy of the elements of `array`.

        Raises `UnifiedBufferError` for a dtype that no buffer can have.
        """
        source = np.asarray(array)
        buffer = cls(source.shape, source.dtype)
        buffer._host[...] = source
        return buffer

    @property
    def host(self) -> NDArray[Any]:
        """The elements as a writable NumPy array, `shape` and `dtype` as of the buffer; no copy.

        Assigning to it copies: `buf.host = x` is `buf.host[...] = x`, and so `buf.host += 1` works too.
        """
        return self._host

    @host.setter
    def host(self, values: ArrayLike) -> None:
        self._host[...] = values

    @property
    def device(self) -> NDArray[Any]:
        """The elements on the device: without a GPU the very array of `host`."""
        return self._host

    def read_host(self) -> NDArray[Any]:
        """The elements as a read-only array, `shape` and `dtype` as of the buffer; no copy.

        It shows later writes too. Writing to it raises NumPy's `ValueError`.
        """
        view = self._host.view()
        view.flags.writeable = False
        return view

    def write_host(self) -> NDArray[Any]:
        """A writable array, `shape` and `dtype` as of the buffer, whose every element the caller overwrites.

        What it holds before that is unspecified. No copy.
        """
        return self._host

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each dimension, in elements."""
        return self._host.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one element."""
        return self._host.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._host.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._host.size

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, on one side."""
        return self._host.nbytes

    def __len__(self) -> int:
        """Length of the first dimension; `TypeError` for a buffer without dimensions, as in NumPy."""
        return len(self._host)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        # Read-only unless copied: NumPy asks for this array to read from it, and a write through it would be
        # one that the buffer does not hear of.
        return np.array(self.read_host(), dtype=dtype, copy=copy)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or unpickled buffer is allocated like any other: an array by itself forgets its alignment.
        return type(self).from_array, (self.read_host(),)

    def __repr__(self) -> str:
        return f"UnifiedBuffer(shape={self.shape}, dtype={self.dtype}, {_human_size(self.nbytes)}, newest: host)"

    def _repr_html_(self) -> str:
        from html import escape  # only where somebody looks

        rows = {
            "shape": str(self.shape),
            "dtype": str(self.dtype),
            "size": _human_size(self.nbytes),
            "newest copy": "host, which the device shares",
        }
        cells = "".join(
            f'<tr><th style="text-align:left">{name}</th><td style="text-align:left">{escape(value)}</td></tr>'
            for name, value in rows.items()
        )
        return f'<table aria-label="UnifiedBuffer"><tbody>{cells}</tbody></table>'


def _checked_shape(shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    try:
        lengths = tuple(map(operator.index, shape if isinstance(shape, Sequence) else (shape,)))
    except TypeError:
        raise TypeError(f"a shape is an int or a tuple of ints, not {shape!r}") from None
    if any(length < 0 for length in lengths):
        raise UnifiedBufferError(f"no length of a shape may be negative: {lengths}")
    return lengths


def _checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    checked = np.dtype(dtype)
    if checked.hasobject:
        raise UnifiedBufferError(
            f"dtype {str(checked)!r} holds Python objects, which have no place on a device; "
            "use a number type, or a structured dtype of number types"
        )
    if checked.itemsize == 0:
        raise UnifiedBufferError(f"dtype {str(checked)!r} has no size; give it a length, such as 'S8' or 'U8'")
    if not checked.isnative:
        raise UnifiedBufferError(
            f"dtype {str(checked)!r} is in foreign byte order; use dtype.newbyteorder('=') "
            "and convert arrays with array.astype(...)"
        )
    return checked


def _aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    nbytes = math.prod(shape) * dtype.itemsize
    try:
        memory = np.zeros(nbytes + ALIGNMENT, np.uint8)
    except (MemoryError, ValueError, OverflowError):  # NumPy's ValueError: more than an address can count
        raise MemoryError(
            f"a buffer of shape {shape} and dtype {dtype} needs {_human_size(nbytes)}, "
            "more than this machine can give; use a smaller shape or dtype, or several buffers in turn"
        ) from None
    try:
        return np.ndarray(shape, dtype, buffer=memory, offset=-memory.ctypes.data % ALIGNMENT)
    except ValueError as error:
        raise UnifiedBufferError(f"no array can have shape {shape} and dtype {dtype}: {error}") from None


def _human_size(nbytes: int) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
    power = min(max(nbytes.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{nbytes / 1024**power:.1f} {units[power]}" if power else f"{nbytes} B"
