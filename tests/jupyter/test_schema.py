"""The wire of the widgets."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute.jupyter import schema
from pydotcompute.telemetry import STATES

STATIC = Path(schema.__file__).parent / "widgets" / "static"


def test_columns_come_back_as_they_were():
    columns = {
        name: np.array([1.5, np.nan, 3e6]) if kind == "f4" else np.array([0, 7, 2**31]) for name, kind in schema.COLUMNS
    }
    packed = schema.pack(columns, 3)
    assert len(packed) == 4 * 3 * len(schema.COLUMNS)
    for name, values in schema.unpack(packed).items():
        np.testing.assert_array_equal(values, columns[name])


def test_no_kernels_is_no_bytes():
    packed = schema.pack({name: np.zeros(0) for name, _ in schema.COLUMNS}, 0)
    assert packed == b""
    assert all(len(values) == 0 for values in schema.unpack(packed).values())


def test_what_is_too_large_for_the_wire_saturates():
    columns = {name: np.zeros(1) for name, _ in schema.COLUMNS} | {"bound": np.array([1 << 62])}
    assert schema.unpack(schema.pack(columns, 1))["bound"][0] == 2**32 - 1


def test_the_browser_reads_what_the_kernel_writes():
    script = "".join((STATIC / name).read_text() for name in ("common.js", "dashboard.js"))

    def constant(name: str) -> object:
        value = re.search(rf"^const {name} = (.*?);$", script, re.DOTALL | re.MULTILINE)[1]
        return json.loads(re.sub(r",(\s*\])", r"\1", value))

    assert constant("VERSION") == schema.VERSION
    assert constant("TARGET") == schema.TARGET
    assert constant("SERIES") == schema.SERIES
    assert constant("COLUMNS") == [list(column) for column in schema.COLUMNS]
    assert constant("STATES") == list(STATES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "hello", "widget": "k"}, schema.Hello("k")),
        ({"kind": "snapshot"}, schema.Snapshot()),
        ({"kind": "seen", "visible": False}, schema.Seen(False)),
        ({"kind": "received", "number": 12}, schema.Received(12)),
        ({"kind": "set", "name": "kernels", "value": ["a", "b"]}, schema.Set("kernels", ["a", "b"])),
        ({"kind": "freeze", "on": True}, schema.Freeze(True)),
        (
            {"kind": "command", "verb": "step", "kernel": "a", "request": "r", "arguments": {"n": 2}},
            schema.Command("step", "a", "r", {"n": 2}),
        ),
    ],
)
def test_known_messages_are_read(fields, message):
    assert schema.parse({"version": schema.VERSION, **fields}) == message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "not an object"),
        ([], "not an object"),
        ({}, "version None"),
        ({"version": 1, "kind": "hello", "widget": "k"}, "version 1 .* this kernel version 3: run the cell"),
        ({"version": "2", "kind": "snapshot"}, "version '2'"),
        ({"version": 3}, "unknown message None; known: hello"),
        ({"version": 3, "kind": ["hello"]}, "unknown message"),
        ({"version": 3, "kind": "shutdown"}, "unknown message 'shutdown'"),
        ({"version": 3, "kind": "hello"}, "widget is None"),
        ({"version": 3, "kind": "seen", "visible": 1}, "visible is 1"),
        ({"version": 3, "kind": "received", "number": True}, "number is True"),
        ({"version": 3, "kind": "set", "name": 7}, "name is 7"),
        ({"version": 3, "kind": "command", "verb": "stop", "kernel": 3, "request": "r"}, "kernel is 3"),
        ({"version": 3, "kind": "command", "verb": "stop", "kernel": "a"}, "request is None"),
        ({"version": 3, "kind": "command", "verb": "stop", "kernel": "a", "request": "r"}, "arguments is None"),
        ({"version": 3, "kind": "x" * 5000}, r"\.\.\.; known"),
    ],
)
def test_anything_else_is_refused_with_the_reason(data, says):
    with pytest.raises(schema.RefusedError, match=says) as refused:
        schema.parse(data)
    assert len(str(refused.value)) < 250


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NEAR = st.fixed_dictionaries(
    {
        "version": st.just(schema.VERSION),
        "kind": st.sampled_from(["hello", "seen", "received", "set", "freeze", "command"]),
    },
    optional=dict.fromkeys(
        ("widget", "visible", "number", "name", "value", "on", "verb", "kernel", "request", "arguments"), JSON
    ),
)


def test_a_choice_is_one_of_the_options_and_of_their_type():
    assert schema.chosen("verb", "stop", ["pause", "stop"]) == "stop"
    for value in ("stop", True, 1.0, None, ["pause"]):
        with pytest.raises(schema.RefusedError, match=r"verb cannot be .*; possible: pause, 1"):
            schema.chosen("verb", value, ["pause", 1])


@given(JSON | NEAR)
def test_reading_never_fails_in_another_way(data):
    with contextlib.suppress(schema.RefusedError):
        schema.parse(data)
