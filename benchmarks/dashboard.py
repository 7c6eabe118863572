"""What a dashboard of a thousand ring kernels costs, in JupyterLab, in headless Chromium.

    python benchmarks/dashboard.py [--json FILE] [--kernels N] [--hz HZ] [--rounds N] [--seconds S] [--quick]

All kernels are under a steady load of 2,000 messages a second, and another one asks an echo all the time. In each round
the dashboard is shown for a while and not shown for a while, so that what it costs is the difference of two
neighbours. CPU is in per cent of one core. The age of the data is that of what stands in the page, from the moment when
the counters were read, at all times and not only when it has just been drawn.

Needs JupyterLab, Playwright and Chromium, as the tests in the browser do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from _machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.jupyter.browser import NO_CHROMIUM, Lab, Notebook, Server, browsing, chromium

SHARED = """
import asyncio, json, os, time
import numpy as np
from pydotcompute import KernelContext, RingKernelRuntime, dashboard, message, ring_kernel

@message
class Number:
    value: int

@ring_kernel
async def worker(ctx: KernelContext[Number, None]):
    async for number in ctx:
        pass

@ring_kernel
async def echo(ctx: KernelContext[Number, Number]):
    async for number in ctx:
        await ctx.send(number)

@ring_kernel
async def feed(ctx: KernelContext):
    number, i, due = Number(1), 0, time.perf_counter()
    while True:
        for _ in range(20):
            i = (i + 1) % KERNELS
            await ctx.tell(f"worker-{i}", number)
        due = max(due + 0.01, time.perf_counter())
        await asyncio.sleep(due - time.perf_counter())

took = []

@ring_kernel
async def asker(ctx: KernelContext):
    while True:
        for i in range(100):
            begun = time.perf_counter_ns()
            await runtime.ask("echo", Number(i))
            took.append(time.perf_counter_ns() - begun)
        await asyncio.sleep(0.05)

runtime = RingKernelRuntime()
for i in range(KERNELS):
    await runtime.launch(worker, kernel_id=f"worker-{i}")
    await runtime.activate(f"worker-{i}")
for definition in (echo, feed, asker):
    await runtime.launch(definition)
    await runtime.activate(definition.kernel_id)

boards, sampled = [dashboard(runtime, hz=HZ) for _ in range(BOARDS)], [{} for _ in range(BOARDS)]

def watch(board, times):
    # When the counters of each frame were read, on the clock that the browser has too.
    send, offset = board._surface.send, time.time_ns() - time.perf_counter_ns()
    def noted(content, buffers=None):
        times[content["number"]] = (board._frame.time_ns + offset) / 1e6
        send(content, buffers)
    board._surface.send = noted

for board, times in zip(boards, sampled):
    watch(board, times)
"""
SPACE = "for _ in range(100): print()"

# Notes when each number of a frame was drawn: the page has just been changed, a task of its own comes after the paint.
WATCH = r"""() => {
    window.drawn = [...document.querySelectorAll(".pdc-foot")].map((foot) => {
        const seen = [], read = () => Number(foot.dataset.frame);
        new MutationObserver(() => {
            const number = read();
            if (number !== seen.at(-1)?.[0]) {
                const entry = [number, 0];
                seen.push(entry);
                setTimeout(() => entry[1] = performance.timeOrigin + performance.now());
            }
        }).observe(foot, {attributes: true, attributeFilter: ["data-frame"]});
        return seen;
    });
}"""
CLEAR = "(i) => window.jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.clear()"
SETTLE = 3.0
"""Seconds before a window in which something else was shown."""
REST = 15.0
"""The same where little is left to measure: the browser cleans up once, some 10 s after a page has come to rest, and
takes half a second for what was drawn before (``V8.GCFinalizeMCReduceMemory`` in a trace)."""


@dataclass
class Window:
    """What happened in some seconds; CPU in per cent of a core."""

    kernel: float
    renderer: float
    browser: float
    """All processes of the browser: the renderer, what draws without a GPU, and the others."""
    ask_p50: float
    """Microseconds."""
    ask_p99: float
    asks: int
    processed: float
    """Messages a second."""


class Bench:
    def __init__(self, nb: Notebook, lab: Lab, seconds: float) -> None:
        self.nb, self.seconds = nb, seconds
        self.pid = int(nb.execute("print(os.getpid())"))
        self._cdp = lab.browser.new_browser_cdp_session()
        self._page = nb.page.context.new_cdp_session(nb.page)

    def _cpu(self) -> tuple[float, float, float]:
        """Seconds of CPU so far: kernel, renderer, whole browser."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        kernel = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        processes = self._cdp.send("SystemInfo.getProcessInfo")["processInfo"]
        renderer = sum(process["cpuTime"] for process in processes if process["type"] == "renderer")
        return kernel, renderer, sum(process["cpuTime"] for process in processes)

    def window(self, settle: float = SETTLE) -> Window:
        self._page.send("HeapProfiler.collectGarbage")  # of what was shown before
        time.sleep(settle)
        self.nb.execute("took.clear(); processed = sum(k.processed for k in runtime.statistics().kernels.values())")
        before, begun = self._cpu(), time.monotonic()
        time.sleep(self.seconds)
        after, spent = self._cpu(), time.monotonic() - begun
        kernel, renderer, browser = (100 * (b - a) / spent for a, b in zip(before, after, strict=True))
        asks, p50, p99, processed = json.loads(
            self.nb.execute(
                "a = np.array(took); now = sum(k.processed for k in runtime.statistics().kernels.values())\n"
                "print(json.dumps([len(a), *(np.percentile(a, [50, 99]) / 1000), now - processed]))"
            )
        )
        return Window(kernel, renderer, browser, p50, p99, asks, processed / spent)

    @contextmanager
    def shown(self, cell: int, boards: int) -> Iterator[None]:
        """The output of a cell with dashboards is there."""
        self.nb.run(cell)
        self.nb.wait_done(cell)
        for i in range(boards):
            live = self.nb.output(cell).locator(".pdc-live").nth(i)
            live.scroll_into_view_if_needed()
            self.nb.expect(live).to_have_text("live")
        self.nb.output(cell).scroll_into_view_if_needed()
        yield
        self.nb.page.evaluate(CLEAR, cell)
        self.nb.expect(self.nb.output(cell).locator(".pdc")).to_have_count(0)

    def ages(self, work: Callable[[], Window]) -> tuple[Window, list[dict[str, float]]]:
        """A window, and how old the data was in it that stood in each dashboard, in milliseconds."""
        self.nb.page.evaluate(WATCH)
        self.nb.execute("for times in sampled: times.clear()")
        window = work()
        drawn = self.nb.page.evaluate("() => window.drawn")
        sampled = json.loads(self.nb.execute("print(json.dumps(sampled))"))
        return window, [ages(one, times) for one, times in zip(drawn, sampled, strict=False)]


def ages(drawn: list[tuple[int, float]], sampled: dict[str, float]) -> dict[str, float]:
    """Milliseconds: p50 and p95 of the age of what stands there, and of how late a frame is when it has been drawn."""
    pairs = [(at, sampled[str(number)]) for number, at in drawn if at and str(number) in sampled]
    if len(pairs) < 2:
        raise SystemExit("nothing moves: no frames are drawn")
    at, taken = np.array(pairs).T
    moments = np.arange(at[0], at[-1])
    standing = moments - taken[np.searchsorted(at, moments, side="right") - 1]
    late = at - taken
    return {
        "age p50": float(np.percentile(standing, 50)),
        "age p95": float(np.percentile(standing, 95)),
        "late p50": float(np.percentile(late, 50)),
        "late p95": float(np.percentile(late, 95)),
        "frames a second": (len(at) - 1) / (at[-1] - at[0]) * 1000,
    }


def measure(options: argparse.Namespace) -> dict[str, float]:
    setup = f"KERNELS, HZ, BOARDS = {options.kernels}, {options.hz}, 5\n{SHARED}"
    cells = [setup, "boards[0]", "for board in boards: display(board)", SPACE]
    one, five, space = 1, 2, 3
    figures: dict[str, float] = {}
    path = chromium() or sys.exit(NO_CHROMIUM)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Server(Path(folder))) as server,
        browsing(server, path) as lab,
        lab.notebook(cells, height=1000) as nb,
    ):
        nb.run(0)
        nb.wait_done(0)
        bench = Bench(nb, lab, options.seconds)
        without: list[Window] = []
        beside: list[Window] = []
        old: list[dict[str, float]] = []
        for _ in range(options.rounds):
            without.append(bench.window())
            with bench.shown(one, 1):
                window, (age,) = bench.ages(bench.window)
            beside.append(window)
            old.append(age)
        rest = median(without)
        shown = median(beside)
        figures["load: kernel process, % of a core"] = rest.kernel
        figures["load: messages a second"] = rest.processed
        figures["load: page without a dashboard, % of a core"] = rest.renderer
        figures["page, % of a core"] = shown.renderer
        figures["whole browser, % of a core"] = shown.browser
        for name in ("frames a second", "late p50", "late p95", "age p50", "age p95"):
            unit = "" if name == "frames a second" else " of the data, ms"
            figures[f"{name}{unit}"] = statistics.median(age[name] for age in old)
        pairs = list(zip(without, beside, strict=True))
        figures["kernel process beyond the load, % of a core"] = statistics.median(
            b.kernel - a.kernel for a, b in pairs
        )
        figures["ask p50 without, µs"] = rest.ask_p50
        figures["ask p50 with, µs"] = shown.ask_p50
        figures["ask p50, with ÷ without"] = statistics.median(b.ask_p50 / a.ask_p50 for a, b in pairs)
        figures["ask p99, with ÷ without"] = statistics.median(b.ask_p99 / a.ask_p99 for a, b in pairs)

        hidden: dict[str, list[tuple[float, float]]] = {"scrolled away": [], "in a tab behind": []}
        for _ in range(options.rounds):
            before = bench.window(REST)
            with bench.shown(one, 1):
                for where, hide in (("scrolled away", scrolled), ("in a tab behind", behind)):
                    with hide(nb, space):
                        window = bench.window(REST)
                    hidden[where].append((window.kernel - before.kernel, window.renderer - before.renderer))
        for where, values in hidden.items():
            for name, costs in zip(("kernel process", "page"), zip(*values, strict=True), strict=True):
                figures[f"{where}: {name}, % of a core"] = statistics.median(costs)

        nb.page.set_viewport_size({"width": 1280, "height": 4000})
        before = bench.window()
        with bench.shown(five, 5):
            window, five_ages = bench.ages(bench.window)
        figures["five: page, % of a core"] = window.renderer
        figures["five: kernel process beyond the load, % of a core"] = window.kernel - before.kernel
        figures["five: frames a second, the slowest"] = min(age["frames a second"] for age in five_ages)
        figures["five: age p95 of the data, ms, the oldest"] = max(age["age p95"] for age in five_ages)
    return figures


@contextmanager
def scrolled(nb: Notebook, space: int) -> Iterator[None]:
    """Another cell is in sight."""
    nb.run(space)
    nb.wait_done(space)
    nb.output(space).locator("pre").evaluate("(pre) => pre.scrollIntoView({block: 'end'})")
    yield
    nb.page.evaluate(CLEAR, space)


@contextmanager
def behind(nb: Notebook, space: int) -> Iterator[None]:
    """Another tab is in front, as far as the page can know: without a display there is no such thing."""
    script = """(state) => {
        Object.defineProperty(document, "visibilityState", {configurable: true, get: () => state});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    nb.page.evaluate(script, "hidden")
    yield
    nb.page.evaluate(script, "visible")


def median(windows: list[Window]) -> Window:
    return Window(*(statistics.median(values) for values in zip(*map(astuple, windows), strict=True)))


BOUNDS = {
    "page, % of a core": 35,
    "age p95 of the data, ms": 150,
    "kernel process beyond the load, % of a core": 6,
    "ask p50, with ÷ without": 1.05,
    "scrolled away: kernel process, % of a core": 1,
    "scrolled away: page, % of a core": 1,
    "in a tab behind: kernel process, % of a core": 1,
    "in a tab behind: page, % of a core": 1,
}
"""At most; of 1,000 kernels at 10 Hz."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--kernels", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--hz", type=float, default=10.0, help="pictures a second (default 10)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of windows with and without (default 5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a window (default 8)")
    parser.add_argument("--quick", action="store_true", help="two rounds of three seconds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 3.0
    figures = measure(options)
    about = machine()
    print(f"Python {about['python']}, {about['cores']} cores; {options.kernels:,} kernels at {options.hz:g} Hz\n")
    print(f"{'':56}{'':>10}{'bound':>8}{'ratio':>8}")
    for name, value in figures.items():
        bound = BOUNDS.get(name)
        judged = "" if bound is None else f"{bound:8g}{value / bound:8.2f}  {'ok' if value <= bound else 'MISSED'}"
        print(f"{name:56}{value:10,.2f}{judged}")
    if options.json:
        asked = {"kernels": options.kernels, "hz": options.hz, "rounds": options.rounds, "seconds": options.seconds}
        found = {"machine": about, **asked, "figures": figures, "bounds": BOUNDS}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
