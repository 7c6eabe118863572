"""Each exercise stands in a tutorial, where it takes its solution in place of the dots."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import pydotcompute.learn as learn

pytestmark = pytest.mark.needs_kernel
ROOT = Path(__file__).parents[2]
CHECK = re.compile(r'^check\("([\w.]+)", .*\)$', re.MULTILINE)


def sources(path: Path) -> list[str]:
    """The code of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


TUTORIALS = {
    path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if CHECK.search("\n".join(sources(path)))
}


def test_every_exercise_stands_in_one_tutorial() -> None:
    found = [name for path in TUTORIALS.values() for name in CHECK.findall("\n".join(sources(path)))]
    assert sorted(found) == sorted(learn.exercises())


@pytest.mark.parametrize("path", TUTORIALS.values(), ids=TUTORIALS)
def test_the_solutions_are_right_where_they_belong(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    solved(path)


def test_the_tutorial_on_clusters_runs_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n\nsys.modules['ray'] = None  # as if it were not installed\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    said = [
        output["text"]
        for cell in solved(TUTORIALS["19_cluster"])
        for output in cell.outputs
        if output["output_type"] == "stream"
    ]
    (line,) = "".join(said).splitlines()  # and nothing was printed by cells that need it
    assert line.startswith("Ray is not installed")


def test_the_tutorial_on_interop_runs_with_numpy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n\nfor name in ('torch', 'jax'):\n    sys.modules[name] = None  # as if it were not installed\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    said = "".join(
        output["text"]
        for cell in solved(TUTORIALS["16_interop"])
        for output in cell.outputs
        if output["output_type"] == "stream"
    )
    assert said.startswith("NumPy, and neither PyTorch nor JAX")
    (line,) = [line for line in said.splitlines() if line.startswith("learner")]  # the only model there is
    assert line.startswith("learner NumPy")


def solved(path: Path) -> list[Any]:
    """The cells of a notebook, run with solutions, which were right."""
    import nbformat
    from nbclient import NotebookClient

    cells: list[Any] = []
    for source in sources(path):
        if exercise := CHECK.search(source):
            # What the cell says before the answer, and what it gives, stays.
            given = re.sub(r"^.*= \.\.\..*$", "", source[: exercise.start()], flags=re.MULTILINE)
            source = f"{given}\n{learn.exercises()[exercise[1]].solution}\n\n{exercise[0]}"
        cells.append(nbformat.v4.new_code_cell(source))
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    said = {
        CHECK.search(cell.source)[1]: cell.outputs[-1]["data"]["text/plain"]  # type: ignore[index]
        for cell in cells
        if CHECK.search(cell.source)
    }
    assert said
    for name, text in said.items():
        assert text.startswith(f"✓ {name}: right."), text
    return cells
