"""`make dashboard`: the dashboard of the tour's actors as a page of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jupyter.browser import PATIENCE, ROOT, Lab, environment, free_port

pytestmark = pytest.mark.needs_browser


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where the page is served."""
    log = tmp_path / "voila.log"
    command = [sys.executable, str(ROOT / "notebooks/serve_dashboard.py"), "--no-browser", f"--port={free_port()}"]
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment(tmp_path), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE
        while not (told := re.search(r"http://localhost(:\d+/\S*)", log.read_text())):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1{told[1]}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_the_dashboard_lives_on_a_page_of_its_own(lab: Lab, address: str) -> None:
    with lab.site(address) as site:
        page = site.page
        statistics = page.locator(".pdc-body .pdc-row", has_text="statistics")
        site.expect(statistics.locator(".pdc-state")).to_have_text("active")
        assert page.title() == "Ring kernels"
        site.expect(page.locator("h1")).to_contain_text("A year of weather through four ring kernels")
        assert "ring_kernel" not in page.locator("body").inner_text()  # no code
        site.expect(page.locator(".pdc-charts .bqplot .line").first).to_be_attached()
        site.expect(page.locator(".pdc-live")).to_have_text("live")

        # It moves, and a button does what it says: the queue before the actor fills.
        foot = page.locator(".pdc-foot")
        site.expect(foot).to_have_attribute("data-frame", re.compile(r"\d{2,}|[5-9]"))
        statistics.click()
        page.locator("button[data-verb=pause]").click()
        site.expect(statistics.locator(".pdc-state")).to_have_text("paused")
        site.expect(statistics.locator(".pdc-queue")).to_have_text(re.compile(r"^\s*[1-9]"))
        assert site.axe() == []
