"""Notebooks in a real JupyterLab, or Notebook 7, in headless Chromium.

    def test_it_counts(lab: Lab) -> None:
        with lab.notebook([SHOW, BLOCK]) as nb:
            nb.run_all()
            nb.wait_done(0)
            nb.expect(nb.output(0).locator(".pdc-live")).to_have_text("live")
            nb.go_on()

One server serves all tests of a session. Each notebook is a new file with a kernel of its own, in a new browser
context; starting these takes seconds, so let tests share one where they can (a fixture of module scope that yields
`nb`). When it is closed, nothing may have complained in the console, and nothing may have been requested from outside
this machine.
"""

from __future__ import annotations

import functools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that a slow machine may take for any one thing."""
NO_CHROMIUM = "no Chromium: install it, or set CHROMIUM to its path"
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
THEMES = ("JupyterLab Light", "JupyterLab Dark")
App = Literal["lab", "notebooks"]
BLOCK = """
import os, time
while not os.path.exists(os.environ["JPY_SESSION_NAME"] + ".on"):
    time.sleep(0.02)
os.remove(os.environ["JPY_SESSION_NAME"] + ".on")
"""
"""A cell that blocks the kernel until `go_on`."""

_INSIDE = re.compile(r"(https?|wss?)://127\.0\.0\.1[:/]|file:|data:|blob:|about:")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OF_NOTEBOOK = re.compile(r"reading 'schema'|'filebrowser:open-path' not registered|403 .*/static/notebook/\w+\.woff2")
"""What Notebook 7 complains about on every page of its own."""
_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}
_PANEL = "const panel = window.jupyterapp.shell.currentWidget, cells = panel.content.widgets;"
_READY = """() => {
    const panel = window.jupyterapp?.shell.currentWidget;
    const kernel = panel?.sessionContext?.session?.kernel;
    return panel?.context?.isReady && kernel?.connectionStatus === "connected" && kernel.status !== "unknown";
}"""
_EXECUTE = """async (code) => {
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({code, store_history: false});
    let text = "", error = null;
    future.onIOPub = ({header, content}) => {
        if (header.msg_type === "stream") text += content.text;
        if (header.msg_type === "error") error = content.traceback.join("\\n");
    };
    await future.done;
    return [text, error];
}"""
_AXE = """async (selector) => {
    const found = document.querySelectorAll(selector);
    if (!found.length) throw new Error(`nothing matches ${selector}`);
    const {violations} = await window.axe.run({include: [...found]}, {resultTypes: ["violations"]});
    return violations.filter(({impact}) => impact === "serious" || impact === "critical").flatMap(({id, nodes}) =>
        nodes.map(({html, failureSummary}) => `${id}: ${html}: ${failureSummary}`));
}"""


def environment(folder: Path) -> dict[str, str]:
    """For a server with all its files in `folder`: nothing that the user has set for Jupyter plays a part."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "PYTEST"))}
    return ours | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": str(ROOT),
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A JupyterLab server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "notebooks"
        self._settings = folder / "settings"
        self._log = folder / "server.log"
        self._token = secrets.token_hex(16)
        self._count = count()
        self.folder.mkdir()
        for name, values in _SETTINGS.items():
            self.set(name, values)
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.folder}"]
        command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.extension_manager=readonly"]
        command += ["--JupyterNotebookApp.expose_app_in_browser=True"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment(folder) | {"JUPYTER_TOKEN": self._token},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            self.request("/api/status")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def request(self, path: str, method: str = "GET", data: Any = None) -> Any:
        """Ask the server's REST API."""
        request = urllib.request.Request(f"{self.address}{path}", method=method)
        request.add_header("Authorization", f"token {self._token}")
        body = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(request, body, timeout=PATIENCE) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def set(self, plugin: str, values: dict[str, Any]) -> None:
        """Settings for the pages that are loaded from now on."""
        path = self._settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def write(self, notebook: dict[str, Any]) -> Path:
        """Put a notebook into a new file."""
        path = self.folder / f"notebook-{next(self._count)}.ipynb"
        path.write_text(json.dumps(notebook))
        return path

    def url(self, path: Path, app: App = "lab") -> str:
        """Address of a notebook in JupyterLab or in Notebook 7."""
        # Else JupyterLab opens those of before, too.
        where, how = ("lab/tree", "&reset") if app == "lab" else ("notebooks", "")
        return f"{self.address}/{where}/{path.name}?token={self._token}{how}"

    def end_kernels(self, path: Path) -> None:
        """End whatever runs for a notebook."""
        for session in self.request("/api/sessions"):
            if session["path"] == path.name:
                self.request(f"/api/sessions/{session['id']}", "DELETE")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Lab:
    """Opens notebooks of the server in a browser."""

    def __init__(self, server: Server, browser: Browser) -> None:
        self.server = server
        self.browser = browser

    @contextmanager
    def notebook(
        self,
        cells: Sequence[str] | Path,
        *,
        dark: bool = False,
        width: int = 1280,
        height: int = 900,
        app: App = "lab",
        calm: bool = False,
    ) -> Iterator[Notebook]:
        """A notebook with these cells, none of them run; or the one in that file of the server, as it was saved.

        Args:
            dark: with JupyterLab's dark theme.
            width, height: of the window, in CSS pixels. The notebook has all of its width.
            app: ``"lab"``, or ``"notebooks"`` for Notebook 7.
            calm: the reader prefers reduced motion.
        """
        self.server.set("@jupyterlab/apputils-extension/themes", {"theme": THEMES[dark], "adaptive-theme": False})
        path = cells if isinstance(cells, Path) else self.server.write(document(cells))
        try:
            with self._page(width, height, calm) as page:
                nb = Notebook(page, path, app)
                page.goto(self.server.url(path, app))
                nb.wait_ready()
                yield nb
        finally:
            self.server.end_kernels(path)
        nb.check()

    @contextmanager
    def site(
        self, url: str, *, dark: bool = False, width: int = 1280, height: int = 900, offline: bool = False
    ) -> Iterator[Site]:
        """Some other page.

        Args:
            dark: the reader prefers dark pages.
            width, height: of the window, in CSS pixels.
            offline: there is no network, and what the page asks of it in vain does not matter.
        """
        with self._page(width, height, dark=dark) as page:
            site = Site(page)
            if offline:
                page.route(re.compile("^https?:"), lambda route: route.abort())
            page.goto(url, wait_until="domcontentloaded")
            yield site
        if not offline:
            site.check()

    @contextmanager
    def _page(self, width: int, height: int, calm: bool = False, dark: bool = False) -> Iterator[Page]:
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            reduced_motion="reduce" if calm else "no-preference",
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(PATIENCE * 1000)
        try:
            yield context.new_page()
        finally:
            context.close()


@contextmanager
def browsing(server: Server, path: str) -> Iterator[Lab]:
    """A browser, the program at `path`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield Lab(server, browser)
        browser.close()


def chromium() -> str | None:
    """Path of a browser that Playwright can drive; CHROMIUM names one that is not on the PATH."""
    names = (os.environ.get("CHROMIUM", "chromium"), "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


class Site:
    """A page, and what it complained about and asked for."""

    _own_fault = re.compile(r"(?!)")
    """Complaints that are not ours."""

    def __init__(self, page: Page) -> None:
        self.page = page
        """Playwright's page: `nb.page.locator(…)`, `nb.page.keyboard` …"""
        self.complaints: list[str] = []
        """Errors of the console, and exceptions that nothing caught. A test that provokes one takes it out."""
        self.requests: list[str] = []
        """Addresses of all that was asked for, web sockets included."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self._complain(error.stack or str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._complain(f"{message.text} ({message.location['url']})")

    def _complain(self, text: str) -> None:
        if not self._own_fault.search(text):
            self.complaints.append(text)

    def check(self) -> None:
        """Nothing was complained about, and nothing asked for outside this machine; else AssertionError."""
        assert not self.complaints, "\n".join(self.complaints)
        outside = [url for url in self.requests if not _INSIDE.match(url)]
        assert not outside, "\n".join(outside)

    def expect(self, locator: Locator) -> Any:
        """Playwright's `expect`: ``nb.expect(locator).to_have_text("live")``, with patience."""
        from playwright.sync_api import expect

        expect.set_options(timeout=PATIENCE * 1000)
        return expect(locator)

    def axe(self, selector: str = ".pydotcompute") -> list[str]:
        """What axe-core finds serious or critical in the parts of the page that `selector` selects, in words."""
        self.page.locator(selector).first.scroll_into_view_if_needed()
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate("(source) => { (0, eval)(source); }", _axe())
        found: list[str] = self.page.evaluate(_AXE, selector)
        return found


class Notebook(Site):
    """An open notebook and its kernel."""

    def __init__(self, page: Page, path: Path, app: App) -> None:
        if app == "notebooks":
            self._own_fault = _OF_NOTEBOOK
        super().__init__(page)
        self.path = path
        """The file; what stands in it is what was saved last."""

    # -- cells ---------------------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        """Start all cells, one after the other; does not wait for them."""
        self._run("notebook:run-all-cells", None)

    def run(self, i: int) -> None:
        """Start cell `i`, counted from 0; does not wait for it."""
        self._run("notebook:run-cell", i)

    def _run(self, command: str, i: int | None) -> None:
        self.page.evaluate(
            f"""([command, i]) => {{
                {_PANEL}
                if (i !== null) panel.content.activeCellIndex = i;
                for (const cell of i === null ? cells : [cells[i]]) cell.model.clearExecution?.();
                void window.jupyterapp.commands.execute(command);
            }}""",
            [command, i],
        )

    def wait_done(self, i: int) -> None:
        """Wait until cell `i` has run, without an error."""
        self.page.wait_for_function(
            f"(i) => {{ {_PANEL} return cells[i].model.executionCount !== null && !cells[i].promptNode"
            ".textContent.includes('*'); }",
            arg=i,
        )
        outputs = self.page.evaluate(f"(i) => {{ {_PANEL} return cells[i].model.outputs.toJSON(); }}", i)
        failed = ["\n".join(out["traceback"]) for out in outputs if out["output_type"] == "error"]
        assert not failed, _COLOURS.sub("", failed[0])

    def wait_busy(self, i: int) -> None:
        """Wait until cell `i` runs or waits for the kernel."""
        self.page.wait_for_function(
            f"(i) => {{ {_PANEL} return cells[i].promptNode.textContent.includes('*'); }}", arg=i
        )

    def go_on(self) -> None:
        """Let a `BLOCK` cell end."""
        self.path.with_name(self.path.name + ".on").touch()

    def output(self, i: int) -> Locator:
        """What stands below cell `i`."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(i).locator(".jp-Cell-outputArea")

    def execute(self, code: str) -> str:
        """Run code in the kernel, outside the cells; what it prints. Waits for the cell that runs."""
        text, error = self.page.evaluate(_EXECUTE, code)
        assert error is None, _COLOURS.sub("", error)
        return str(text)

    # -- kernel and page -----------------------------------------------------------------------------------------------

    def wait_ready(self) -> None:
        """Wait for the notebook and its kernel."""
        self.page.wait_for_function(_READY)
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft?.()")

    def restart_kernel(self) -> None:
        self.page.evaluate(f"() => {{ {_PANEL} return panel.sessionContext.session.kernel.restart(); }}")
        self.page.wait_for_function(_READY)

    def save(self) -> None:
        self.page.evaluate(f"() => {{ {_PANEL} return panel.context.save(); }}")

    def reload(self) -> None:
        """Save the notebook and load the page again; the kernel goes on."""
        self.save()
        self.page.reload()
        self.wait_ready()

    def set_dark(self, dark: bool) -> None:
        """Change JupyterLab's theme."""
        self.page.evaluate(
            "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[dark]
        )
        self.page.wait_for_function(
            "(light) => document.body.dataset.jpThemeLight === light", arg=str(not dark).lower()
        )


@functools.cache
def _axe() -> str:
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


def document(cells: Sequence[str]) -> dict[str, Any]:
    """A notebook of code cells that have not run."""
    return {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{i}",
                "metadata": {},
                "outputs": [],
                "execution_count": None,
                "source": source,
            }
            for i, source in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
