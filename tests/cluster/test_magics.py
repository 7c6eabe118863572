"""The magics in a real Jupyter kernel, with ring kernels on nodes of a cluster that it starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jupyter.kernel import NotebookKernel

pytestmark = [pytest.mark.needs_kernel, pytest.mark.needs_ray]

START = """
%load_ext pydotcompute
from pydotcompute import RingKernelRuntime
runtime = RingKernelRuntime(loop="thread", cluster="ray", nodes=2)
await runtime.join()
"""


def echo(options: str = "", word: str = "echo") -> str:
    return (
        f"%%ring_kernel {options}\nasync def echo(ctx):\n"
        f"    async for message in ctx:\n        await ctx.send(({word!r}, message))\n"
    )


@pytest.fixture(scope="module")
def nb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookKernel]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    from tests.jupyter.kernel import NotebookKernel

    folder: Path = tmp_path_factory.mktemp("kernel")
    kernel = NotebookKernel(folder)
    cell = kernel.start(START)
    kernel.until(lambda: cell.done, 90.0)
    assert not cell.errors, cell.text
    yield kernel
    last = kernel.start("runtime.sync.close(drain=False)")
    kernel.until(lambda: last.done)
    kernel.close()


@pytest.fixture(autouse=True)
def ends(nb: NotebookKernel) -> Iterator[None]:
    yield
    nb.run("%ring stop --all --no-drain")


NODE = 'runtime["echo"].node'


def asked(nb: NotebookKernel, word: str = "echo") -> object:
    """Where the kernel that answers with this word is."""
    assert nb.value('await runtime.ask("echo", 1, timeout=20)') == (word, 1)
    return nb.value(NODE)


def test_a_cell_runs_its_kernel_on_the_node_that_it_names(nb: NotebookKernel) -> None:
    nb.show(nb.run(echo("--node node-2")), "echo is active")
    assert asked(nb) == "node-2"
    cell = nb.run(echo("--node node-2", "new"))  # the same place: it takes over
    assert "echo: version 2 takes over now" in cell.stdout
    assert asked(nb, "new") == "node-2"
    nb.run(echo("", "newer"))  # none: where it is
    assert asked(nb, "newer") == "node-2"


def test_another_place_needs_another_launch(nb: NotebookKernel) -> None:
    nb.run(echo("--node node-2"))
    assert asked(nb) == "node-2"
    cell = nb.fail(echo("--node node-1", "new"))
    assert "echo runs on node-2: to launch it anew, with what is given now, add --restart" in cell.text
    assert asked(nb) == "node-2"
    nb.show(nb.run(echo("--node node-1 --restart", "new")), "echo is active")
    assert asked(nb, "new") == "node-1"
    nb.run(echo("--restart", "newer"))
    assert asked(nb, "newer") == "node-1"


@pytest.mark.parametrize("again", ["%ring restart echo", "runtime.sync.restart('echo')", echo()])
def test_what_begins_again_after_its_end_does_so_where_it_was(nb: NotebookKernel, again: str) -> None:
    nb.run(echo("--node node-2"))
    assert asked(nb) == "node-2"
    nb.run("%ring stop echo")
    assert nb.value(f"{NODE} is None") is True
    nb.run(again)
    assert asked(nb) == "node-2"


def test_spread_delivery_and_gpus_are_those_of_launch(nb: NotebookKernel) -> None:
    nb.run(echo("--spread --delivery at_least_once"))
    assert str(asked(nb)).startswith("node-")
    assert nb.value('runtime["echo"].placement.spread, runtime["echo"].placement.delivery') == (True, "at_least_once")
    cell = nb.fail(echo("--num-gpus 1 --restart"))
    assert "no node offers 1 GPU: 0 of 1 nodes have any" in cell.text
    assert "at_least_once" in nb.fail(echo("--delivery once")).text


def test_a_runtime_without_a_cluster_says_what_it_needs(nb: NotebookKernel) -> None:
    nb.run("clustered, runtime = runtime, RingKernelRuntime(loop='thread')")
    try:
        cell = nb.fail(echo("--node node-1"))
        assert "ClusterError" in cell.text
        assert "RingKernelRuntime(cluster='ray')" in cell.text
    finally:
        nb.run("runtime = clustered")
