"""A Ray of two nodes on this machine, and a runtime on it, once for all tests."""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pydotcompute.cluster  # noqa: F401 - now: importing it reads files, which an event loop must not
from pydotcompute import RingKernelRuntime

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds that a test may take."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A coroutine that hangs is cancelled, and its test fails. These tests are the last: Ray stays in the process."""
    items.sort(key=lambda item: item.path.is_relative_to(HERE))
    for item in items:
        if item.path.is_relative_to(HERE) and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.obj = _impatient(item.obj)


def _impatient(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            await test(*args, **kwargs)

    return run


@pytest.fixture(scope="session")
def ray() -> Iterator[Any]:
    """Two nodes: a head, where this process is, and another one."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="session")
def hosts(ray: Any) -> Iterator[RingKernelRuntime]:
    """A runtime with a host on each of them, for tests that lose none."""
    runtime = RingKernelRuntime("thread", cluster="ray")
    try:
        asyncio.run(runtime.join())
        yield runtime
    finally:
        runtime.sync.close(drain=False)


@pytest.fixture
async def cluster(hosts: RingKernelRuntime) -> AsyncIterator[RingKernelRuntime]:
    """That runtime; what a test has launched ends with it."""
    before = dict(hosts.kernels)
    letters = len(hosts.dead_letters)
    yield hosts
    for kernel_id, kernel in hosts.kernels.items():
        if before.get(kernel_id) is not kernel and not kernel.state.over:
            await kernel.terminate(drain=False, timeout=2)
    assert all(node.state == "alive" for node in hosts.nodes.values())
    assert letters <= len(hosts.dead_letters)


Launch = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["here", "on another node"])
def launch(request: pytest.FixtureRequest, cluster: RingKernelRuntime) -> Launch:
    """Launch and activate a ring kernel: what holds for one in this process holds for one elsewhere."""

    async def launch(definition: Any, **options: Any) -> Any:
        where = {} if request.param == "here" else {"node": "node-2"}
        kernel = await cluster.launch(definition, **where, **options)
        await kernel.activate()
        return kernel

    return launch
