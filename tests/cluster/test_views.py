"""What notebooks show of ring kernels on nodes."""

import importlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, ring_kernel

pytestmark = pytest.mark.needs_notebook


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def own(ray: Any) -> Iterator[RingKernelRuntime]:
    """A runtime in which no other test has left kernels: a topology shows those that have failed before all others."""
    runtime = RingKernelRuntime("thread", cluster="ray", nodes=2)
    try:
        runtime.sync.join()
        yield runtime
    finally:
        runtime.sync.close(drain=False)


def test_a_topology_frames_what_is_on_one_node(own: RingKernelRuntime) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # bqplot uses what traitlets deprecates
        topology = importlib.import_module("pydotcompute.jupyter.widgets.topology")

    @ring_kernel("first")
    async def first(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.tell("second", n)

    @ring_kernel("second")
    async def second(ctx: KernelContext[Any, Any]) -> None:
        async for n in ctx:
            await ctx.send(n)

    for definition, node in ((first, "node-1"), (second, "node-2")):
        own.sync.launch(definition, node=node)
        own.sync.activate(definition.kernel_id)
    own.sync.send("first", 1)
    assert own.sync.receive("second", timeout=20) == 1
    end = time.monotonic() + 10
    while not own.edges().get(("first", "second")) and time.monotonic() < end:
        time.sleep(0.02)
    graph = topology.Topology(own, hz=4)
    graph._repr_mimebundle_()
    assert sorted(group["name"] for group in graph._groups) == ["on node-1", "on node-2"]
