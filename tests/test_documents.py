"""The Python blocks of a document run from top to bottom, as cells of one notebook would.

`print(...)  # HELLO` promises what is printed.
"""

import ast
import importlib
import inspect
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "notebooks" / "site").glob("*.md"))]


@pytest.fixture(scope="module", autouse=True)
def widgets() -> None:
    """Importing them reads files, which an event loop must not, and bqplot uses what traitlets deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("pydotcompute.jupyter.widgets")


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module to run cells in; its functions and classes find it by name, and nothing was defined before them."""
    monkeypatch.setattr("pydotcompute.runtime.kernel._definitions", {})
    module = ModuleType("cells_of_a_document")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
async def test_the_python_blocks_run(path: Path, cells: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_text(encoding="utf-8")
    expected = []
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        # Blank lines before it give every statement the line number that it has in the document.
        source = "\n" * text.count("\n", 0, block.start(1)) + block[1]
        code = compile(source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        running = eval(code, vars(cells))
        if inspect.iscoroutine(running):
            await running
        expected += re.findall(r"^ *print\(.*\)  # (.*)$", block[1], re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_files_headings_and_targets_that_a_document_names_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w-]", "", head.lower().replace(" ", "-")) for head in re.findall(r"^#+ (.*)$", text, re.M)}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        if not path:
            assert heading in headings, link
        elif not link.startswith("https://"):
            assert (ROOT / path).is_file(), link
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    commands = set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )*([a-z-]+)", text, re.M))
    assert commands
    assert commands <= targets
