"""What notebooks show of ring kernels on nodes."""

import importlib
import sys
import time
import warnings
from typing import Any

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, ring_kernel

pytestmark = pytest.mark.needs_notebook


@pytest.fixture(scope="module", autouse=True)
def _as_in_a_notebook() -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_topology_frames_what_is_on_one_node(hosts: RingKernelRuntime) -> None:
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

    hosts.sync.launch(first, node="node-1")
    hosts.sync.launch(second, node="node-2")
    try:
        for name in ("first", "second"):
            hosts.sync.activate(name)
        hosts.sync.send("first", 1)
        assert hosts.sync.receive("second", timeout=20) == 1
        end = time.monotonic() + 10
        while not hosts.edges().get(("first", "second")) and time.monotonic() < end:
            time.sleep(0.02)
        graph = topology.Topology(hosts, hz=4)
        graph._repr_mimebundle_()
        assert sorted(group["name"] for group in graph._groups) == ["on node-1", "on node-2"]
    finally:
        for name in ("first", "second"):
            hosts.sync.terminate(name)
