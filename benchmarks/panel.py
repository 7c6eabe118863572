"""What the side bar of JupyterLab costs when it shows a thousand ring kernels, in headless Chromium.

    python benchmarks/panel.py [--json FILE] [--kernels N] [--rounds N] [--seconds S] [--quick]

The load is that of `dashboard.py`: all kernels take messages, and one asks another all the time. In each round the side
bar is closed for a while and open for a while, so that what it costs is the difference of two neighbours. While it is
closed, badges and status bar go on, at most once a second. CPU is in per cent of one core.

Needs JupyterLab with the extension, Playwright and Chromium, as the tests in the browser do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from _machine import machine
from dashboard import SHARED, Bench, Window, median

from tests.jupyter.browser import NO_CHROMIUM, Server, browsing, chromium

LOADED = """async () => {
    const loaded = performance.getEntriesByType("resource").map(({name}) => name);
    const ours = loaded.filter((name) => /\\/pydotcompute\\/static\\/(?!remoteEntry|style)/.test(name));
    const sizes = {code: 0, styles: 0};
    for (const name of ours) {
        const source = await (await fetch(name)).text();
        sizes[source.includes(".pdc-lab-panel {") ? "styles" : "code"] += new Blob([source]).size;
    }
    return sizes;
}"""
SHOW = "() => window.jupyterapp.commands.execute('pydotcompute:show-panel')"
HIDE = "() => window.jupyterapp.shell.collapseLeft()"


def measure(options: argparse.Namespace) -> dict[str, float]:
    # No dashboard is made.
    setup = f"KERNELS, HZ, BOARDS = {options.kernels}, 1, 0\n{SHARED}"
    figures: dict[str, float] = {}
    path = chromium() or sys.exit(NO_CHROMIUM)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Server(Path(folder))) as server,
        browsing(server, path) as lab,
        lab.notebook([setup], height=1000) as nb,
    ):
        loaded = nb.page.evaluate(LOADED)
        if not loaded["code"]:
            sys.exit("this JupyterLab has no extension of pydotcompute: install it, `make lab` does")
        figures["on load: our own JavaScript, kB"] = loaded["code"] / 1000
        figures["on load: our styles, kB"] = loaded["styles"] / 1000
        nb.run(0)
        nb.wait_done(0)
        bench = Bench(nb, lab, options.seconds)
        closed: list[Window] = []
        opened: list[Window] = []
        for _ in range(options.rounds):
            nb.page.evaluate(HIDE)
            closed.append(bench.window())
            nb.page.evaluate(SHOW)
            nb.expect(nb.page.locator(".pdc-lab-row").first).to_be_visible()
            opened.append(bench.window())
        rest, shown = median(closed), median(opened)
        pairs = list(zip(closed, opened, strict=True))
        figures["load: messages a second"] = rest.processed
        figures["closed: page, % of a core"] = rest.renderer
        figures["closed: kernel process, % of a core"] = rest.kernel
        figures["open: page, % of a core"] = shown.renderer
        figures["the panel: page, % of a core"] = statistics.median(b.renderer - a.renderer for a, b in pairs)
        figures["the panel: kernel process, % of a core"] = statistics.median(b.kernel - a.kernel for a, b in pairs)
        figures["ask p50, open ÷ closed"] = statistics.median(b.ask_p50 / a.ask_p50 for a, b in pairs)
        figures["rows drawn"] = float(nb.page.locator(".pdc-lab-row").count())
    return figures


BOUNDS = {"on load: our own JavaScript, kB": 30, "open: page, % of a core": 10, "ask p50, open ÷ closed": 1.05}
"""At most; of 1,000 kernels at 2 Hz."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--kernels", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of windows with and without (default 5)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a window (default 8)")
    parser.add_argument("--quick", action="store_true", help="two rounds of three seconds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 3.0
    figures = measure(options)
    about = machine()
    print(f"Python {about['python']}, {about['cores']} cores; {options.kernels:,} kernels at 2 Hz\n")
    print(f"{'':56}{'':>10}{'bound':>8}{'ratio':>8}")
    for name, value in figures.items():
        bound = BOUNDS.get(name)
        judged = "" if bound is None else f"{bound:8g}{value / bound:8.2f}  {'ok' if value <= bound else 'MISSED'}"
        print(f"{name:56}{value:10,.2f}{judged}")
    if options.json:
        asked = {"kernels": options.kernels, "rounds": options.rounds, "seconds": options.seconds}
        options.json.write_text(json.dumps({"machine": about, **asked, "figures": figures, "bounds": BOUNDS}, indent=1))


if __name__ == "__main__":
    main()
