"""Frames: what is written is read, and nothing else is."""

import copy
import subprocess
import sys
import threading
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import message
from pydotcompute.cluster import wire
from pydotcompute.exceptions import (
    KernelFailedError,
    MessageDecodeError,
    MessageEncodeError,
    QueueFullError,
    RemoteError,
)
from pydotcompute.telemetry.clock import Stamp


@message
class Note:
    text: str


GOOD: list[list[Any]] = [
    ["messages", 1, 1, [b"a", b"b" * wire.LARGE, b"c"], [0, 2], None],
    ["messages", 1, 4, [b"a", b"b"], [], [None, 3]],
    ["records", 1, 6, 2, b"0123456789abcdef", -1],
    ["watch", 1, True],
    ["credit", 1, 17],
    ["call", 1, 1, "deactivate", b""],
    ["teach", [b"code"]],
    ["records", 1, 8, 1, b"r" * wire.LARGE, -1],
    ["answer", 3, True, b"reply"],
    ["answer", 4, True, b"reply" * wire.LARGE],
    ["answer", 5, False, ["ValueError", "wrong", "", None]],
    ["sent", "target", 4, None],
]


GOOD_BACK: list[list[Any]] = [
    ["seen", 1, [[wire.START, 4, 10, 2, None], [wire.REPLY, 4, 10, 3, [4, b"reply"]], [wire.END, 4, 11, 4, None]]],
    ["seen", 1, [[wire.FAILED, 5, 12, 5, None], [wire.LOST, 0, 13, 6, ["late", "too late", b"reply"]]]],
    ["replies", 1, [b"reply", b"r" * wire.LARGE]],
    ["records", 1, 1, b"r" * wire.LARGE],
    [
        "answers",
        1,
        [[4, True, b"reply"], [5, True, b"r" * wire.LARGE], [6, True, None], [7, False, ["E", "", "", None]]],
    ],
    ["tell", "target", b"message" * wire.LARGE, None, [1, 4]],
    ["tell", "target", b"message", 3, None],
    ["ask", 7, "target", b"message", None, 1.5, [1, 0]],
    ["publish", 8, "topic", b"message", None],
]
NOW = Stamp(1_700_000_000_000_000_000, 5, "here")


@pytest.mark.parametrize(("items", "kinds", "n"), [(GOOD, wire.TO_HOST, 3), (GOOD_BACK, wire.FROM_HOST, 4)])
def test_what_is_packed_is_unpacked(items: Any, kinds: Any, n: int) -> None:
    data, beside = wire.packed(3, copy.deepcopy(items), kinds, NOW)
    assert len(data) < 1000
    assert len(beside) == n
    assert wire.unpacked(data, kinds, beside) == (3, items, NOW[:2])
    arrays = [np.frombuffer(one, np.uint8) for one in beside]
    assert wire.unpacked(data, kinds, arrays) == (3, items, NOW[:2])
    with pytest.raises(MessageDecodeError, match="a message beside the frame is missing"):
        wire.unpacked(data, kinds, beside[:-1])


BAD: list[tuple[Any, str]] = [
    (b"", "not a frame"),
    (b"\xc1", "not a frame"),
    (msgpack.packb("text"), "version, number, items and stamp"),
    (msgpack.packb([wire.VERSION, 1]), "version, number, items and stamp"),
    (msgpack.packb([wire.VERSION, 1, {}, [0, 0]]), "version, number, items and stamp"),
    (msgpack.packb([wire.VERSION + 1, 1, [], [0, 0]]), "version 2, not 1: install the same"),
    (msgpack.packb([wire.VERSION, "1", [], [0, 0]]), "number '1'"),
    (msgpack.packb([wire.VERSION, True, [], [0, 0]]), "number True"),
    (msgpack.packb([wire.VERSION, 1, [], [0]]), r"stamp \[0\]"),
    (msgpack.packb([wire.VERSION, 1, [], [0, 1.5]]), r"stamp \[0, 1.5\]"),
]
BAD_ITEMS: list[tuple[Any, str]] = [
    ("messages", "no item"),
    ([], "no item"),
    ([1], "no item"),
    (["unknown", 1], "no item"),
    (["credit", 1], "no item"),
    (["credit", 1, 2, 3], "no item"),
    (["credit", 1, "2"], "no item"),
    (["credit", 1, True], "no item"),
    (["watch", 1, 1], "no item"),
    (["messages", 1, 1, ["text"], [], None], "no item"),
    (["messages", 1, 1, [b"a"], [1], None], "an ask of a message that is not there"),
    (["messages", 1, 1, [b"a"], [-1], None], "an ask of a message that is not there"),
    (["messages", 1, 1, [b"a"], [], [None, None]], "1 messages for 2 instances"),
    (["messages", 1, 1, [1], [], None], "a message beside the frame is missing"),
    (["teach", ["text"]], "no item"),
    (["answer", 3, 1, b"reply"], "no item"),
]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_what_is_no_frame_is_refused(data: Any, words: str) -> None:
    with pytest.raises(MessageDecodeError, match=words):
        wire.unpacked(data, wire.TO_HOST)


def frame(item: Any) -> bytes:
    data: bytes = msgpack.packb([wire.VERSION, 1, [item], NOW[:2]])
    return data


@pytest.mark.parametrize(("item", "words"), BAD_ITEMS)
def test_an_item_that_makes_no_sense_is_refused(item: Any, words: str) -> None:
    with pytest.raises(MessageDecodeError, match=words):
        wire.unpacked(frame(item), wire.TO_HOST)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (["seen", 1, [[wire.START, 4, 10, 2]]], "no event"),
        (["seen", 1, [[wire.START, 4, 10, 2.5, None]]], "no event"),
        (["seen", 1, [[wire.START, 4, 10, 2, "more"]]], "no event"),
        (["seen", 1, [[5, 4, 10, 2, None]]], "no event"),
        (["seen", 1, [[wire.REPLY, 4, 10, 2, None]]], "no event"),
        (["seen", 1, [[wire.REPLY, 4, 10, 2, ["4", b"reply"]]]], "no event"),
        (["seen", 1, [[wire.LOST, 4, 10, 2, ["late", b"why"]]]], "no event"),
        (["tell", "target", b"message", None, [1]], "no sender"),
        (["tell", "target", b"message", None, ["kernel", 4]], "no sender"),
        (["publish", 8, "topic", b"message", [1, 2, 3]], "no sender"),
        (["answers", 1, [[1]]], "no answer"),
        (["answers", 1, [[1, 1, None]]], "no answer"),
        (["answers", 1, [[1, True, 0]]], "beside the frame is missing"),
    ],
)
def test_what_a_host_tells_that_makes_no_sense_is_refused(item: Any, words: str) -> None:
    with pytest.raises(MessageDecodeError, match=words):
        wire.unpacked(frame(item), wire.FROM_HOST)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_refused(data: bytes) -> None:
    try:
        number, items, _ = wire.unpacked(data, wire.FROM_HOST)
    except MessageDecodeError:
        return
    assert type(number) is int
    assert all(item[0] in wire.FROM_HOST for item in items)


def test_frames_come_in_order() -> None:
    wire.expect(4, 4, 7)
    wire.expect(7, 4, 7)
    for number in (3, 8):
        with pytest.raises(MessageDecodeError, match=f"frame {number} came where frame 4 was expected"):
            wire.expect(number, 4, 7)


def test_messages_and_plain_values_keep_what_they_are() -> None:
    for value in (Note(text="hello"), 1, "text", None, [1, (2, 3)], {"a": 1.5}, b"bytes"):
        again = wire.decoded(wire.encoded(value))
        assert again == value
        assert type(again) is type(value)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    again = wire.decoded(wire.encoded(array))
    assert again.dtype == array.dtype
    assert (again == array).all()


def test_what_has_no_encoding_is_refused_in_words() -> None:
    with pytest.raises(MessageEncodeError, match=r"a lock cannot go to another process.*@message"):
        wire.encoded(threading.Lock())


class StrangeError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error):
        return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("wrong"), ValueError, "wrong"),
        (QueueFullError("full"), QueueFullError, "full"),
        (UnicodeDecodeError("utf8", b"x", 0, 1, "bad"), RemoteError, "UnicodeDecodeError: 'utf8'"),
        (StrangeError(1, 2), RemoteError, "StrangeError: (1, 2)"),
        (SystemExit(3), RemoteError, "SystemExit: 3"),
    ],
)
def test_errors_come_back_as_what_they_were(error: BaseException, kind: type, text: str) -> None:
    again = wire.restored(wire.described(raised(error)), "node-7")
    assert type(again) is kind
    assert text in str(again)
    assert again.__notes__[0].startswith("Raised on node-7:\nTraceback")
    assert "in raised" in again.__notes__[0]


def test_the_cause_of_an_error_comes_along() -> None:
    again = wire.restored(wire.described(raised(KernelFailedError("failed"), raised(ValueError("why")))), "node-7")
    assert type(again) is KernelFailedError
    assert type(again.__cause__) is ValueError
    assert "in raised" in again.__cause__.__notes__[0]


@pytest.mark.parametrize("texts", [None, [], ["ValueError", "text", "trace"], [1, "text", "trace", None]])
def test_what_describes_no_error_is_refused(texts: Any) -> None:
    with pytest.raises(MessageDecodeError, match="no error"):
        wire.restored(texts, "node-7")


def test_no_name_of_an_error_reaches_beyond_errors() -> None:
    for name in (
        "print",
        "exec",
        "pydotcompute.exceptions.CancelledError",
        "pydotcompute.exceptions.__doc__",
        "os.system",
    ):
        assert type(wire.restored([name, "text", "", None], "node-7")) is RemoteError


def test_importing_it_needs_no_ray() -> None:
    code = "import sys, pydotcompute.cluster; assert 'ray' not in sys.modules, 'ray'"
    subprocess.run([sys.executable, "-c", code], check=True)
