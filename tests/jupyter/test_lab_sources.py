"""What the extension of JupyterLab says of ring kernels is so: its templates run, and it knows the magics' words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.jupyter.kernel import NotebookKernel

SOURCES = Path(__file__).parents[2] / "extension" / "src"
TEMPLATES: dict[str, list[list[str]]] = json.loads((SOURCES / "templates.json").read_text())

SHOWS = {
    "async": r"averages is active.*Average\(sensor='roof', celsius=21\.5\).*takes over.*celsius=21\.5",
    "compiled": r"means is active.*Mean\(sensor=3, value=20\.0\).*array\(\[.*takes over.*array\(\[",
    "gpu": r"smooth is active.*runs on: c.*array\(\[0\.25, 0\.25.*takes over.*array\(\[0\.4375, 0\.4375",
    "notebook": r"count_words is active.*'ring': 2.*Dashboard.*takes over.*'ring': 4.*Dashboard",
}


@pytest.mark.needs_kernel
@pytest.mark.parametrize("name", SHOWS)
def test_a_template_runs_as_it_stands(fresh: NotebookKernel, name: str) -> None:
    cells = ["\n".join(lines) for lines in TEMPLATES[name]]
    assert cells[0] == "%load_ext pydotcompute"  # a notebook that has this cell does not get it again
    shown = "\n".join(fresh.run(cell).text for _ in range(2) for cell in cells)
    assert re.search(SHOWS[name], shown, re.DOTALL), shown


@pytest.mark.needs_notebook
def test_the_words_that_it_colours_are_those_of_the_magics() -> None:
    from pydotcompute.jupyter.magics import CELL, COMMANDS

    words = json.loads((SOURCES / "magics.json").read_text())
    flags = [
        action.option_strings[0]
        for parser in (CELL, *COMMANDS.values())
        for action in parser._actions
        if action.option_strings and action.nargs == 0
    ]
    assert words["flags"] == list(dict.fromkeys(flags))

    kinds: dict[object, str] = {"KERNEL": "kernel", "N": "number", "PATH": "string", None: "value"}
    places = {}
    for name, parser in COMMANDS.items():
        places[name] = [kinds[action.metavar] for action in parser._get_positional_actions()]
        if parser.form.endswith(" EXPRESSION"):
            places[name].append("code")
    assert words["commands"] == {**places, "help": []}


def test_every_template_is_run() -> None:
    assert TEMPLATES.keys() == SHOWS.keys()
