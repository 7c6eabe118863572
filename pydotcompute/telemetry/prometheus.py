"""The counters of a runtime as Prometheus fetches them: a collector, and a server that answers with what it collects.

Names and units follow https://prometheus.io/docs/practices/naming: seconds, ``_total`` for what only grows. A kernel
that is launched again counts from 0, which Prometheus takes for the restart that it is.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from threading import Thread
from types import TracebackType
from typing import Any, Protocol, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

try:
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import ThreadingWSGIServer
    from prometheus_client.registry import Collector
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("counters for Prometheus need its client: pip install prometheus-client") from missing

from .counters import BUCKETS, STATES, RuntimeStatistics

SHORTEST = 10
"""The first bucket of a histogram that is told apart: up to 2**10 ns, about a microsecond."""
POLL = 0.1
"""Seconds that closing a server takes at most."""


class Health(Protocol):
    """What is read of that of a runtime."""

    @property
    def live(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    @property
    def loop_lag(self) -> float | None: ...
    @property
    def kernels(self) -> Mapping[str, Any]: ...


class Runtime(Protocol):
    """What is read of a runtime."""

    @property
    def dead_letters(self) -> Any: ...
    def statistics(self) -> RuntimeStatistics: ...
    def health(self) -> Health: ...


# By the names of the fields that they are read from:
_OF_HEALTH = {
    "ready": "1 if it takes and handles messages.",
    "stalled": "1 if messages are queued and it handles none.",
}
_GAUGES = {
    "queue_depth": "Messages in the mailbox.",
    "queue_size": "Messages that the mailbox holds.",
    "queue_peak": "The deepest that the queue has been.",
    "replies_unread": "Replies in the outbox.",
    "version": "1, and one more for each time that the body was replaced.",
}
_COUNTERS = {
    "received": "Messages let into the mailbox.",
    "processed": "Messages handled to the end.",
    "replied": "Replies sent.",
    "dropped": "Messages dropped by the back-pressure strategy.",
    "dead_letters": "Messages and replies that became dead letters.",
    "errors": "Failures of the body.",
    "restarts": "How often it was started again.",
    "retried": "How often a message was handed out again after a failure.",
}


def collector(runtime: Runtime) -> Collector:
    """What ``registry.register(collector(runtime))`` adds to a registry of one's own: all counters of a runtime.

    Their names begin with ``pydotcompute_``; those of kernels have the label `kernel`. Any thread may collect.
    """
    return _Collector(runtime)


class _Collector(Collector):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> list[Metric]:
        """Nothing: names are known when they are collected. (A registry that asks would collect to know them.)"""
        return []

    def collect(self) -> Iterator[Metric]:
        runtime = self._runtime
        health = runtime.health()
        kernels = runtime.statistics().kernels
        yield from _of_runtime(health, runtime.dead_letters.counts)
        state = GaugeMetricFamily(
            "pydotcompute_kernel_state", "1 for the state that it is in, 0 for others.", labels=["kernel", "state"]
        )
        for kernel_id, kernel in kernels.items():
            for name in STATES:
                state.add_metric([_label(kernel_id), name], name == kernel.state)
        yield state
        for of, kind, table in (
            (health.kernels, GaugeMetricFamily, _OF_HEALTH),
            (kernels, GaugeMetricFamily, _GAUGES),
            (kernels, CounterMetricFamily, _COUNTERS),
        ):
            for name, what in table.items():
                family = kind(f"pydotcompute_kernel_{name}", what, labels=["kernel"])
                for kernel_id, one in of.items():
                    family.add_metric([_label(kernel_id)], getattr(one, name))
                yield family
        waited = HistogramMetricFamily(
            "pydotcompute_kernel_wait_seconds", "Time of messages in the mailbox.", labels=["kernel"]
        )
        handled = HistogramMetricFamily(
            "pydotcompute_kernel_handle_seconds", "Time of messages in the body.", labels=["kernel"]
        )
        for kernel_id, kernel in kernels.items():
            label = [_label(kernel_id)]
            waited.add_metric(label, buckets(kernel.wait_histogram), None)  # nobody adds these times up
            handled.add_metric(label, buckets(kernel.handle_histogram), kernel.busy)
        yield waited
        yield handled


def _of_runtime(health: Health, dead_letters: Mapping[str, int]) -> Iterator[Metric]:
    yield GaugeMetricFamily("pydotcompute_live", "1 if the runtime is open and its event loop moves.", health.live)
    yield GaugeMetricFamily("pydotcompute_ready", "1 if every kernel that should run does its work.", health.ready)
    if health.loop_lag is not None:
        yield GaugeMetricFamily(
            "pydotcompute_loop_lag_seconds", "How late the runtime's event loop was.", health.loop_lag
        )
    letters = CounterMetricFamily(
        "pydotcompute_dead_letters", "Messages and replies that became dead letters, of all kernels.", labels=["kind"]
    )
    for kind, n in dead_letters.items():
        letters.add_metric([kind], n)
    yield letters


def buckets(histogram: tuple[int, ...]) -> list[tuple[str, float]]:
    """A log2 histogram of nanoseconds as (upper bound in seconds, how many took no longer), the last one ``+Inf``.

    Bucket b of the histogram counts whole nanoseconds up to 2**b - 1, so these are exact bounds.
    """
    upto: list[tuple[str, float]] = []
    n = sum(histogram[:SHORTEST])
    for b in range(SHORTEST, BUCKETS - 1):
        n += histogram[b]
        upto.append((repr((2**b - 1) / 1e9), n))
    return [*upto, ("+Inf", n + sum(histogram[BUCKETS - 1 :]))]


def _label(kernel_id: str) -> str:
    """An id as UTF-8 can write it; the client escapes what else there is."""
    return kernel_id.encode("utf-8", "backslashreplace").decode()


class MetricsServer:
    """Answers a Prometheus server at `url` until it is closed, or its runtime is; `serve_metrics` makes one.

    Raises:
        OSError: the address is not one of this machine, or the port is taken.
    """

    def __init__(self, runtime: Runtime, port: int = 0, address: str = "127.0.0.1") -> None:
        if not 0 <= port < 1 << 16:
            raise ValueError(f"port must be an integer from 0 to 65535, 0 for any that is free; not {port!r}")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector(runtime))
        self._server = make_server(
            address, port, make_wsgi_app(registry), _server_of_family(address, port), handler_class=_SilentHandler
        )
        self._thread = Thread(target=self._server.serve_forever, args=(POLL,), name="pydotcompute-metrics", daemon=True)
        self._thread.start()
        self._open = True
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_port}/metrics"
        """Where Prometheus finds the counters."""

    def close(self) -> None:
        """Answer no more, and give the port back; a second call does nothing."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<metrics at {self.url}{'' if self._open else ', closed'}>"


class _SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that is overridden
        """Log no requests."""


def _server_of_family(address: str, port: int) -> type[WSGIServer]:
    """The class of servers for addresses of that kind, IPv4 or IPv6."""
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
    return type("_Server", (ThreadingWSGIServer,), {"address_family": family})
