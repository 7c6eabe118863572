"""The wire of the panel in JupyterLab: one schema, and messages that both of its sides are tried on."""

import json
from pathlib import Path
from typing import Any

import pytest

from pydotcompute.jupyter import wire
from pydotcompute.jupyter.schema import RefusedError
from pydotcompute.telemetry import STATES

pytestmark = pytest.mark.needs_notebook

PROTOCOL = Path(__file__).parents[2] / "extension" / "protocol"
SCHEMA = json.loads((PROTOCOL / "schema.json").read_text("utf-8"))
FIXTURES = json.loads((PROTOCOL / "fixtures.json").read_text("utf-8"))


def validator(name: str) -> Any:
    """Of one of the definitions of the schema."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"})


def test_it_is_a_schema():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("way", ["toKernel", "toBrowser"])
def test_the_schema_takes_the_good_ones_and_refuses_the_bad_ones(way):
    check = validator(way)
    for message in FIXTURES[way]["good"]:
        check.validate(message)
    assert [bad["why"] for bad in FIXTURES[way]["bad"] if check.is_valid(bad["message"])] == []


@pytest.mark.parametrize("way", ["toKernel", "toBrowser"])
def test_there_is_a_good_one_and_a_bad_one_of_each_message(way):
    kinds = {one["$ref"].removeprefix("#/$defs/") for one in SCHEMA["$defs"][way]["oneOf"]}
    assert {message["kind"] for message in FIXTURES[way]["good"]} == kinds
    tried = [bad["message"] for bad in FIXTURES[way]["bad"] if isinstance(bad["message"], dict)]
    assert kinds <= {message["kind"] for message in tried if isinstance(message.get("kind"), str)}


@pytest.mark.parametrize("message", FIXTURES["toKernel"]["good"], ids=lambda message: message["kind"])
def test_what_is_good_is_read(message):
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [*value]
        return {name: plain(getattr(value, name)) for name in value.__slots__} if hasattr(value, "__slots__") else value

    read = wire.parse(message)
    assert {"version": 1, "kind": type(read).__name__.lower(), **plain(read)} == message


@pytest.mark.parametrize("bad", FIXTURES["toKernel"]["bad"], ids=lambda bad: bad["why"])
def test_what_is_bad_is_refused_in_words(bad):
    with pytest.raises(RefusedError) as refused:
        wire.parse(bad["message"])
    assert 10 < len(str(refused.value)) < 300


def test_words_and_limits_are_those_of_the_schema():
    defs = SCHEMA["$defs"]
    look, frame = defs["look"]["properties"], defs["frame"]["properties"]
    rows = look["list"]["anyOf"][1]["properties"]
    assert tuple(rows["sort"]["enum"]) == wire.SORTS
    assert tuple(defs["verb"]["enum"]) == wire.VERBS
    assert tuple(defs["open"]["properties"]["view"]["enum"]) == wire.VIEWS
    assert (defs["state"]["maximum"], defs["states"]["maxItems"]) == (len(STATES) - 1, len(STATES))
    assert ", ".join(STATES) + "." == defs["state"]["description"]
    assert rows["count"]["maximum"] == frame["list"]["anyOf"][1]["properties"]["rows"]["maxItems"] == wire.ROWS
    assert (rows["filter"]["maxLength"], defs["hz"]["maximum"]) == (wire.FILTER, wire.MAX_HZ)
    lengths = [defs[name]["maxLength"] for name in ("key", "kernel", "line", "text")]
    assert lengths == [wire.KEY, wire.ID, wire.LINE, wire.TEXT]
    assert defs["details"]["properties"]["source"]["anyOf"][1]["maxLength"] == wire.LONGEST
    assert frame["runtimes"]["maxItems"] == frame["cells"]["anyOf"][1]["maxItems"] == wire.MOST
    assert frame["results"]["maxItems"] == wire.RESULTS
    assert defs["count"]["maximum"] == wire.HIGHEST


@pytest.mark.parametrize("made", [wire.acknowledgement(), wire.acknowledgement("x" * 9_999), wire.trouble("x" * 9_999)])
def test_what_the_kernel_answers_is_in_the_schema(made):
    validator("toBrowser").validate(made)


def test_texts_fit():
    assert wire.text("\ud800 a\nb") == "\\ud800 a\nb"
    assert wire.text("abcdef", 4) == "abc…"
    assert wire.line(" a\n b\t c ") == "a b c"
    assert (wire.count(-1), wire.count(7), wire.count(2**60)) == (0, 7, 2**53 - 1)
