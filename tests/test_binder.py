"""The environment that Binder makes: pinned, within the package's bounds, with all that the notebooks import."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
BINDER = ROOT / "binder"
ENVIRONMENT = (BINDER / "environment.yml").read_text(encoding="utf-8")
PINNED = dict(re.findall(r"^ {6}- ([\w-]+)==([\d.]+)$", ENVIRONMENT, re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BROUGHT = {"IPython": "ipykernel", "PIL": "pillow", "pydotcompute": "postBuild"}
"""What other entries bring."""
GUARDED = {"cupy", "jax", "torch"}
"""Imported only where they are: they want a GPU, or are large."""


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_every_package_is_pinned():
    entries = re.findall(r"^ {6}- (.*)$", ENVIRONMENT, re.MULTILINE)
    assert entries == [f"{name}=={version}" for name, version in PINNED.items()]
    assert entries == sorted(entries)
    assert "  - python=3.12\n" in ENVIRONMENT
    assert PINNED["ipykernel"].startswith("7.4.")
    assert PINNED["jupyterlab"].startswith("4.6.")


def test_what_the_package_and_the_notebooks_need_is_there_and_new_enough():
    for need in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["lab"]:
        name, least = re.fullmatch(r"([\w-]+)(?:>=([\d.]+))?", need).groups()
        assert name in PINNED, need
        assert numbers(PINNED[name]) >= numbers(least or "0"), need


def imported(path: Path) -> set[str]:
    """The top-level modules that a notebook's cells import, the lines of magics apart."""
    found = set()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        source = re.sub(r"^(\s*|.*= )[%!].*$", r"\1None", "".join(cell["source"]), flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_import_of_a_notebook_is_provided(path: Path):
    provided = PINNED.keys() | BROUGHT.keys() | sys.stdlib_module_names | GUARDED
    assert imported(path) <= provided


def test_it_opens_on_the_tour_with_the_page_that_says_what_to_do_and_the_side_bar():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (address,) = re.findall(r"https://mybinder\.org/v2/[^\s)`]+", readme)
    assert parse_qs(urlsplit(address).query)["urlpath"] == ["lab"]  # which opens the workspace
    assert "jupyter lab workspaces import binder/workspace.json\n" in (BINDER / "postBuild").read_text()
    workspace = json.loads((BINDER / "workspace.json").read_text())
    assert workspace["metadata"]["id"] == "default"
    layout = workspace["data"]["layout-restorer:data"]
    shown = [widget for area in layout["main"]["dock"]["children"] for widget in area["widgets"]]
    assert shown == ["markdownviewer-widget:binder/START.md", "notebook:notebooks/00_tour.ipynb"]
    for widget in shown:
        path = workspace["data"][widget]["data"]["path"]
        assert widget.endswith(f":{path}")
        assert (ROOT / path).is_file()
    assert f"panel.id = '{layout['left']['current']}'" in (ROOT / "extension" / "src" / "index.ts").read_text()


def test_the_links_of_that_page_lead_to_notebooks_that_run_there():
    links = re.findall(r"\]\(([^)]+)\)", (BINDER / "START.md").read_text(encoding="utf-8"))
    assert len(links) >= 10
    for link in links:
        assert (BINDER / link).resolve() in NOTEBOOKS


def test_jupyterlab_takes_the_workspace(tmp_path):
    pytest.importorskip("jupyterlab")
    environment = os.environ | {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "jupyterlab", "workspaces", "import", str(BINDER / "workspace.json")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert [path.name.startswith("default") for path in tmp_path.glob("*.jupyterlab-workspace")] == [True]


def test_the_script_can_be_run():
    assert os.access(BINDER / "postBuild", os.X_OK)
