"""The counters as Prometheus reads them."""

import asyncio
import math
import socket
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.exceptions import RuntimeClosedError
from pydotcompute.telemetry import BUCKETS, COUNTERS, KernelStatistics

pytestmark = pytest.mark.needs_exporters


def definition(kernel_id="worker", **options):
    async def worker(ctx):
        async for m in ctx:
            if m == "boom":
                raise ValueError(m)
            await ctx.send(m)

    return ring_kernel(kernel_id, **options)(worker)


def scraped(text, parser="prometheus_client.parser"):
    """``{name: {labels: value}}`` of what a parser reads."""
    families = __import__(parser, fromlist=["parser"]).text_string_to_metric_families(text)
    found = {}
    for family in families:
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.get(sample.name, {})
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def exposition(runtime, openmetrics=False):
    """The text of a scrape of a runtime."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

    from pydotcompute.telemetry.prometheus import collector

    registry = CollectorRegistry()
    registry.register(collector(runtime))
    return (generate_openmetrics if openmetrics else generate_latest)(registry).decode()


def of(kernel_id, **labels):
    return tuple(sorted({"kernel": kernel_id, **labels}.items()))


def fetch(url, accept=None):
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture(params=["current", "thread"])
async def runtime(request):
    async with RingKernelRuntime(loop=request.param) as runtime:
        yield runtime


async def launched(runtime, kernel_id="worker", **options):
    kernel = await runtime.launch(definition(kernel_id, **options))
    await kernel.activate()
    return kernel


async def test_a_scrape_has_the_counters_of_each_kernel(runtime):
    kernel = await launched(runtime, queue_size=5, restart="on_failure", backoff=None, max_retries=1)
    await launched(runtime, "other")
    for i in range(3):
        await kernel.ask(i)
    await kernel.send("unread")
    await runtime.wait_idle()
    await kernel.send("boom")
    while kernel.restarts < 2 or not kernel.statistics().dead_letters:
        await asyncio.sleep(0)
    await runtime.wait_idle()
    for found in (
        scraped(exposition(runtime)),
        scraped(exposition(runtime, True), "prometheus_client.openmetrics.parser"),
    ):
        for name, value in {
            "queue_depth": 0,
            "queue_size": 5,
            "queue_peak": 1,
            "replies_unread": 1,
            "version": 1,
            "received_total": 5,
            "processed_total": 4,
            "replied_total": 4,
            "dropped_total": 0,
            "dead_letters_total": 1,
            "errors_total": 2,
            "restarts_total": 2,
            "retried_total": 1,
            "ready": 1,
            "stalled": 0,
        }.items():
            samples = found[f"pydotcompute_kernel_{name}"]
            assert samples.keys() == {of("worker"), of("other")}, name
            assert samples[of("worker")] == value, name
        letters = {labels[0][1]: n for labels, n in found["pydotcompute_dead_letters_total"].items()}
        assert letters == runtime.dead_letters.counts
        assert letters["failed"] == 1
        assert found["pydotcompute_live"][()] == found["pydotcompute_ready"][()] == 1
        assert 0 <= found["pydotcompute_loop_lag_seconds"][()] < 10
        handled = found["pydotcompute_kernel_handle_seconds_bucket"]
        assert handled[of("worker", le="+Inf")] == found["pydotcompute_kernel_handle_seconds_count"][of("worker")] == 4
        assert found["pydotcompute_kernel_handle_seconds_sum"][of("worker")] == kernel.statistics().busy
        assert found["pydotcompute_kernel_wait_seconds_bucket"][of("worker", le="+Inf")] == 6  # one of them twice


async def test_the_state_is_one_of_all(runtime):
    await launched(runtime)
    await launched(runtime, "paused")
    await runtime.deactivate("paused")
    found = scraped(exposition(runtime))["pydotcompute_kernel_state"]
    now = {labels[0][1]: labels[1][1] for labels, value in found.items() if value}
    assert now == {"worker": "ACTIVE", "paused": "DEACTIVATED"}
    assert len(found) == 14
    ready = scraped(exposition(runtime))
    assert ready["pydotcompute_kernel_ready"] == {of("worker"): 1, of("paused"): 0}
    assert ready["pydotcompute_ready"][()] == 0


HOSTILE = [
    '"',
    "\\",
    "\n",
    'a"b\\n\nc',
    'x"} 1\npydotcompute_live 7',
    "Zürich 東京 🚀",
    "\udc80",
    " ",
    "{}",
    "é",
    "\r\n",
]


@pytest.mark.parametrize("openmetrics", [False, True])
async def test_hostile_ids_come_back_as_they_are(runtime, openmetrics):
    for kernel_id in HOSTILE:
        await runtime.launch(definition(kernel_id))
    parser = "prometheus_client.openmetrics.parser" if openmetrics else "prometheus_client.parser"
    found = scraped(exposition(runtime, openmetrics), parser)
    ids = {dict(labels)["kernel"] for labels in found["pydotcompute_kernel_version"]}
    assert ids == {kernel_id.replace("\udc80", "\\udc80") for kernel_id in HOSTILE}
    assert found["pydotcompute_live"] == {(): 1}


durations = st.integers(0, 2 ** (BUCKETS + 3)) | st.integers(0, BUCKETS + 3).map(lambda b: 2**b)


@given(st.lists(durations, max_size=30))
def test_each_duration_is_below_exactly_the_bounds_that_it_does_not_exceed(nanoseconds):
    from pydotcompute.telemetry.prometheus import buckets

    histogram = [0] * BUCKETS
    for ns in nanoseconds:
        histogram[min(ns.bit_length(), BUCKETS - 1)] += 1
    bounds = buckets(tuple(histogram))
    assert bounds[-1] == ("+Inf", len(nanoseconds))
    assert [float(le) for le, _ in bounds] == sorted(float(le) for le, _ in bounds)
    for le, n in bounds[:-1]:
        assert n == sum(ns <= round(float(le) * 1e9) for ns in nanoseconds)


async def test_a_kernel_that_is_launched_again_counts_from_0(runtime):
    for n in (3, 1):
        kernel = await launched(runtime)
        for i in range(n):
            await kernel.ask(i)
        await kernel.terminate()
        assert scraped(exposition(runtime))["pydotcompute_kernel_processed_total"][of("worker")] == n


async def test_a_server_answers_until_it_is_closed(runtime):
    await launched(runtime)
    server = runtime.serve_metrics()
    host, _, path = server.url.removeprefix("http://127.0.0.1:").partition("/")
    assert path == "metrics"
    assert int(host) > 0
    text = await asyncio.to_thread(fetch, server.url)
    assert scraped(text)["pydotcompute_kernel_ready"][of("worker")] == 1
    wanted = "application/openmetrics-text; version=1.0.0"
    assert (await asyncio.to_thread(fetch, server.url, wanted)).endswith("# EOF\n")
    assert repr(server) == f"<metrics at {server.url}>"
    await asyncio.to_thread(server.close)
    await asyncio.to_thread(server.close)
    assert repr(server) == f"<metrics at {server.url}, closed>"
    with pytest.raises(URLError):
        await asyncio.to_thread(fetch, server.url)


@pytest.mark.may_block
async def test_a_server_is_a_context_manager_and_takes_a_port_and_an_address(runtime):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            runtime.serve_metrics(port)
    with runtime.serve_metrics(port, "localhost") as server:
        assert server.url == f"http://localhost:{port}/metrics"
        assert "pydotcompute_live 1.0" in await asyncio.to_thread(fetch, server.url)
    with pytest.raises(URLError):
        await asyncio.to_thread(fetch, server.url)
    with pytest.raises(OSError, match="address"):
        runtime.serve_metrics(address="203.0.113.1")


@pytest.mark.may_block
async def test_an_address_of_ipv6(runtime):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return  # this machine has none
    with runtime.serve_metrics(address="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert "pydotcompute_live" in await asyncio.to_thread(fetch, server.url)


@pytest.mark.parametrize("loop", ["current", "thread"])
async def test_closing_the_runtime_closes_its_servers(loop):
    async with RingKernelRuntime(loop=loop) as runtime:
        servers = [runtime.serve_metrics(), runtime.serve_metrics()]
        for server in servers:
            assert await asyncio.to_thread(fetch, server.url)
    for server in servers:
        with pytest.raises(URLError):
            await asyncio.to_thread(fetch, server.url)
    with pytest.raises(RuntimeClosedError):
        runtime.serve_metrics()


def test_the_blocking_close_closes_them_too():
    runtime = RingKernelRuntime(loop="thread")
    runtime.sync.launch(definition())
    server = runtime.serve_metrics()
    assert fetch(server.url)
    runtime.sync.close()
    with pytest.raises(URLError):
        fetch(server.url)


@pytest.mark.may_block
async def test_a_scrape_while_a_body_blocks_the_loop_says_so(monkeypatch):
    from pydotcompute.runtime import health

    monkeypatch.setattr(health, "LATE", 0.05)
    blocked, go = threading.Event(), threading.Event()

    @ring_kernel
    async def blocks(ctx):
        async for _ in ctx:
            blocked.set()
            go.wait(20)

    async with RingKernelRuntime(loop="thread") as runtime:
        await (await runtime.launch("blocks")).activate()
        server = runtime.serve_metrics()
        await runtime.send("blocks", 1)
        try:
            await asyncio.to_thread(blocked.wait, 20)
            found = scraped(await asyncio.to_thread(fetch, server.url))
        finally:
            go.set()
        assert found["pydotcompute_live"][()] == found["pydotcompute_ready"][()] == 0
        assert found["pydotcompute_loop_lag_seconds"][()] >= 0.05


def test_a_closed_runtime_is_not_live_and_keeps_its_counters():
    runtime = RingKernelRuntime(loop="thread")
    runtime.sync.launch(definition())
    runtime.sync.close()
    found = scraped(exposition(runtime))
    assert found["pydotcompute_live"][()] == 0
    assert "pydotcompute_loop_lag_seconds" not in found
    assert found["pydotcompute_kernel_state"][of("worker", state="TERMINATED")] == 1


def test_the_longest_durations_are_in_the_last_bucket_alone():
    from pydotcompute.telemetry.prometheus import buckets

    row = np.zeros(1, COUNTERS)[0]
    statistics = replace(KernelStatistics.from_row("k", row), wait_histogram=(0,) * (BUCKETS - 1) + (3,))
    bounds = buckets(statistics.wait_histogram)
    assert {n for _, n in bounds[:-1]} == {0}
    assert bounds[-1] == ("+Inf", 3)
    assert math.isclose(float(bounds[-2][0]), 2 ** (BUCKETS - 2) / 1e9, rel_tol=1e-6)


def test_without_the_client_the_error_names_it_and_nothing_else_needs_it():
    code = """
import sys
sys.modules["prometheus_client"] = None
from pydotcompute import RingKernelRuntime
runtime = RingKernelRuntime(loop="thread")
try:
    runtime.serve_metrics()
except ModuleNotFoundError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "counters for Prometheus need its client: pip install prometheus-client\n"


async def test_a_port_that_cannot_be_says_so():
    async with RingKernelRuntime() as runtime:
        with pytest.raises(ValueError, match="port must be an integer from 0 to 65535"):
            runtime.serve_metrics(99_999_999)
