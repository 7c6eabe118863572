"""What runs here, what does not, and what would change that: `pydotcompute doctor`.

Each thing is tried in a Python process of its own. One that is broken, crashes or hangs then takes nothing with it, and
nothing is imported or started in this process.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from .. import __version__
from . import cache, toolkit
from .accelerator import Accelerator, cupy_for_rocm
from .backend import why_not
from .text import html_table

TIMEOUT = 60.0
"""Seconds that one trial may take: the first import of Numba reads thousands of files."""

WIDTH = 100
"""Characters in a line of text."""

PACKAGES = (
    "numpy",
    "msgpack",
    "numba",
    "llvmlite",
    "numba-cuda",
    "cuda-bindings",
    "nvidia-ml-py",
    "jupyterlab",
    "ipykernel",
    "ipywidgets",
    "anywidget",
    "bqplot",
)
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")


@dataclass(frozen=True)
class Findings:
    """What `doctor` has found; printed, or shown in a notebook, it says so in words."""

    backends: Mapping[str, str | None]
    """Why each backend cannot be used and what to do about it; None where it can."""
    gpu_compiler: str | None
    """Why steps cannot be compiled for a GPU, which needs none; None if they can."""
    accelerators: tuple[Accelerator, ...]
    versions: Mapping[str, str]
    """Of Python, packages, the CUDA toolkit and the driver, as far as they are there."""
    cache: str | None
    """The folder where compiled steps are kept; None where none can be written."""
    cache_refused: str | None = None
    """What PYDOTCOMPUTE_CACHE_DIR names, where that cannot be used."""

    @property
    def healthy(self) -> bool:
        """Whether compiled ring kernels run here."""
        return self.backends["cuda"] is None or self.backends["cpu"] is None

    @property
    def conclusion(self) -> str:
        """All of it in a line."""
        gpus = [accelerator.name for accelerator in self.accelerators if accelerator.kind == "cuda"]
        if self.backends["cuda"] is None:
            return f"All is well: ring kernels run on the GPU here ({', '.join(gpus)})."
        if self.backends["cpu"] is None:
            but = "the GPU cannot be used yet" if gpus else "no GPU can be used"
            return f"Ring kernels run here, compiled for the processor; {but}."
        return "Ring kernels run here as plain Python alone, which is slow: the compiler is missing or broken."

    @property
    def remedies(self) -> tuple[str, ...]:
        """The commands that install what is missing: for this machine's own use first, then to compile for a GPU."""
        return _commands(self.backends["cpu"], self.backends["cuda"], self.gpu_compiler)

    @property
    def _for_this_machine(self) -> tuple[str, ...]:
        """The remedies, without those that lack a GPU to be of use here."""
        with_gpu = any(accelerator.kind == "cuda" for accelerator in self.accelerators)
        return self.remedies if with_gpu else _commands(self.backends["cpu"])

    def as_dict(self) -> dict[str, Any]:
        """The same for `json`."""
        accelerators = [asdict(accelerator) for accelerator in self.accelerators]
        return {
            "healthy": self.healthy,
            "conclusion": self.conclusion,
            "remedies": list(self.remedies),
            "backends": {name: {"usable": why is None, "why_not": why} for name, why in self.backends.items()},
            "gpu_compiler": {"usable": self.gpu_compiler is None, "why_not": self.gpu_compiler},
            "accelerators": accelerators,
            "versions": dict(self.versions),
            "cache": self.cache,
            "cache_refused": self.cache_refused,
        }

    def _sections(self) -> dict[str, dict[str, str]]:
        abilities = {name: _answer(why) for name, why in self.backends.items()}
        if self.backends["interpreted"] is None:
            abilities["interpreted"] = "yes: plain Python, for the debugger"
        refused = {"not in": f"{self.cache_refused}: {_REFUSED}"} if self.cache_refused else {}
        return {
            "Backends": {**abilities, "compiling for a GPU": _answer(self.gpu_compiler)},
            "Accelerators": {f"{item.kind} {item.index}": str(item) for item in self.accelerators},
            "Versions": dict(self.versions),
            "Compiled steps": {"kept in": self.cache or _NO_CACHE, **refused},
        }

    def __str__(self) -> str:
        lines = [self.conclusion, *(f"  {command}" for command in self._for_this_machine)]
        sections = self._sections()
        width = max(len(name) for facts in sections.values() for name in facts)
        indent = " " * (width + 4)
        for title, facts in sections.items():
            lines += ["", title]
            for name, value in facts.items():
                start = f"  {name:{width}}  "
                for i, part in enumerate(_COMMAND.split(value)):
                    if i % 2:  # a command, to be copied: on a line of its own, as long as it may be
                        lines.append(indent + part)
                    elif prose := part.lstrip(",; "):
                        lines += wrap(
                            start + prose, WIDTH, subsequent_indent=indent,
                            break_long_words=False, break_on_hyphens=False,
                        )  # fmt: skip
                    start = indent
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        remedies = "".join(f"<pre>{escape(command)}</pre>" for command in self._for_this_machine)
        tables = "".join(html_table(title, facts, caption=True) for title, facts in self._sections().items())
        return f"<p><b>{escape(self.conclusion)}</b></p>{remedies}{tables}"


_NO_CACHE = "no folder can be written: every process compiles anew. Set PYDOTCOMPUTE_CACHE_DIR to one of your own"


_REFUSED = "PYDOTCOMPUTE_CACHE_DIR must name a folder of yours that can be written, and by nobody else"

_COMMAND = re.compile(r"`(pip install [^`]+)`")


def _commands(*reasons: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(command for reason in reasons for command in _COMMAND.findall(reason or "")))


def _answer(why: str | None) -> str:
    return "yes" if why is None else f"no: {why}"


def doctor() -> Findings:
    """See what can be used on this machine, and what would make more of it usable. Takes some seconds.

    The result shows itself in a notebook; ``print(doctor())`` elsewhere.
    """
    with ThreadPoolExecutor(len(_TRIALS)) as pool:
        found = dict(zip(_TRIALS, pool.map(_tried, _TRIALS), strict=True))
    listed = found["accelerators"] if isinstance(found["accelerators"], list) else []
    accelerators = tuple(Accelerator(**{**item, "capability": _pair(item["capability"])}) for item in listed)
    folder, wanted = cache.folder(), os.environ.get("PYDOTCOMPUTE_CACHE_DIR")
    return Findings(
        backends={"cuda": found["cuda"], "cpu": found["cpu"], "interpreted": None},
        gpu_compiler=found["gpu compiler"],
        accelerators=accelerators,
        versions=_versions(accelerators),
        cache=str(folder) if folder is not None else None,
        cache_refused=wanted if wanted and (folder is None or folder.parent != Path(wanted).absolute()) else None,
    )


def _pair(numbers: list[int] | None) -> tuple[int, int] | None:
    return (numbers[0], numbers[1]) if numbers is not None else None


def _versions(accelerators: tuple[Accelerator, ...]) -> dict[str, str]:
    cupys = [f"{name} {version}" for name in CUPY if (version := toolkit.installed(name))]
    if for_rocm := cupy_for_rocm():
        cupys.append(f"cupy-rocm {for_rocm}")
    conflict = ": they overwrite each other, uninstall all and install one" if len(cupys) > 1 else ""
    found = {
        "pydotcompute": __version__,
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}",
        **{name: toolkit.installed(name) for name in PACKAGES},
        "cupy": " and ".join(cupys) + conflict,
        "CUDA toolkit": ", ".join(f"{part} {version}" for part, version in toolkit.versions().items()),
        "NVIDIA driver": next(filter(None, (accelerator.driver_version for accelerator in accelerators)), None),
    }
    return {name: version for name, version in found.items() if version}


# -- trials ------------------------------------------------------------------------------------------------------------


def _gpu_compiler() -> str | None:
    from .cuda_compiler import compiler_missing

    return toolkit.mismatch() or compiler_missing()


_TRIALS: dict[str, Callable[[], Any]] = {
    "cpu": lambda: why_not("cpu"),
    "cuda": lambda: why_not("cuda"),
    "gpu compiler": _gpu_compiler,
    "accelerators": lambda: [asdict(accelerator) for accelerator in Accelerator.all()],
}


def _tried(name: str) -> Any:
    """What a trial gives in a new process, which finds what this one would; a text, should that process fail."""
    code = f"from pydotcompute.device import doctor; doctor.report({name!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment, timeout=TIMEOUT,
            stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"looking for it did not come to an end within {TIMEOUT:.0f} s"
    except OSError as error:
        return f"Python cannot be started to look for it ({error})"
    lines = ended.stdout.splitlines()
    if ended.returncode == 0 and lines:
        return json.loads(lines[-1])  # whatever is imported may print as well
    if ended.returncode < 0:
        return f"looking for it crashes Python ({signal.Signals(-ended.returncode).name}): install its packages again"
    return f"looking for it fails: {(ended.stderr.strip().splitlines() or ['without a word'])[-1]}"


def report(name: str) -> None:
    """Run a trial in this process and write what it gives."""
    sys.stdout.write(f"\n{json.dumps(_TRIALS[name]())}\n")
