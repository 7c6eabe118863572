"""The dashboard in JupyterLab: one way through it, in a real browser, while a cell blocks the kernel."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_browser

ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that a slow machine may take for any one thing."""
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]

SHOW = """
from pydotcompute import RingKernelRuntime, dashboard, ring_kernel

@ring_kernel
async def worker(ctx):
    async for message in ctx:
        pass

runtime = RingKernelRuntime()
for kernel_id in ("worker", "idler"):
    await runtime.launch(worker, kernel_id=kernel_id)
    await runtime.activate(kernel_id)
dashboard(runtime)
"""
BLOCK = """
import os, time
while not os.path.exists("go on"):
    time.sleep(0.02)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a notebook with these cells in a JupyterLab of its own."""
    pytest.importorskip("jupyterlab")
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{i}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": source,
        }
        for i, source in enumerate((SHOW, BLOCK))
    ]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}}}
    (tmp_path / "notebook.ipynb").write_text(json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5}))
    token = secrets.token_hex(16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
    folders = {
        name: str(tmp_path / name) for name in ("config", "data", "runtime", "ipython", "settings", "workspaces")
    }
    env |= {
        "JUPYTER_CONFIG_DIR": folders["config"],
        "JUPYTER_DATA_DIR": folders["data"],
        "JUPYTER_RUNTIME_DIR": folders["runtime"],
        "JUPYTERLAB_SETTINGS_DIR": folders["settings"],
        "JUPYTERLAB_WORKSPACES_DIR": folders["workspaces"],
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": folders["ipython"],
        "JUPYTER_TOKEN": token,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={tmp_path}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.extension_manager=readonly"]
    log = tmp_path / "lab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{address}/api/status?token={token}", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
        yield f"{address}/lab/tree/notebook.ipynb?token={token}&reset"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def test_numbers_are_legible_whatever_their_size(chromium: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    script = (ROOT / "pydotcompute/jupyter/widgets/static/common.js").read_text()
    words = script.partition("// -- words")[2].partition("\n")[2].partition("// -- DOM")[0]
    calls = {
        "perSecond": {
            "[NaN]": "–", "[0]": "0", "[0.42]": "0.4", "[9.96]": "10", "[12345.4]": "12,345", "[99949]": "99,949",
            "[99951]": "100 k", "[818230]": "818 k", "[999700]": "1.00 M", "[12345678]": "12.3 M", "[99.97e6]": "100 M",
            "[354e6]": "354 M", "[2.5e9]": "2.50 G",
        },
        "percentiles": {
            "[NaN, NaN]": "–", "[2e-9, 37e-9]": "2 / 37 ns", "[412e-9, 1.25e-6]": "412 ns / 1.3 µs",
            "[0.9996e-6, 88e-6]": "1.0 / 88 µs", "[0.002, 0.0155]": "2.0 / 16 ms", "[0.5, 12]": "500 ms / 12 s",
        },
    }  # fmt: skip
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        for name, cases in calls.items():
            listed = ", ".join(f"{name}(...{arguments})" for arguments in cases)
            assert page.evaluate(f"() => {{ {words}; return [{listed}]; }}") == list(cases.values())
        browser.close()


def test_it_draws_and_its_buttons_work_while_a_cell_blocks(lab: str, chromium: str, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE * 1000)
        playwright.expect.set_options(timeout=PATIENCE * 1000)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(lab)
        page.wait_for_function(
            """() => {
                const panel = window.jupyterapp?.shell.currentWidget;
                return panel?.sessionContext?.session?.kernel?.status === "idle";
            }"""
        )
        page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")

        # The second cell is running from now until the end.
        row = page.locator(".pdc-body .pdc-row", has_text="worker")
        row.wait_for()
        page.wait_for_function("() => document.querySelectorAll('.jp-InputPrompt')[1].innerText.includes('*')")
        live = page.locator(".pdc-live")
        playwright.expect(live).to_have_text("live")
        playwright.expect(page.locator(".pdc-charts .bqplot .line").first).to_be_attached()
        pause, resume = page.locator("button[data-verb=pause]"), page.locator("button[data-verb=resume]")
        playwright.expect(pause).to_be_disabled()
        row.click()
        playwright.expect(row).to_have_attribute("aria-selected", "true")
        playwright.expect(resume).to_be_disabled()
        pause.click()
        playwright.expect(row.locator(".pdc-state")).to_have_text("paused")
        playwright.expect(page.locator(".pdc-say")).to_have_text("worker paused")
        playwright.expect(pause).to_be_disabled()
        resume.click()
        playwright.expect(row.locator(".pdc-state")).to_have_text("active")

        # The keyboard does it too: down to the other one, select it.
        page.locator(".pdc-grid").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        idler = page.locator(".pdc-body .pdc-row", has_text="idler")
        playwright.expect(idler).to_have_attribute("aria-selected", "true")
        playwright.expect(page.locator(".pdc-foot")).to_contain_text("2 of 2 selected")
        page.locator(".pdc input").fill("idl")
        playwright.expect(row).to_be_hidden()

        assert page.locator(".jp-InputPrompt").nth(1).inner_text() == "[*]:"
        (tmp_path / "go on").touch()
        page.wait_for_function("() => !document.querySelectorAll('.jp-InputPrompt')[1].innerText.includes('*')")
        browser.close()
    assert not complaints
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
