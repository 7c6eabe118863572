"""A program that starts a cluster of its own, as from the README."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
from __future__ import annotations

import asyncio
import os

import numpy as np

from pydotcompute import KernelContext, Record, RingKernelRuntime, Shape, message, ring_kernel


@message
class Sample:
    value: np.float64


@message
class Total:
    total: np.float64
    pid: np.int64


class Sums(Record):
    total: np.float64


@ring_kernel("total", state=Sums)
def total(state: Sums, msg: Sample, out: Total) -> bool:
    state.total += msg.value
    out.total = state.total
    return True


@ring_kernel("front")
async def front(ctx: KernelContext[Sample, Total]) -> None:
    async for sample in ctx:
        reply = await ctx.ask("total", sample)
        await ctx.send(Total(total=reply.total, pid=os.getpid()))


async def main() -> None:
    async with RingKernelRuntime(cluster="ray", nodes=2) as runtime:
        await runtime.launch("total", node="node-1")
        await runtime.activate("total")
        await runtime.launch("front", spread=True)
        await runtime.activate("front")
        replies = [await runtime.ask("front", Sample(value=float(i))) for i in range(4)]
        print([reply.total for reply in replies], runtime["front"].node, replies[0].pid == runtime.nodes["node-2"].pid)


asyncio.run(main())
"""


@pytest.mark.needs_ray
def test_a_program_starts_and_ends_a_cluster(tmp_path: Path) -> None:
    """Its classes are written in the program itself, and what their annotations name is known only there."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray'")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "[0.0, 1.0, 3.0, 6.0] node-2 True\n", done.stderr
    assert done.stderr == ""


@pytest.mark.needs_ray
def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray'")
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```py\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    head, _, rest = block.partition("async with ")
    body = textwrap.indent(f"async with {rest}", "    ")
    program = tmp_path / "example.py"
    program.write_text(f"{head}async def main():\n{body}\n\nimport asyncio\n\nasyncio.run(main())\n")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "".join(f"{line}\n" for line in re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)), (
        done.stderr
    )
