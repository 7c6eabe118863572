"""All that needs a GPU, with the packages that are there: the tests marked needs_gpu, then `gpu.py`; one JSON of both.

    python benchmarks/gpu_run.py [--json FILE] [--seconds S] [--tests PATH ...]

`make gpu` runs it. Whatever fails, crashes or hangs is stopped, named, and does not keep the rest from being run and
written; all of it takes no longer than `--seconds`. The code is 0 where everything passed, 1 where something did not,
and 2 where there is no GPU that can be used, and so nothing was tested or measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _machine import device, machine
from _outcomes import append, read, stack

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NEEDED = ("numpy", "msgpack", "pytest", "hypothesis")
"""Packages, beside the compiler, which `why_not` looks for."""
FOR_BENCHMARK = 180
"""Seconds that the tests leave to it, at least."""
FOR_COMPILING = 60
"""Seconds before the tests, at most."""
PROCESSES = 8
"""In which the tests are run, at most: another for what is left after a crash."""
LISTED = 25


def cannot(backend: str) -> str | None:
    """Why nothing can be run here."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return (
            f"{sys.executable} lacks {', '.join(missing)}: `pip install {' '.join(missing)}`, or name another Python: "
            "`make PYTHON=/path/to/python gpu`"
        )
    from pydotcompute.device.backend import why_not
    from pydotcompute.device.text import for_a_terminal

    why = why_not(backend)
    return None if why is None else for_a_terminal(why)


def in_time(command: list[str], end: float, **environment: str) -> int | str:
    """Run it in a session of its own, with all that it starts; its code, or how it was ended instead."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(max(end - time.monotonic(), 1))
        return code if code >= 0 else f"it was ended by {signal.Signals(-code).name}"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # which lets it end its kernels
        with suppress(subprocess.TimeoutExpired):
            process.wait(8)
        return "it was stopped: its time was over"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _shown(code: int | str) -> str:
    return code if isinstance(code, str) else f"it ended with {code}"


def warm(arch: str, cache: Path) -> None:
    """Compile the steps of the tests on all cores; what this leaves out the tests compile themselves."""
    parts = max(min(8, os.cpu_count() or 1), 1)
    environment = {**os.environ, "PYTHONPATH": paths_for(ROOT), "PYDOTCOMPUTE_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "tests.device.warm", arch]
    end = time.monotonic() + FOR_COMPILING
    running = [subprocess.Popen([*command, str(part), str(parts)], cwd=ROOT, env=environment) for part in range(parts)]
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic(), 0))
        process.kill()
        process.wait()


def paths_for(*folders: Path) -> str:
    return os.pathsep.join(filter(None, (*map(str, folders), os.environ.get("PYTHONPATH"))))


def steps_of(outcomes: Path) -> Path:
    """Where the compiled steps of all processes of a run lie."""
    return outcomes.with_name("steps")


def tests(paths: list[str], marker: str, outcomes: Path, end: float) -> dict[str, Any]:
    """Run them, each once; what they came to."""
    command = [sys.executable, "-m", "pytest", "-p", "_recorder", "-p", "no:cacheprovider", f"--outcomes={outcomes}"]
    command += ["-q", "-m", marker, "--tb=short", "--show-capture=no", "--no-header", "--continue-on-collection-errors"]
    begun, stopped, finished = time.monotonic(), "there were too many crashes", -1
    for _ in range(PROCESSES):
        cache = str(steps_of(outcomes))
        code = in_time([*command, *paths], end, PYTHONPATH=paths_for(ROOT, HERE), TEST_CACHE_DIR=cache)
        for entry in read(outcomes):
            if "outcome" not in entry:
                how = "it did not come back" if code == 1 else _shown(code)
                shown = stack(outcomes).read_text()[-3000:]
                append(outcomes, {**entry, "outcome": "crashed", "text": f"{shown}\n{how}"})
        found = read(outcomes)
        crashed = bool(found) and found[-1]["outcome"] == "crashed"
        if time.monotonic() > end:
            stopped = "their time was over"
            break
        if code in (0, 1, 5) and not crashed:  # 1: some failed; 5: none was left
            stopped = "" if found else "there were none"
            break
        if len(found) == finished:
            stopped = f"the tests do not begin ({code})"
            break
        finished = len(found)
    counts = Counter(entry["outcome"] for entry in found)
    return {
        "counts": dict(counts),
        "stopped": stopped,
        "seconds": round(time.monotonic() - begun, 1),
        "failed": [entry for entry in found if entry["outcome"] in ("failed", "crashed")],
        "skipped": [entry for entry in found if entry["outcome"] == "skipped"],
        "slowest": [
            [entry["seconds"], entry["test"]] for entry in sorted(found, key=lambda entry: -entry["seconds"])[:LISTED]
        ],
    }


def benchmark(arguments: list[str], path: Path, cache: Path, end: float) -> dict[str, Any]:
    seconds = f"--seconds={max(end - time.monotonic() - 40, 5):.0f}"
    command = [sys.executable, str(HERE / "gpu.py"), f"--json={path}", seconds, *arguments]
    code = in_time(command, end, PYTHONPATH=paths_for(ROOT), PYDOTCOMPUTE_CACHE_DIR=str(cache))
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"finished": False}
    if not found["finished"]:
        found["stopped"] = f"{_shown(code)}, in the row {found.get('running')!r}"
    return found


def written(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def summary(content: dict[str, Any], path: Path) -> bool:
    """Print what it came to; whether all is well."""
    print("\n== all of it")
    ran, measured = content["tests"], content["benchmark"]
    counts = ", ".join(f"{n} {outcome}" for outcome, n in ran["counts"].items()) or "none"
    print(f"tests: {counts}, in {ran['seconds']} s")
    for entry in ran["failed"][:LISTED]:
        last = entry.get("text", "").strip().splitlines()[-1:]
        print(f"  {entry['outcome'].upper()}  {entry['test']}  {''.join(last)}")
    if len(ran["failed"]) > LISTED:
        print(f"  and {len(ran['failed']) - LISTED} more")
    for reason, n in Counter(entry.get("text", "") for entry in ran["skipped"]).items():
        print(f"  {n} skipped: {reason}")
    if ran["stopped"]:
        print(f"  STOPPED: {ran['stopped']}")
    for name, why in measured.get("failed", {}).items():
        print(f"benchmark: FAILED  {name}: {why}")
    if stopped := measured.get("stopped"):
        print(f"benchmark: STOPPED: {stopped}")
    missed = [claim for claim in measured.get("claims", []) if claim["met"] is False]
    for claim in missed:
        beside = f" × {claim['beside']}" if claim["beside"] else ""
        print(f"benchmark: MISSED  {claim['row']}: {claim['value']:.3g}{beside}, not {claim['bound']}")
    well = not (ran["failed"] or ran["stopped"] or measured.get("failed") or stopped) and "passed" in ran["counts"]
    verdict = "everything passed" if well else "NOT everything passed"
    print(f"{verdict}; {len(missed)} bounds missed; {content['seconds']} s; written to {path}")
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: gpu-<device>-<date>.json in results/")
    parser.add_argument("--seconds", type=float, default=530, help="that it may take, all in all (default 530)")
    parser.add_argument("--tests", nargs="*", metavar="PATH", help="default: all files with tests marked so")
    parser.add_argument("--marker", default="needs_gpu", help="of the tests to be run (default needs_gpu)")
    parser.add_argument("--benchmark", nargs="*", default=[], metavar="ARG", help="for gpu.py, without dashes")
    parser.add_argument("--backend", default="cuda", choices=("cuda", "cpu"), help="cpu: to see that this works")
    options = parser.parse_args()
    begun = time.monotonic()
    if why := cannot(options.backend):
        print(f"Nothing was tested or measured: {why}", file=sys.stderr)
        return 2
    now = datetime.now(UTC)
    about: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), **machine()}
    if options.backend == "cuda":
        about |= device()
    name = re.sub(r"[^a-z0-9]+", "-", str(about.get("device", "none")).lower()).strip("-")
    path: Path = options.json or HERE / "results" / f"gpu-{name}-{now:%Y-%m-%d}.json"
    marked = (file for file in (ROOT / "tests").rglob("test_*.py") if f"mark.{options.marker}" in file.read_text())
    paths = options.tests or sorted(str(file.relative_to(ROOT)) for file in marked)
    content: dict[str, Any] = {**about, "tests": None, "benchmark": None}
    end = begun + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        print(f"== tests marked {options.marker}: {len(paths)} files", flush=True)
        share = min(FOR_BENCHMARK, options.seconds / 3)
        outcomes = Path(folder, "outcomes")
        if options.backend == "cuda" and not options.tests:
            warm(about["arch"], steps_of(outcomes))
        content["tests"] = tests(paths, options.marker, outcomes, end - share)
        written(path, content)
        print("\n== benchmarks/gpu.py", flush=True)
        arguments = [f"--backend={options.backend}", *(f"--{argument}" for argument in options.benchmark)]
        content["benchmark"] = benchmark(arguments, Path(folder, "figures.json"), steps_of(outcomes), end - 10)
    content["seconds"] = round(time.monotonic() - begun, 1)
    written(path, content)
    return not summary(content, path)


if __name__ == "__main__":
    sys.exit(main())
