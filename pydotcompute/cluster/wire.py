"""Frames: what passes between the runtime of a notebook and its hosts on other nodes.

A frame is msgpack: ``[VERSION, number, items, stamp]``. The stamp, wall time and count, is that of its sender's hybrid
logical clock; an item is ``[kind, …]`` with the fields that `TO_HOST` and `FROM_HOST` say. Messages in it are what
`encode` makes of them, and `decode` is closed: no frame makes anything run.
The one exception are the items `teach`, `launch` and `replace`, which bring code, and go from the runtime to a host
alone. Frames are numbered from 1 on, in each direction.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from msgpack import packb, unpackb
from numpy.typing import NDArray

from ..exceptions import MessageDecodeError, MessageEncodeError
from ..messages import decode, encode, is_message_type
from ..runtime.recording import Plain
from ..telemetry.clock import Stamp

VERSION: Final = 1
FRAME = 4096
"""Messages of one ring kernel in a frame at most."""
FRAMES = 4
"""Frames that may be on the way to a host."""
LARGE = 2**18
"""Bytes from which on a message goes beside its frame, where the engine need not copy it."""

CAUSES = 16
"""Causes of an error that go with it: they may be a circle."""

Blob = (bytes, int)
"""An encoded message or records, or the place of what goes beside the frame."""
Answer = (bytes, int, list, type(None))
"""The same of a reply; or an error; or None: there is no reply."""

Sender = (list, type(None))
"""[kernel, number of the message that it has in hand or 0] of a body, as far as it is observed."""

START, END, REPLY, FAILED, LOST = range(5)
"""What has become of a message, or of what a kernel had in hand. About a reply: the number of the ask that it answers
or 0, and the reply or None; about what is lost: its kind, the reason, and the message or None."""

TO_HOST: Final[dict[str, tuple[Any, ...]]] = {
    "messages": (int, int, [Blob], [int], (list, type(None))),
    # kernel, number of the first, messages, which of them are asked, the instance of each or None
    "records": (int, int, int, Blob, int),  # kernel, number of the first, how many, records, instance or -1
    "watch": (int, bool),  # kernel, whether it is to be told what becomes of each message
    "credit": (int, int),  # kernel, how many of its replies were taken
    "call": (int, int, str, bytes),  # token, kernel or 0, verb, arguments
    "teach": ([bytes],),  # classes of messages: code
    "answer": (int, bool, Answer),  # token of an ask of a body, whether there is one, the reply or an error
    "sent": (str, int, object),  # target, how many messages of the bodies here it was sent, None or an error
}
FROM_HOST: Final[dict[str, tuple[Any, ...]]] = {
    "done": (int, int),  # kernel, how many messages it is done with
    "answers": (int, [list]),  # kernel, [number, whether there is one, the reply or an error] for each
    "replies": (int, [Blob]),
    "records": (int, int, Blob),  # kernel, how many, replies
    "counters": (int, bytes, dict, str),  # kernel, its row, messages it has sent to whom, what it waits for
    "restarted": (int, int, [list], object),  # kernel, how often, when and what for, the last error or None
    "ended": (int, object, str),  # kernel, None or an error, why it was not started again
    "letter": (int, object, str, str, object, bool, object),
    # kernel, message, reason, kind, error or None, whether it is a reply, instance or None
    "result": (int, bool, object),  # token, whether it went well, result or error
    "print": (int, str),  # kernel, text
    "log": (int, int, str),  # kernel or 0, level, text
    "seen": (int, [list]),  # kernel, [what, number of the message or 0, wall time and count of the stamp, about it]
    "tell": (str, Blob, object, Sender),  # target, message, instance or None, who sends it
    "ask": (int, str, Blob, object, object, Sender),
    # token, target, message, instance or None, timeout or None, who asks
    "publish": (int, str, Blob, Sender),  # token, topic, message, who publishes
    "find": (int, str),  # token, target: is there such a kernel?
}


def encoded(message: Any) -> bytes:
    """A message of a class of ``@message``, or a plain value such as a number, a text or an array, as bytes.

    Raises:
        MessageEncodeError: it has no encoding.
    """
    if is_message_type(type(message)):
        return encode(message)
    try:
        return encode(Plain(message))
    except MessageEncodeError as error:
        large = "max_bytes=" in str(error)
        hint = (
            "Send it in parts"
            if large
            else ("Put @message on its class, or send numbers, texts, arrays, lists and dicts")
        )
        raise MessageEncodeError(
            f"a {type(message).__qualname__} cannot go to another process: {error}. {hint}"
        ) from None


def all_encoded(messages: Sequence[Any]) -> list[bytes]:
    """Each of them `encoded`."""
    return list(map(encode if all(map(is_message_type, set(map(type, messages)))) else encoded, messages))


def decoded(data: bytes | memoryview) -> Any:
    """What `encoded` made these bytes of.

    Raises:
        MessageDecodeError: no message of a class that is known here.
    """
    message = decode(data)
    return message.value if type(message) is Plain else message


def packed(
    number: int, items: list[list[Any]], kinds: dict[str, tuple[Any, ...]], stamp: Stamp
) -> tuple[bytes, list[bytes]]:
    """A frame, and what goes beside it: in the items, which are changed, its place is left."""
    beside: list[bytes] = []
    for item in items:
        for values, place in _blobs(item, kinds[item[0]], lambda blobs: max(map(len, blobs), default=0) >= LARGE):
            blob = values[place]
            if type(blob) is bytes and len(blob) >= LARGE:
                values[place] = len(beside)
                beside.append(blob)
    # What a body prints, or an error says, may hold halves of surrogate pairs: names of files for one.
    data: bytes = packb([VERSION, number, items, stamp[:2]], use_bin_type=True, unicode_errors="surrogatepass")
    return data, beside


def unpacked(
    data: Any, kinds: dict[str, tuple[Any, ...]], beside: Sequence[bytes | NDArray[np.uint8]] = ()
) -> tuple[int, list[list[Any]], tuple[int, int]]:
    """The number of a frame, its items, all of them of these kinds and with what goes beside it, and the stamp.

    Raises:
        MessageDecodeError: anything else.
    """
    try:
        frame = unpackb(data, raw=False, strict_map_key=False, unicode_errors="surrogatepass")
    except Exception as error:
        raise MessageDecodeError(f"not a frame: {type(error).__name__} {error}") from error
    if not isinstance(frame, list) or len(frame) != 4 or not isinstance(frame[2], list):
        raise MessageDecodeError("not a frame: version, number, items and stamp are expected")
    if frame[0] != VERSION:
        raise MessageDecodeError(
            f"a frame of version {frame[0]!r:.50}, not {VERSION}: install the same pydotcompute everywhere"
        )
    if type(frame[1]) is not int:
        raise MessageDecodeError(f"a frame with the number {frame[1]!r:.50}")
    for item in frame[2]:
        fields = kinds.get(item[0]) if isinstance(item, list) and item and isinstance(item[0], str) else None
        if fields is None or len(item) != len(fields) + 1 or not all(map(_fits, item[1:], fields)):
            raise MessageDecodeError(f"no item of a frame: {_shown(item)}")
        if item[0] == "seen" and not all(_is_event(event) for event in item[2]):
            raise MessageDecodeError(f"no event of a message: {_shown(item)}")
        if item[0] == "answers" and not all(_are(answer, int, bool, Answer) for answer in item[2]):
            raise MessageDecodeError(f"no answer to an ask: {_shown(item)}")
        if item[0] in ("tell", "ask", "publish") and not (item[-1] is None or _are(item[-1], int, int)):
            raise MessageDecodeError(f"no sender of a message: {_shown(item)}")
        if item[0] == "messages":
            blobs, asked, instances = item[3:6]
            if instances is not None and len(instances) != len(blobs):
                raise MessageDecodeError(f"{len(blobs)} messages for {len(instances)} instances")
            if any(not 0 <= place < len(blobs) for place in asked):
                raise MessageDecodeError("an ask of a message that is not there")
        for values, place in _blobs(item, fields, lambda blobs: set(map(type, blobs)) != {bytes}):
            if type(values[place]) is int:
                if not 0 <= values[place] < len(beside):
                    raise MessageDecodeError("a message beside the frame is missing")
                blob = beside[values[place]]
                values[place] = blob if isinstance(blob, bytes) else memoryview(blob)
    stamp = frame[3]
    if not _are(stamp, int, int):
        raise MessageDecodeError(f"a frame with the stamp {_shown(stamp)}")
    return frame[1], frame[2], (stamp[0], stamp[1])


def _blobs(
    item: list[Any], fields: tuple[Any, ...], matters: Callable[[list[Any]], bool]
) -> Iterator[tuple[list[Any], int]]:
    """Where in an item messages and records are; of whole lists, if that matters."""
    if item[0] == "answers":
        yield from ((answer, 2) for answer in item[2])
        return
    for place, field in enumerate(fields, 1):
        if field is Blob or field is Answer:
            yield item, place
        elif field == [Blob] and matters(item[place]):
            yield from ((item[place], i) for i in range(len(item[place])))


def expect(number: int, first: int, last: int) -> None:
    """Raise `MessageDecodeError` for the number of a frame that is not between these."""
    if not first <= number <= last:
        raise MessageDecodeError(f"frame {number} came where frame {first} was expected")


def _fits(value: Any, field: Any) -> bool:
    if isinstance(field, list):
        return isinstance(value, list) and all(isinstance(one, field[0]) for one in value)
    return isinstance(value, field) and not (isinstance(value, bool) and field is not bool and field is not object)


def _are(values: Any, *types: Any) -> bool:
    """Whether it is a list of values of these types."""
    return isinstance(values, list) and len(values) == len(types) and all(map(_fits, values, types))


def _is_event(event: list[Any]) -> bool:
    about: Any = {REPLY: (int, (bytes, type(None))), LOST: (str, str, (bytes, type(None)))}
    if not _are(event, int, int, int, int, object) or event[0] not in range(5):
        return False
    return event[4] is None if event[0] not in about else _are(event[4], *about[event[0]])


def _shown(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 100 else text[:99] + "…"


# -- errors ------------------------------------------------------------------------------------------------------------


def described(error: BaseException, depth: int = CAUSES) -> list[Any]:
    """An error as texts: its class, what it says, where it was raised, and the same of its cause or None."""
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    try:
        text = str(error)
    except Exception as problem:  # noqa: BLE001 - whatever a user's class does
        text = f"<what it says cannot be read: {type(problem).__name__}>"
    cause = error.__cause__
    if cause is not None and depth:  # whose traceback says it
        return [name, text, "", described(cause, depth - 1)]
    return [name, text, "".join(traceback.format_exception(error, chain=cause is None)), None]


def restored(texts: Any, where: str) -> BaseException:
    """An error that was raised on another node, with its traceback there as a note.

    It is of its own class where that is one of Python's or of this package's, and takes one text; else a
    `RemoteError` that names it.
    """
    from .. import exceptions

    if not isinstance(texts, list) or len(texts) != 4 or not all(isinstance(text, str) for text in texts[:3]):
        raise MessageDecodeError(f"no error: {_shown(texts)}")
    name, text, trace, cause = texts
    home: Any = exceptions if name.startswith("pydotcompute.exceptions.") else builtins
    cls = getattr(home, name.rpartition(".")[2], None) if home is exceptions or "." not in name else None
    error: BaseException
    try:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise TypeError
        error = cls(text)
    except Exception:  # noqa: BLE001 - whatever a class wants else
        error = exceptions.RemoteError(f"{name}: {text}")
    if trace:
        error.add_note(f"Raised on {where}:\n{trace.rstrip()}")
    if cause is not None:
        error.__cause__ = restored(cause, where)
    return error
