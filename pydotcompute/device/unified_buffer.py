"""An array that the host and the device share."""

from __future__ import annotations

import asyncio
import math
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import EllipsisType
from typing import Any, Literal, NamedTuple, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..exceptions import BackendUnavailableError, UnifiedBufferError
from .memory import DEVICE, HOST, Block, Claim, Copies, ForeignStream, Memory, Side, cupy
from .text import html_table, human_size


class Transfers(NamedTuple):
    """What was copied between the sides of a buffer so far."""

    to_device: Copies
    to_host: Copies


class UnifiedBuffer:
    """A C-contiguous array of zeros that has a host side and a device side.

    `shape` is an int or a sequence of ints, `dtype` any NumPy dtype of fixed size in native byte order, also
    a structured one. The memory starts at a multiple of 64 bytes. Where CuPy finds a GPU, the host's memory is
    page-locked, and the device's is on the GPU of index `device`, or else on the one that first uses the buffer.

    Where there is no GPU the device side *is* the host side, so that code written for one runs on the other::

        buf = UnifiedBuffer((1000,), dtype=np.float32)
        buf.host[:] = np.random.randn(1000)
        buf.device          # the same numbers

    A side that is asked for is always up to date: what was written on the other one is copied before. `host` and
    `device` are for reading and writing. An array that they gave counts as written for as long as it or an array
    made from it is alive, or until the other side is taken for writing: take it anew then (writing to the old NumPy
    array raises `ValueError`). Those who say what they will do save copies::

        with buf.read_host() as h: ...      # leaves the device's copy valid
        with buf.write_host() as h: ...     # every element is overwritten: nothing is fetched

    and so do `read_device` and `write_device`. Work that CuPy does on the current stream needs no waiting for.

    Part of a buffer, `buf[10:20]`, is a view: a buffer too, with the same memory. NumPy functions take a buffer for
    an array: `np.mean(buf)`, `np.asarray(buf)` (read-only, no copy). Through DLPack others share the device side:
    `torch.from_dlpack(buf)`.

    While a ring kernel on a GPU works on the buffer, the host's side raises `UnifiedBufferError`, which names the
    kernel. One on the CPU shares it with the host.

    Raises `UnifiedBufferError` (a `ValueError`) for a shape, dtype or device that no buffer can have, `TypeError`
    where they are nothing of the kind, and `MemoryError` where the machine cannot give that much.
    """

    _memory: Memory
    _host: NDArray[Any]

    def __init__(
        self,
        shape: SupportsIndex | Sequence[SupportsIndex],
        dtype: DTypeLike = np.float32,
        device: SupportsIndex | None = None,
    ) -> None:
        lengths, checked = checked_shape(shape), checked_dtype(dtype)
        index = None if device is None else checked_device(device)
        nbytes = math.prod(lengths) * checked.itemsize
        self._adopt(Memory(Block(nbytes, zeroed=True), nbytes, index), lengths, checked)

    @classmethod
    def _of(cls, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Self:
        """A buffer in that memory, which holds just as much."""
        buffer = cls.__new__(cls)
        buffer._adopt(memory, shape, dtype)
        return buffer

    @classmethod
    def from_array(cls, array: ArrayLike, device: SupportsIndex | None = None) -> Self:
        """A new buffer with the shape, dtype and a copy of the elements of `array`.

        Raises `UnifiedBufferError` for a dtype that no buffer can have.
        """
        source = np.asarray(array)
        buffer = cls(source.shape, source.dtype, device)
        buffer._host[...] = source
        return buffer

    @classmethod
    def from_dlpack(cls, array: Any) -> Self:
        """A new buffer with the shape, dtype and a copy of the elements of an array of another library.

        One on a GPU is copied there, and not by way of the host. It is a copy because the buffer would not hear of
        what is written to the array. Raises `UnifiedBufferError` where the array is on neither host nor GPU, and
        what its `__dlpack__` raises, such as `BufferError` for a tensor that needs a gradient. `TypeError` for what
        has none.
        """
        if not hasattr(array, "__dlpack_device__"):
            raise TypeError(
                f"from_dlpack() takes an array of another library, with __dlpack__, not type {type(array).__name__}: "
                "use from_array()"
            )
        kind, index = array.__dlpack_device__()
        if kind in _ON_HOST:
            return cls.from_array(np.from_dlpack(array))
        if kind not in _ON_GPU or cupy() is None:
            raise UnifiedBufferError(
                f"no array on DLPack device type {int(kind)} can be read here: move it to the host first, and install "
                "CuPy for arrays on a GPU (`pip install cupy-cuda13x`)"
            )
        with cupy().cuda.Device(index):
            source = cupy().from_dlpack(array)
            buffer = cls(source.shape, source.dtype, index)
            with buffer.write_device() as target:
                target[...] = source
        return buffer

    def _adopt(self, memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._memory = memory
        try:
            self._host = np.ndarray(shape, dtype, np.asarray(memory))
        except ValueError as error:
            raise UnifiedBufferError(f"no array can have shape {shape} and dtype {dtype}: {error}") from None
        self._offset = 0  # bytes
        self._shown: dict[Side, Any] = {}  # arrays whose address others know, kept alive

    # -- the two sides ---------------------------------------------------------------------------------------------

    @property
    def host(self) -> NDArray[Any]:
        """The elements as a writable NumPy array, `shape` and `dtype` as of the buffer.

        Waits for the device where that wrote last. Assigning to it copies: `buf.host = x` is `buf.host[...] = x`,
        and so `buf.host += 1` works too.
        """
        array: NDArray[Any] = self._taken(HOST)[0]
        return array

    @host.setter
    def host(self, values: ArrayLike) -> None:
        self.host[...] = values

    @property
    def device(self) -> Any:
        """The elements on the device, writable: a `cupy.ndarray`, and without a GPU the very array of `host`.

        Does not wait for the copy that it may need; work on CuPy's current stream does. Assigning to it copies.
        """
        return self._taken(DEVICE)[0]

    @device.setter
    def device(self, values: Any) -> None:
        self.device[...] = values

    async def to_host(self) -> NDArray[Any]:
        """`host`, without keeping the event loop waiting for the copy."""
        array: NDArray[Any] = await self._fetched(HOST)
        return array

    async def to_device(self) -> Any:
        """`device`, once the copy is done, without keeping the event loop waiting for it.

        The copy has a stream of its own, so that other work of the GPU goes on beside it.
        """
        return await self._fetched(DEVICE)

    @contextmanager
    def read_host(self) -> Iterator[NDArray[Any]]:
        """``with buf.read_host() as h``: the elements as a read-only array, which shows later writes too."""
        yield self.numpy()

    @contextmanager
    def read_device(self) -> Iterator[Any]:
        """``with buf.read_device() as d``: the elements on the device, which will not be written.

        CuPy has no read-only arrays: what is written nevertheless is lost. Without a GPU, NumPy refuses. In the
        block, CuPy works on the GPU of the buffer.
        """
        if self._memory.shared:
            yield self.numpy()
            return
        stream = self._memory.stream()
        try:
            with self._working(DEVICE):
                yield self._device_array(None, stream)
        finally:
            self._memory.hand_to(stream)  # what was begun in the block, after copies that were made in it

    def write_host(self) -> AbstractContextManager[NDArray[Any]]:
        """``with buf.write_host() as h``: a writable array whose every element will be overwritten.

        What it holds before that is unspecified. After the block it refuses to be written.
        """
        return self._overwriting(HOST)

    def write_device(self) -> AbstractContextManager[Any]:
        """``with buf.write_device() as d``: an array on the device whose every element will be overwritten.

        What it holds before that is unspecified. It must not be written after the block; work that was begun there
        on CuPy's current stream may end later. In the block, CuPy works on the GPU of the buffer.
        """
        return self._overwriting(DEVICE)

    def numpy(self) -> NDArray[Any]:
        """The elements as a read-only NumPy array, `shape` and `dtype` as of the buffer."""
        self._memory.check_free()
        if not self._memory.shared:
            self._memory.open(HOST, None, fetch=True)
        view = self._host.view()
        view.flags.writeable = False
        return view

    def fill(self, value: Any) -> None:
        """Set every element to `value`, on the device if that is up to date.

        Raises what NumPy raises for a value that is none of the `dtype`.
        """
        element = np.asarray(value, self.dtype)
        if element.ndim:
            raise ValueError(f"fill() takes one element, not an array of shape {element.shape}; see copy_from()")
        side = DEVICE if self._memory.newest[DEVICE] and self._computes else HOST
        with self._overwriting(side) as array:
            array.fill(element[()])

    def copy_from(self, source: Any) -> None:
        """Copy the elements of a buffer, a NumPy array or anything like it, or an array on a GPU.

        They are converted to `dtype` and stretched to `shape` by NumPy's rules; `ValueError` where that cannot be. A
        source on a GPU is copied there, and not by way of the host.
        """
        if isinstance(source, UnifiedBuffer):
            on_device = self._computes and source._computes and source._memory.newest == (False, True)
            reading: AbstractContextManager[Any] = source.read_device() if on_device else source.read_host()
        else:
            on_device = self._computes and hasattr(source, "__cuda_array_interface__")
            reading = nullcontext(cupy().asarray(source) if on_device else np.asarray(source, self.dtype))
        with reading as values:
            if np.broadcast_shapes(values.shape, self.shape) != self.shape:
                raise ValueError(f"an array of shape {values.shape} does not fit into a buffer of shape {self.shape}")
            with self._overwriting(DEVICE if on_device else HOST) as array:
                array[...] = values

    def close(self) -> None:
        """Give the memory up; the buffer cannot be used any more.

        Arrays that were taken from it, and views, stay good: the memory goes back, to its pool if it has one, when
        the last of them is gone. To drop the buffer does the same. A second time does nothing.
        """
        if not self.closed:
            self._memory.check_free()
            del self._memory, self._host

    @property
    def closed(self) -> bool:
        """Whether its memory was given up by `close`."""
        return "_memory" not in vars(self)

    # -- as an array -----------------------------------------------------------------------------------------------

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

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie in C order without gaps, as ring kernels take them. Some slices do not."""
        return self._host.flags.c_contiguous

    @property
    def shared(self) -> bool:
        """Whether the device side is the host side, because there is no GPU: nothing is ever copied then."""
        return self._memory.shared

    @property
    def newest(self) -> tuple[Literal["host", "device"], ...]:
        """The sides that are up to date; the other one is when it is taken next."""
        host, device = (True, True) if self.shared else self._memory.newest
        return ("host", "device") if host and device else ("host",) if host else ("device",)

    @property
    def transfers(self) -> Transfers:
        """The copies between the sides so far: how many, how many bytes, when; of a view those of its buffer."""
        copies = self._memory.copies
        return Transfers(copies[DEVICE], copies[HOST])

    def __len__(self) -> int:
        """Length of the first dimension; `TypeError` for a buffer without dimensions, as in NumPy."""
        return len(self._host)

    def __getitem__(self, key: Any) -> Any:
        """``buf[10:20]``, ``buf[:, 0]``: a view. With an integer for every dimension: the element."""
        for index in key if isinstance(key, tuple) else (key,):
            if isinstance(index, (bool, np.bool, np.ndarray)) or not isinstance(
                index, (SupportsIndex, slice, EllipsisType)
            ):
                given = f"type {type(index).__name__}"
                if isinstance(index, np.ndarray):
                    given = f"an array of shape {index.shape}, dtype {index.dtype}"
                raise TypeError(
                    f"a view of a buffer is made with integers, slices and `...`, not {given}; "
                    "index an array of its: buf.host[...], buf.device[...]"
                )
        part = self._host[key]
        if not isinstance(part, np.ndarray):
            return self.numpy()[key]
        view = type(self).__new__(type(self))
        view._memory, view._host, view._shown = self._memory, part, {}
        view._offset = _address(part) - self._memory.block.address if part.size else 0
        return view

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        # Read-only unless copied: NumPy asks for this array to read from it, and a write through it would be
        # one that the buffer does not hear of.
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self.dtype.names is not None:  # a description would lose where their fields lie: __array__ does not
            raise AttributeError("a buffer of records has no __array_interface__; use np.asarray(buffer)")
        self._shown[HOST] = array = self.numpy()
        return array.__array_interface__

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._memory.block.device is None:
            raise AttributeError("this buffer has no copy on a GPU; its `device` makes one where there is a GPU")
        self._shown[DEVICE] = array = self.device
        interface: dict[str, Any] = array.__cuda_array_interface__
        return interface

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        if any(stride < 0 for stride in self._host.strides):
            raise BufferError("what runs backwards cannot be shared: some libraries end the process; copy it before")
        array = self.device
        if not self._memory.shared and isinstance(stream, int) and stream > _NUMBERED_STREAMS:
            self._memory.hand_to(ForeignStream(stream))
        with self._working(DEVICE):
            return array.__dlpack__(stream=stream, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        if self._memory.shared:
            return self._host.__dlpack_device__()
        with self.read_device() as array:
            kind, index = array.__dlpack_device__()
        return kind, index

    def __reduce__(self) -> tuple[Any, ...]:
        # A copied or unpickled buffer is allocated like any other: an array by itself forgets its alignment.
        return type(self).from_array, (self.numpy(),)

    def __getattr__(self, name: str) -> Any:
        if name in ("_memory", "_host"):
            raise UnifiedBufferError("this buffer was closed; make another one")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self.closed:
            return "UnifiedBuffer(closed)"
        return (
            f"UnifiedBuffer(shape={self.shape}, dtype={self.dtype}, {human_size(self.nbytes)}, newest: {self._newest})"
        )

    def _repr_html_(self) -> str:
        if self.closed:
            return html_table("UnifiedBuffer", {"state": "closed"})
        memory = self._memory
        rows = {"shape": str(self.shape), "dtype": str(self.dtype), "size": human_size(self.nbytes)}
        rows["newest copy"] = "host, which the device shares" if memory.shared else self._newest
        if memory.block.device is not None:
            rows["device"] = f"GPU {memory.index}"
        if (kernel := memory.kernel) is not None:
            rows["in use by"] = f"ring kernel {kernel}"
        return html_table("UnifiedBuffer", rows)

    @property
    def _computes(self) -> bool:
        """CuPy does more than hold such elements: it fills and converts them."""
        return not self._memory.shared and self.dtype.char in _COMPUTED

    @property
    def _newest(self) -> str:
        return " and ".join(
            name for name, newest in zip(("host", "device"), self._memory.newest, strict=True) if newest
        )

    # -- how the sides are taken -----------------------------------------------------------------------------------

    def _lend(self, holder: Callable[[], str | None], device: int | None) -> int:
        """Address of the elements for a ring kernel on that GPU, or on the CPU (None); always the same for a device.

        While `holder` returns the id of the kernel, the host's side raises. When it returns None again, the kernel's
        side has the newest contents. To be called again before the kernel goes on, for what the host has written
        meanwhile. A bound method is referred to weakly.
        """
        if device is not None and self._memory.shared:
            from . import driver  # asks for the GPU's driver

            if driver.device_count():
                raise BackendUnavailableError(
                    "buffers of ring kernels on a GPU need CuPy: `pip install cupy-cuda13x`, and restart"
                )
        block = self._memory.block
        side = self._memory.lend(holder, device)
        return self._offset + (block.address if side == HOST else int(block.device.ptr))

    def _taken(self, side: Side, fetch: bool = True, stream: Any = None) -> tuple[Any, Claim | None]:
        """An array to be written, and what tells how long it may be."""
        memory = self._memory
        if side == HOST or memory.shared:
            memory.check_free()
        if memory.shared:
            return self._host, None
        claim = Claim(memory)
        if side == DEVICE:
            return self._device_array(claim, stream, fetch), claim
        memory.open(HOST, weakref.ref(claim), fetch)
        mine = self._host
        array: NDArray[Any] = np.ndarray(mine.shape, mine.dtype, np.asarray(claim), self._offset, mine.strides)
        claim.view = weakref.ref(array)
        return array, claim

    def _device_array(self, claim: Claim | None, stream: Any = None, fetch: bool = True) -> Any:
        memory = self._memory
        memory.open(DEVICE, None if claim is None else weakref.ref(claim), fetch, stream or memory.stream())
        device, cuda = memory.block.device, cupy().cuda
        owned = cuda.UnownedMemory(device.ptr, memory.block.nbytes, claim or memory, memory.index)
        at = cuda.MemoryPointer(owned, self._offset)
        mine = self._host
        return cupy().ndarray(mine.shape, mine.dtype, at, None if mine.flags.c_contiguous else mine.strides)

    @contextmanager
    def _overwriting(self, side: Side) -> Iterator[Any]:
        memory = self._memory
        # Copies are of the whole memory: what lies around a view must be there.
        array, claim = self._taken(side, fetch=self.nbytes < memory.nbytes)
        if claim is None:
            array = array.view()
        try:
            with self._working(side):
                yield array
        finally:
            if claim is None:
                array.flags.writeable = False
            else:
                memory.close(claim)

    def _working(self, side: Side) -> AbstractContextManager[Any]:
        current: AbstractContextManager[Any] = (
            nullcontext() if side == HOST or self._memory.shared else self._memory.gpu.current()
        )
        return current

    async def _fetched(self, side: Side) -> Any:
        memory = self._memory
        if memory.shared:
            return self._taken(side)[0]
        stream = memory.stream() if side == DEVICE else None

        def fetch() -> Any:
            array, _ = self._taken(side, stream=stream)
            memory.block.wait()
            return array

        return await asyncio.to_thread(fetch)


_ON_HOST = (1, 3, 11)  # DLPack's kDLCPU, kDLCUDAHost, kDLROCMHost
_ON_GPU = (2, 10, 13)  # kDLCUDA, kDLROCM, kDLCUDAManaged
_NUMBERED_STREAMS = 2  # 0, 1 and 2 name default streams, -1 none
_COMPUTED = "?bhilqBHILQefdFD"  # codes of dtypes


def checked_shape(shape: SupportsIndex | Sequence[SupportsIndex]) -> tuple[int, ...]:
    """As a tuple; `TypeError`, or `UnifiedBufferError` where a length is negative."""
    try:
        lengths = tuple(map(operator.index, shape if isinstance(shape, Sequence) else (shape,)))
    except TypeError:
        raise TypeError(f"a shape is an int or a tuple of ints, not {shape!r}") from None
    if any(length < 0 for length in lengths):
        raise UnifiedBufferError(f"no length of a shape may be negative: {lengths}")
    return lengths


def checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """As a dtype; `TypeError`, or `UnifiedBufferError` where no buffer can have it."""
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


def checked_device(device: SupportsIndex) -> int:
    """Index of a GPU; any, where there is none. `TypeError` or `UnifiedBufferError` where it cannot be."""
    index = operator.index(device)
    count = index + 1 if cupy() is None else cupy().cuda.runtime.getDeviceCount()
    if not 0 <= index < count:
        raise UnifiedBufferError(f"there is no GPU {index}: GPUs are counted from 0, and {max(count, 0)} can be used")
    return index


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
