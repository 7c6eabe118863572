"""Fixtures of the notebook tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.jupyter.browser import Lab, Server
    from tests.jupyter.kernel import NotebookKernel
    from tests.jupyter.page import Page

_BUILT_IN = {"In", "Out", "exit", "get_ipython", "open", "quit"}
_RESET = f"""
import pydotcompute.runtime.kernel as _k
for _runtime in list(_k._runtimes):
    await _runtime.close(drain=False, timeout=0.5)
_k._definitions.clear()
get_ipython().compile.reset_compiler_flags()
for _name in [name for name in get_ipython().user_ns if not name.startswith("_") and name not in {_BUILT_IN}]:
    get_ipython().del_var(_name)
%reload_ext pydotcompute
%ring loop thread
"""


class _Kernels:
    """One kernel for all tests of a module; another one when a test has left it unusable."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kernel: NotebookKernel | None = None
        self._started = 0

    def get(self) -> NotebookKernel:
        from tests.jupyter.kernel import NotebookKernel

        if self._kernel is None:
            self._started += 1
            folder = self._folder / str(self._started)
            folder.mkdir()
            self._kernel = NotebookKernel(folder)
        return self._kernel

    def reset(self) -> None:
        kernel = self.get()
        try:
            kernel.run(_RESET)
        except AssertionError:
            self.close()

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    """Takes what widgets of this process send, instead of a browser."""
    from tests.jupyter.page import Page

    return Page(monkeypatch)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Kernels]:
    kernels = _Kernels(tmp_path_factory.mktemp("kernel"))
    yield kernels
    kernels.close()


@pytest.fixture
def nb(kernels: _Kernels) -> Iterator[NotebookKernel]:
    """A kernel with the extension loaded and nothing defined; its ring kernels run in a thread."""
    kernel = kernels.get()
    kernel.run("%load_ext pydotcompute")
    yield kernel
    kernels.reset()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[NotebookKernel]:
    """A kernel of its own, in which nothing has run."""
    from tests.jupyter.kernel import NotebookKernel

    kernel = NotebookKernel(tmp_path)
    yield kernel
    kernel.close()


@pytest.fixture(params=["thread", "current"])
def loop(nb: NotebookKernel, request: pytest.FixtureRequest) -> str:
    """Runs the test with the ring kernels on a loop of their own, and on that of the notebook."""
    nb.run(f"%ring loop {request.param}")
    return str(request.param)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One JupyterLab for all tests in a browser."""
    pytest.importorskip("jupyterlab")
    from tests.jupyter.browser import Server

    server = Server(tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def lab(server: Server) -> Iterator[Lab]:
    """Opens notebooks in a browser. Not for modules with coroutine tests: Playwright's loop is running in between."""
    pytest.importorskip("playwright")
    from tests.jupyter.browser import NO_CHROMIUM, browsing, chromium

    if (path := chromium()) is None:
        pytest.skip(NO_CHROMIUM)
    with browsing(server, path) as lab:
        yield lab
