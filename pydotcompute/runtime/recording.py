"""A recording: a file with all messages that kernels got and all replies that they sent, in order.

The file begins with `MAGIC` and the number of the format. Then come entries: the length of the content in bytes, the
same with all bits reversed, the CRC-32 of all contents so far and of this one, and the content. Numbers have 32 bits,
little-endian. A length that is there twice can be trusted: an entry that goes beyond the end of the file was torn off,
and not damaged. And no entry can be missing, or in another place, without a checksum that is wrong.

The content is a flat msgpack array of the number of the entry's kind, which is its place in `KINDS`, and the fields of
that class. Messages and replies in it are the bytes that `encode` makes of them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from io import FileIO
from operator import attrgetter
from pathlib import Path
from struct import Struct
from threading import RLock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Self
from zlib import crc32

import numpy as np
from msgpack import Packer, Unpacker, unpackb

from .. import __version__
from ..exceptions import MessageEncodeError, RecordingError, RuntimeClosedError
from ..messages import DEFAULT_PRIORITY, decode, encode, is_message_type
from ..messages import message as message_class
from ..messages.codec import MAX_BYTES
from ..messages.message import type_name
from ..telemetry.observer import Delivery, Observer
from .scheduler import clock

if TYPE_CHECKING:
    from os import PathLike

    from .kernel import RingKernel
    from .runtime import RingKernelRuntime

log = logging.getLogger("pydotcompute")

MAGIC = b"\x89PDCLOG\n"
FORMAT = 1
MAX_ENTRY = MAX_BYTES + 2**20
"""Bytes that the content of an entry has at most."""
MAX_BUFFER = 2**20
"""Bytes that are kept back at most until the event loop has its turn."""

_FORMAT, _HEAD = Struct("<I"), Struct("<III")
_ALL_BITS = 0xFFFFFFFF


# -- entries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordingStart:
    """The first entry."""

    software: str
    """What has written it: ``"pydotcompute 0.1.0, Python 3.13.1, NumPy 2.2.0, Linux"``."""
    began: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class RecordedKernel:
    """A kernel that was there when the recording began, or that was launched since."""

    time: int
    """Nanoseconds since the recording began, as in all entries."""
    kernel_id: str
    definition_id: str
    """The id of its definition, which may be another one."""
    module: str
    """Where its body was defined: the name of a module, ``__main__`` for a notebook and for what is run as a script."""
    file: str | None
    """The file of that module; None: a notebook."""
    origin: str
    """The same in words: ``cell In [7]`` or ``module mymod``."""
    takes: str
    """Names of the types of its messages, with spaces between them; empty: any."""
    sends: str
    """The same of its replies."""
    instances: int
    """Of a compiled ring kernel; 0: an async one."""
    handled: int
    """How many messages it had handled by then."""


@dataclass(frozen=True, slots=True)
class RecordedLink:
    """Replies of a kernel were seen to go to another, to which it is connected."""

    time: int
    kernel_id: str
    target_id: str


@message_class
class Plain:
    """How a value is recorded that is of no class of ``@message``: a text, a number, a tuple, an array."""

    value: Any


_PLAIN = type_name(Plain)


class _WithContent:
    __slots__ = ()

    content: bytes | str

    @property
    def message(self) -> Any:
        """The message or reply, made anew each time.

        Raises:
            RecordingError: it was not recorded since it has no encoding.
            MessageDecodeError: its class is unknown here, or has other fields.
        """
        if isinstance(self.content, str):
            raise RecordingError(f"the recording holds no {self.content}: put @message on that class")
        recorded = decode(self.content)
        return recorded.value if type(recorded) is Plain else recorded

    @property
    def type(self) -> str:
        """The name of the message's class, with its module."""
        if isinstance(self.content, str):
            return self.content
        unpacker = Unpacker(max_buffer_size=4096, unicode_errors="replace")
        unpacker.feed(self.content[:4096])
        try:
            unpacker.read_array_header()
            header = unpacker.unpack()
        except Exception:  # noqa: BLE001 - of msgpack, whatever the bytes are
            header = None
        name = header.partition(" ")[0] if isinstance(header, str) else "?"
        return name if name != _PLAIN else type(self.message).__name__


@dataclass(frozen=True, slots=True)
class RecordedMessage(_WithContent):
    """A message came into the mailbox of a kernel."""

    time: int
    number: int
    """Its own; the other entries name it by that."""
    kernel_id: str
    instance: int | None
    """The instance of a compiled ring kernel that it is for; None: none was named."""
    priority: int
    is_ask: bool
    """Whether its sender waited for the reply."""
    cause: int | None
    """The number of the message that was being handled where it was sent; None: none was."""
    source: str | None
    """The kernel that has sent it; None: it came from outside."""
    content: bytes | str
    """The message by `encode`, or the name of its class if it has no encoding."""


@dataclass(frozen=True, slots=True)
class RecordedReply(_WithContent):
    """A kernel has sent a reply."""

    time: int
    kernel_id: str
    handling: int | None
    """The number of the message that it had in hand."""
    answers: int | None
    """The number of the ask that it answers; None: it went to the outbox, or to a connected kernel."""
    content: bytes | str


@dataclass(frozen=True, slots=True)
class RecordedEnd:
    """A message was handled to the end."""

    time: int
    number: int


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """A kernel has failed."""

    time: int
    kernel_id: str
    number: int | None
    """That of the message which it had in hand."""
    error: str
    """The name of the exception's class."""
    text: str


@dataclass(frozen=True, slots=True)
class RecordingEnd:
    """The recording was stopped. Without this entry its process has ended before that, or it runs still."""

    time: int


Entry = (
    RecordingStart
    | RecordedKernel
    | RecordedLink
    | RecordedMessage
    | RecordedReply
    | RecordedEnd
    | RecordedFailure
    | RecordingEnd
)
KINDS: tuple[type[Entry], ...] = (
    RecordingStart,
    RecordedKernel,
    RecordedLink,
    RecordedMessage,
    RecordedReply,
    RecordedEnd,
    RecordedFailure,
    RecordingEnd,
)
_CODES = {kind: code for code, kind in enumerate(KINDS)}
_VALUES_OF = {kind: attrgetter(*(f.name for f in fields(kind))) for kind in KINDS}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "bool": (bool,),
    "str": (str,),
    "int | None": (int, type(None)),
    "str | None": (str, type(None)),
    "bytes | str": (bytes, str),
}
_LAYOUTS = [tuple(_TYPES[str(f.type)] for f in fields(kind)) for kind in KINDS]


# -- writing -----------------------------------------------------------------------------------------------------------


class Recording(Observer):
    """Writes what kernels get and what they send to a file; `RingKernelRuntime.record` makes it.

    Use it as ``with runtime.record("run.pdclog") as recording``, or `start` and `stop` it. Each pass of the runtime's
    event loop ends with one write: what was handled before is in the file, even if the process is killed then.
    """

    def __init__(
        self,
        runtime: RingKernelRuntime,
        path: str | PathLike[str],
        *,
        kernels: Iterable[str] | None = None,
        sync: bool = False,
        overwrite: bool = False,
    ) -> None:
        if kernels is not None:
            ids = [kernels] if isinstance(kernels, str) else list(kernels)
            for kernel_id in ids:
                if not isinstance(kernel_id, str):
                    raise TypeError(f"kernels takes ids of kernels, which are texts, not {kernel_id!r}")
            self.kernels = frozenset(ids)
        self.path = Path(path)
        self.sync, self.overwrite = sync, overwrite
        self.messages = 0
        """How many messages came to the kernels."""
        self.replies = 0
        """How many replies they sent."""
        self.skipped: Counter[str] = Counter()
        """How many of these have no encoding and are recorded by the name of their class alone, by that name."""
        self.error: OSError | None = None
        """Why nothing was recorded any more: the disk is full, for one."""
        self._runtime = runtime
        self._file: FileIO | None = None
        self._buffer = bytearray()
        self._checksum = 0
        self._is_due = False  # the loop will come to write what is in the buffer
        self._writing = RLock()  # the loop writes, and another thread may stop it
        self._pack = Packer(unicode_errors="surrogatepass").pack
        self._began = 0
        self._open: set[int] = set()  # numbers of messages that are not handled yet
        self._known: set[str] = set()  # kernels
        self._ways: set[tuple[str, str]] = set()  # from kernel to kernel, as far as they were looked at

    # -- from and until when -------------------------------------------------------------------------------------------

    @property
    def recording(self) -> bool:
        """Whether it was started, and neither stopped nor ended by an error."""
        return self._file is not None

    def start(self) -> Self:
        """Record from now on. Any thread may call it; it waits for the runtime's loop. A second call does nothing.

        Raises:
            FileExistsError: the file is there, and it was not asked to overwrite it.
            OSError: the file cannot be written.
            RecordingError: it was stopped: a recording is one file, and has one beginning.
            RuntimeClosedError: the runtime is closed.
        """
        if self._file is not None:
            return self
        if self._began:
            raise RecordingError(f"the recording {str(self.path)!r} is over: make another one, with another file")
        if self._runtime.closed:
            raise RuntimeClosedError("the runtime is closed: make a new RingKernelRuntime")
        try:
            self._file = FileIO(self.path, "wb" if self.overwrite else "xb")
        except FileExistsError:
            raise FileExistsError(
                f"{str(self.path)!r} is there already: choose another name, or pass overwrite=True"
            ) from None
        self._began = clock()
        self._buffer += MAGIC + _FORMAT.pack(FORMAT)
        versions = (f"pydotcompute {__version__}", f"Python {platform.python_version()}", f"NumPy {np.__version__}")
        self._write(RecordingStart, ", ".join((*versions, platform.system())), time.time())
        for kernel_id in list(self._runtime.kernels):
            if self.kernels is None or kernel_id in self.kernels:
                self._describe(kernel_id)
        self._flush()
        if self._file is not None:  # else there was no room for even that
            self._runtime.observe(self)
        return self

    def stop(self) -> None:
        """Record no more, and close the file. Any thread may call it."""
        if self._file is None:
            return
        self._runtime.unobserve(self)
        with self._writing:
            self._write(RecordingEnd, clock() - self._began)
            self._flush()
            if self._file is not None:
                self._file.close()
                self._file = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what happens --------------------------------------------------------------------------------------------------

    def queued(self, delivery: Delivery) -> None:
        kernel_id, cause = delivery.kernel_id, delivery.cause
        message, mark, sink = delivery
        kernel = self._runtime._kernels.get(kernel_id)
        if kernel_id not in self._known:
            self._describe(kernel_id)
        number, source = None if cause is None else cause.number, delivery.source
        if source is not None and (source, kernel_id) not in self._ways:
            self._look_at_way(source, kernel_id)
        self._open.add(delivery.number)
        self.messages += 1
        priority = getattr(message, "priority", None)
        self._write(
            RecordedMessage,
            clock() - self._began,
            delivery.number,
            kernel_id,
            kernel._instance_of(mark) if kernel is not None else None,
            DEFAULT_PRIORITY if priority is None else int(priority),
            sink is not None,
            number,
            source,
            self._encoded(message),
        )

    def started(self, delivery: Delivery) -> None:
        if delivery.number not in self._open:  # it came before the recording began, or was put into the queue by hand
            self.queued(delivery)

    def replied(self, delivery: Delivery | None, kernel_id: str, reply: Any, answers: Delivery | None) -> None:
        self.replies += 1
        self._write(
            RecordedReply,
            clock() - self._began,
            kernel_id,
            None if delivery is None else delivery.number,
            None if answers is None else answers.number,
            self._encoded(reply),
        )

    def ended(self, delivery: Delivery) -> None:
        self._open.discard(delivery.number)
        self._write(RecordedEnd, clock() - self._began, delivery.number)

    def lost(self, kernel_id: str, message: Any, kind: str, reason: str, delivery: Delivery | None) -> None:
        if delivery is not None:
            self._open.discard(delivery.number)

    def failed(self, kernel_id: str, error: BaseException, delivery: Delivery | None) -> None:
        number = None if delivery is None else delivery.number
        self._write(RecordedFailure, clock() - self._began, kernel_id, number, type(error).__qualname__, _text(error))

    def changed(self, kernel_id: str, state: str) -> None:
        if state == "LAUNCHED":
            self._known.discard(kernel_id)  # it may have another definition than one of that id had before
        else:
            self._flush()  # the loop may be about to end

    def _describe(self, kernel_id: str) -> None:
        kernel = self._runtime._kernels.get(kernel_id)
        if kernel is not None:
            self._known.add(kernel_id)
            self._write(RecordedKernel, clock() - self._began, *_described(kernel))

    def _look_at_way(self, source: str, target: str) -> None:
        kernel = self._runtime._kernels.get(source)
        if kernel is not None and kernel._link is not None and target in (one.id for one in kernel._link.targets):
            self._ways.add((source, target))
            self._write(RecordedLink, clock() - self._began, source, target)

    def _encoded(self, message: Any) -> bytes | str:
        try:
            if is_message_type(type(message)):
                return encode(message)
            with suppress(MessageEncodeError):
                return encode(Plain(message))
            return encode(message)  # which says what to do about it
        except Exception as error:  # noqa: BLE001 - an object of the user's, which may do anything
            name = type_name(type(message))
            if name not in self.skipped:
                log.warning("the recording %r goes without the content of %s (%s)", str(self.path), name, _text(error))
            self.skipped[name] += 1
            return name

    # -- to the file ---------------------------------------------------------------------------------------------------

    def _write(self, kind: type[Entry], *values: Any) -> None:
        content = self._pack((_CODES[kind], *values))
        self._checksum = crc32(content, self._checksum)
        self._buffer += _HEAD.pack(len(content), len(content) ^ _ALL_BITS, self._checksum) + content
        if len(self._buffer) > MAX_BUFFER:
            self._flush()
        elif not self._is_due:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # the loop is not running: whoever called has its thread
                return
            self._is_due = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        with self._writing:
            if self._file is None or not self._buffer:
                return
            buffer, self._buffer = self._buffer, bytearray()
            try:
                with memoryview(buffer) as rest:
                    written = 0
                    while written < len(rest):
                        written += self._file.write(rest[written:]) or 0
                if self.sync:
                    os.fsync(self._file.fileno())
            except OSError as error:
                self.error = error
                self._file.close()
                self._file = None
        if self.error is not None:
            log.error(
                "the recording %r has stopped, and holds what came before: %s; the kernels go on",
                str(self.path),
                self.error,
            )
            self._runtime.unobserve(self)

    def __repr__(self) -> str:
        state = "records" if self.recording else "stopped" if self._began else "not started"
        if self.error is not None:
            state = f"stopped by an error: {self.error}"
        skipped = f", {self.skipped.total():,} without their content" if self.skipped else ""
        return f"<recording {str(self.path)!r}, {state}: {self.messages:,} messages, {self.replies:,} replies{skipped}>"


def counted(n: int, noun: str) -> str:
    """``"1 reply"``, ``"2,000 replies"``"""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n:,} {noun if n == 1 else plural}"


def _described(kernel: RingKernel) -> tuple[Any, ...]:
    """The fields of a `RecordedKernel`, from its id on."""
    definition = kernel.definition
    module = getattr(definition.body, "__module__", None) or "?"
    file = getattr(sys.modules.get(module), "__file__", None)
    return (
        kernel.id,
        definition.kernel_id,
        module,
        file if definition.cell is None and isinstance(file, str) else None,
        definition.origin,
        _names(definition.input_types),
        _names(definition.output_types),
        getattr(definition, "instances", 0),
        kernel._processed,
    )


def _names(types: tuple[type, ...]) -> str:
    return " ".join(type_name(one) for one in types if one is not object)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except Exception:  # noqa: BLE001 - of a foreign `__str__`
        return ""


# -- reading -----------------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """Where a log cannot be read any further."""

    offset: int
    """Bytes from its beginning on that are whole."""
    what: str
    """What is wrong there."""
    torn: bool
    """The entry is not all there: the process or machine was stopped while it was written. Nothing else is missing."""

    def __str__(self) -> str:
        return f"at byte {self.offset:,}: {self.what}"


class Log:
    """What a recording has written: iterate over it for the entries. `read_log` makes it.

    Each iteration reads the file again, entry by entry, so that a log may be larger than the memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kernels: dict[str, RecordedKernel] = {}
        """The kernels that were recorded, by id; of those that were launched again the first."""
        self.links: set[tuple[str, str]] = set()
        """Ids of kernels that were seen to be connected: from which, and to which."""
        self.messages = self.replies = self.failures = 0
        self.stopped = False
        """Whether the recording was stopped; else its process has ended before that, or it runs still."""
        self.damage: Damage | None = None
        """Where it cannot be read any further, and why; None: it is whole."""
        self._length = 0
        with path.open("rb") as file:
            self._look_through(file)

    def _look_through(self, file: BinaryIO) -> None:
        name = str(self.path)
        size = os.fstat(file.fileno()).st_size
        head = file.read(len(MAGIC) + _FORMAT.size)
        if not head.startswith(MAGIC):
            raise RecordingError(f"{name!r} is no log of a recording: runtime.record({name!r}) would write one")
        if len(head) < len(MAGIC) + _FORMAT.size:
            raise RecordingError(f"{name!r} holds nothing: it ends inside its head")
        (number,) = _FORMAT.unpack_from(head, len(MAGIC))
        if number != FORMAT:
            raise RecordingError(f"{name!r} has format {number}, and this version of pydotcompute reads {FORMAT}")
        start = None
        for entry in _entries(file, size):
            if isinstance(entry, Damage):
                self.damage = entry
                break
            if start is None and not isinstance(entry, RecordingStart):
                self.damage = Damage(self._length, "it does not begin with the start of a recording", False)
                break
            match entry:
                case RecordingStart():
                    start = entry
                case RecordedKernel():
                    self.kernels.setdefault(entry.kernel_id, entry)
                case RecordedLink():
                    self.links.add((entry.kernel_id, entry.target_id))
                case RecordedMessage():
                    self.messages += 1
                case RecordedReply():
                    self.replies += 1
                case RecordedFailure():
                    self.failures += 1
                case RecordingEnd():
                    self.stopped = True
            self._length = file.tell()
        if start is None:
            raise RecordingError(f"{name!r} holds nothing that can be read: damaged {self.damage or 'from the start'}")
        self.start = start

    def __iter__(self) -> Iterator[Entry]:
        """The entries, in the order in which they were written.

        Raises:
            RecordingError: the file has changed since it was opened.
        """
        with self.path.open("rb") as file:
            file.seek(len(MAGIC) + _FORMAT.size)
            for entry in _entries(file, self._length):
                if isinstance(entry, Damage):
                    raise RecordingError(f"{str(self.path)!r} has changed since it was read first, {entry}")
                yield entry

    def __repr__(self) -> str:
        counts = {
            "message": self.messages,
            "reply": self.replies,
            "failure": self.failures,
            "kernel": len(self.kernels),
        }
        words = [", ".join(counted(n, noun) for noun, n in counts.items())]
        if self.damage is not None:
            words.append(f"{'torn' if self.damage.torn else 'damaged'} {self.damage}")
        elif not self.stopped:
            words.append("not stopped")
        return f"<log {str(self.path)!r}: {'; '.join(words)}>"


def read_log(path: str | PathLike[str], *, strict: bool = False) -> Log:
    """The log of a recording. All that is whole before the first damage is readable.

    A log whose process was killed, or whose machine lost its power, may end in a torn entry: `Log.damage` says so.
    Whatever the file holds, no more memory is taken than a message may have.

    Args:
        strict: raise an error for any damage.

    Raises:
        RecordingError: it is no log, or nothing of it can be read; with `strict` also, it is torn or damaged.
        OSError: the file cannot be read.
    """
    log = Log(Path(path))
    if strict and log.damage is not None:
        raise RecordingError(f"{str(path)!r} is {'torn' if log.damage.torn else 'damaged'} {log.damage}")
    return log


def _entries(file: BinaryIO, size: int) -> Iterator[Entry | Damage]:
    """The entries up to that offset; where one cannot be read the damage, and no more."""
    offset, so_far = file.tell(), 0
    while offset < size:
        left = size - offset - _HEAD.size
        head = file.read(min(_HEAD.size, size - offset))
        if not any(head):
            yield Damage(offset, "zeros, which file systems leave after a loss of power", True)
            return
        if len(head) < _HEAD.size:
            yield Damage(offset, "the file ends inside an entry", True)
            return
        length, reversed_, checksum = _HEAD.unpack(head)
        if length != reversed_ ^ _ALL_BITS or length > MAX_ENTRY:
            yield Damage(offset, "not the head of an entry", False)
            return
        if length > left:
            yield Damage(offset, "the file ends inside an entry", True)
            return
        content = file.read(length)
        so_far = crc32(content, so_far)
        entry = _entry(content) if so_far == checksum else "its checksum is wrong"
        if isinstance(entry, str):
            yield Damage(offset, entry, False)
            return
        yield entry
        offset += _HEAD.size + length


def _entry(content: bytes) -> Entry | str:
    """The entry of that content, or what is wrong with it."""
    try:
        values = unpackb(content, max_array_len=32, max_map_len=0, max_ext_len=0, unicode_errors="surrogatepass")
    except Exception as error:  # noqa: BLE001 - of msgpack, whatever the bytes are
        return f"not an entry: {type(error).__name__} {error}"
    if not isinstance(values, list) or not values or type(values[0]) is not int:
        return "not an entry"
    code, *values = values
    if not 0 <= code < len(KINDS):
        return f"an entry of a kind that is not known, {code}"
    kind, layout = KINDS[code], _LAYOUTS[code]
    if len(values) != len(layout) or not all(map(isinstance, values, layout)):
        return f"not a {kind.__name__}"
    return kind(*values)
