"""Record the dashboard in JupyterLab, in headless Chromium, as a GIF: ring kernels at work, a crash, the way back.

    python notebooks/record_dashboard.py [--out notebooks/pictures]

Twice, as dashboard.gif for light pages and as dashboard-dark.gif for dark ones.

The kernels are those of `10_dashboards.ipynb`. Needs JupyterLab, Playwright, Pillow and Chromium, as the tests in the
browser do.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.jupyter.browser import NO_CHROMIUM, Notebook, Server, browsing, chromium

SHOW = "dashboard(runtime, hz=4)"
CRASH = 'await runtime.send("harbour", Ship("Vasa", -1))'
FRAMES = 30
PERIOD = 0.3
"""Seconds from one frame to the next."""
WARM_UP = 8
"""Frames of the charts that are left out while they fill."""


def cells() -> list[str]:
    """The cells that make the kernels, up to the first dashboard, which is shown with our own rate."""
    found = []
    for cell in json.loads((ROOT / "notebooks" / "10_dashboards.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            if source.startswith("dashboard("):
                return [*found, SHOW]
            found.append(source)
    raise ValueError("10_dashboards.ipynb shows no dashboard(...) any more; name here the cell that does")


def frames(nb: Notebook) -> list[Image.Image]:
    """What the dashboard shows, every `PERIOD`; a kernel crashes after a third of it."""
    nb.run_all()
    last = len(cells()) - 1
    nb.wait_done(last)
    view = nb.output(last).locator(".pydotcompute").first
    view.scroll_into_view_if_needed()  # out of sight it draws nothing
    nb.expect(view).to_contain_text("harbour")
    pictures = []
    for i in range(WARM_UP + FRAMES):
        due = time.monotonic() + PERIOD
        if i == WARM_UP + FRAMES // 3:
            nb.execute(CRASH)
        picture = Image.open(io.BytesIO(view.screenshot()))
        if i >= WARM_UP:
            pictures.append(picture.convert("RGB"))
        nb.page.wait_for_timeout(max(0, due - time.monotonic()) * 1000)
    return pictures


def save(pictures: list[Image.Image], path: Path) -> None:
    """Write frames of one size and one palette, so that only what changes is stored."""
    width, height = (min(picture.size[i] for picture in pictures) for i in (0, 1))
    palette = pictures[-1].quantize(128)
    reduced = [
        picture.crop((0, 0, width, height)).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    reduced[0].save(path, save_all=True, append_images=reduced[1:], duration=int(PERIOD * 1000), loop=0, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "notebooks" / "pictures", help="the folder of the GIFs")
    out: Path = parser.parse_args().out
    browser = chromium()
    if browser is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        try:
            for name, dark in (("dashboard.gif", False), ("dashboard-dark.gif", True)):
                with browsing(server, browser) as lab, lab.notebook(cells(), dark=dark, width=1000, height=900) as nb:
                    save(frames(nb), out / name)
                print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")
        finally:
            server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
