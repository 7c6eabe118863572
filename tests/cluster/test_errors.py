"""What can be wrong with a cluster is said in words, in seconds."""

import asyncio
import importlib
import io
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, UnifiedBuffer, message, ring_kernel
from pydotcompute.cluster import wire
from pydotcompute.exceptions import ClusterError, DefinitionError, MessageEncodeError
from pydotcompute.telemetry.clock import process_clock


@message
class Number:
    n: int


@pytest.fixture
def idle() -> Any:
    @ring_kernel("idle")
    async def idle(ctx: KernelContext[Any, Any]) -> None:
        async for _ in ctx:
            pass

    return idle


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cluster": "dask"}, "cluster must be 'ray' or None, not 'dask'"),
        ({"nodes": 2}, "are for a runtime with cluster='ray'"),
        ({"address": "auto"}, "are for a runtime with cluster='ray'"),
        ({"cluster": "ray", "nodes": 0}, "nodes must be an integer of at least 1, not 0"),
        ({"cluster": "ray", "start_timeout": 0}, "start_timeout must be a number of seconds above 0, not 0"),
        ({"cluster": "ray", "node_timeout": "5"}, "node_timeout must be a number of seconds above 0, not '5'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RingKernelRuntime(**options)


async def test_placing_needs_a_cluster(idle: Any) -> None:
    async with RingKernelRuntime() as runtime:
        for options in ({"node": "node-1"}, {"spread": True}, {"num_gpus": 1}, {"delivery": "at_least_once"}):
            with pytest.raises(ClusterError, match=r"RingKernelRuntime\(cluster='ray'\)"):
                await runtime.launch(idle, **options)
        with pytest.raises(ClusterError, match="has no cluster"):
            runtime.nodes  # noqa: B018
        with pytest.raises(ClusterError, match="has no cluster"):
            await runtime.join()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"node": "node-9"}, ClusterError, "there is no node 'node-9' .there are: 'node-1', 'node-2'"),
        ({"num_gpus": 1}, ClusterError, "no node offers 1 GPU: 0 of 2 nodes have any"),
        ({"num_gpus": -1}, ValueError, "num_gpus must be an integer of at least 0, not -1"),
        ({"node": "node-1", "spread": True}, ValueError, "leave num_gpus= and spread= out"),
        (
            {"node": "node-1", "delivery": "exactly_once"},
            ValueError,
            "'at_most_once', 'at_least_once'; not 'exactly_once'",
        ),
    ],
)
async def test_placements_that_cannot_be(
    cluster: RingKernelRuntime, idle: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await cluster.launch(idle, kernel_id="placed", **options)


async def test_buffers_stay_in_their_process(cluster: RingKernelRuntime) -> None:
    @ring_kernel("buffered", buffers={"weights": UnifiedBuffer(8, "f8")})
    def buffered(state: None, msg: Number, out: None, weights: Any) -> bool:
        return False

    with pytest.raises(DefinitionError, match="'weights', which are memory of this process"):
        await cluster.launch(buffered, node="node-1")


async def test_what_has_no_encoding_is_refused_in_the_sender(cluster: RingKernelRuntime, idle: Any) -> None:
    kernel = await cluster.launch(idle, node="node-1")
    with pytest.raises(MessageEncodeError, match="cannot go to another process"):
        await kernel.send(threading.Lock())
    assert kernel.queue_depth == 0


async def test_a_definition_that_needs_what_a_node_has_not(cluster: RingKernelRuntime, tmp_path: Path) -> None:
    """It comes from a module that only this process finds."""
    (tmp_path / "only_here.py").write_text(
        textwrap.dedent("""
            async def body(ctx):
                async for _ in ctx:
                    pass
        """)
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here

        kernel = await cluster.launch(ring_kernel("homesick")(only_here.body), node="node-1")
        await kernel.activate()
        assert await cluster.wait_ended("homesick", timeout=20) == "FAILED"
        assert "No module named 'only_here'" in str(kernel.exception)
        assert "install what it imports on every node, or define it in the notebook" in str(kernel.exception)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("only_here", None)


# -- a cluster that is not there ---------------------------------------------------------------------------------------


async def failing(**options: Any) -> str:
    """What `join` says."""
    async with RingKernelRuntime("current", cluster="ray", **options) as runtime:
        with pytest.raises(ClusterError) as caught:
            await runtime.join()
    return str(caught.value)


def failing_alone(before: str = "", **options: Any) -> tuple[str, float]:
    """The same in a process in which no Ray runs, and after how many seconds."""
    code = f"""
        import asyncio, sys, time
        {before}
        from pydotcompute import RingKernelRuntime
        async def main():
            async with RingKernelRuntime(cluster="ray", **{options!r}) as runtime:
                begun = time.monotonic()
                try:
                    await runtime.join()
                except Exception as error:
                    print(f"{{type(error).__name__}}: {{error}}|{{time.monotonic() - begun}}")
        asyncio.run(main())
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    text, _, seconds = done.stdout.strip().rpartition("|")
    assert text.startswith("ClusterError: "), done.stderr
    return text, float(seconds)


def test_ray_is_missing() -> None:
    text, _ = failing_alone('sys.modules["ray"] = None')
    assert "cluster='ray' needs Ray: pip install 'ray'" in text


def test_ray_is_broken(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise OSError('libray.so: wrong ELF class')")
    text, _ = failing_alone(f"sys.path.insert(0, {str(tmp_path)!r})")
    assert "Ray cannot be imported (OSError: libray.so: wrong ELF class): install it again" in text


def test_a_cluster_that_wants_a_token_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray itself says names neither token nor cause."""
    module = pytest.importorskip("ray") and importlib.import_module("pydotcompute.cluster.ray")

    def init(*args: Any, **options: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setattr(module, "_reach", lambda address: None)
    engine = module.Engine("10.0.0.1:6379")
    engine._ray = SimpleNamespace(init=init)
    with pytest.raises(ClusterError, match=r"10.0.0.1:6379 does not let this process in. If .*RAY_AUTH_MODE=token"):
        engine._init("10.0.0.1:6379")
    with pytest.raises(ClusterError, match="Ray does not start: Failed to connect"):
        engine._init("local")


def test_nobody_answers_at_the_address() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text, seconds = failing_alone(address=f"127.0.0.1:{port}")
    assert f"nobody answers at 127.0.0.1:{port}" in text
    assert "ray status" in text
    assert seconds < 10


@pytest.mark.parametrize("address", ["somewhere", "ray://10.0.0.1:10001", "10.0.0.1"])
def test_an_address_that_is_none(address: str) -> None:
    text, seconds = failing_alone(address=address)
    assert f"{address!r} is no address of a Ray cluster: 'host:port' of its head" in text
    assert seconds < 10


def test_somebody_else_answers() -> None:
    """It takes connections and says nothing; Ray itself would wait for long."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text, seconds = failing_alone(address=f"127.0.0.1:{port}")
    assert f"what answers at 127.0.0.1:{port} is no Ray" in text
    assert seconds < 10


async def test_starting_says_how_long_it_takes(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("pydotcompute.runtime.progress.sys", SimpleNamespace(stderr=terminal))
    monkeypatch.setattr("pydotcompute.runtime.progress.PATIENCE", 0.0)
    async with RingKernelRuntime("current", cluster="ray", nodes=1) as runtime:
        await runtime.join()
        assert "starting the cluster: 0." in terminal.getvalue()
        assert "the cluster has started in" in terminal.getvalue().splitlines()[-1]
        said = terminal.getvalue()
        await runtime.join()
        assert terminal.getvalue() == said


async def test_hosts_of_another_version(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pydotcompute.cluster.driver.__version__", "99.0")
    text = await failing(nodes=1)
    assert "node-1" in text
    assert "this process has 99.0" in text
    assert "install the same on both" in text


async def test_a_frame_that_makes_no_sense_is_refused_and_counted(ray: Any, idle: Any) -> None:
    async with RingKernelRuntime("current", cluster="ray", nodes=2) as runtime:
        await runtime.join()
        kernel = await runtime.launch(idle, node="node-1")
        await kernel.activate()
        node = runtime.nodes["node-1"]
        assert node._link is not None
        node._link.say("credit", 1)
        while node.state == "alive":
            await asyncio.sleep(0.01)
        assert "it refuses a frame: no item of a frame: ['credit', 1]" in node.reason
        assert runtime._the_cluster().refused == {"node-1": 1}
        assert await runtime.wait_ended("idle", timeout=10) == "FAILED"
        assert runtime.nodes["node-2"].state == "alive"


async def test_a_host_that_does_not_answer_is_lost(ray: Any, idle: Any) -> None:
    """It is stopped, not killed: nobody tells us."""
    import os
    import signal

    async with RingKernelRuntime("current", cluster="ray", nodes=1, node_timeout=1.5) as runtime:
        await runtime.join()
        node = runtime.nodes["node-1"]
        assert node.pid is not None
        os.kill(node.pid, signal.SIGSTOP)
        begun = time.monotonic()
        while node.state == "alive":
            await asyncio.sleep(0.01)
        assert time.monotonic() - begun < 4
        assert "has not answered for 1.5 s" in node.reason


async def test_a_body_that_blocks_is_no_lost_node(ray: Any) -> None:
    @ring_kernel("blocking")
    async def blocking(ctx: KernelContext[Any, Any]) -> None:
        async for seconds in ctx:
            time.sleep(seconds)  # that is the point
            await ctx.send(seconds)

    async with RingKernelRuntime("current", cluster="ray", nodes=1, node_timeout=1.5) as runtime:
        kernel = await runtime.launch(blocking, node="node-1")
        await kernel.activate()
        assert await kernel.ask(3.0) == 3.0
        assert runtime.nodes["node-1"].state == "alive"


def test_the_version_of_the_wire_is_part_of_it() -> None:
    assert wire.packed(1, [], wire.TO_HOST, process_clock().tick())[0][1] == wire.VERSION
