"""What tests have come to: a file with a line of JSON for each, which `_recorder` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """What the tests have come to, one entry for each; one that began and has no end has no ``"outcome"``."""
    entries: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            entries[entry["test"]] = entry
    return list(entries.values())


def append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def stack(path: Path) -> Path:
    """Where the stacks of a test stand that did not come back."""
    return path.with_suffix(".stack")
