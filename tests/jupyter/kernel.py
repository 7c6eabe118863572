"""A real Jupyter kernel for tests. It runs cells as a front end does and keeps every output with the cell it is for."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
"""Seconds after which a test gives up waiting; nothing here takes nearly as long."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Cell:
    """One run of a cell: what has arrived for it so far."""

    msg_id: str
    reply: dict[str, Any] | None = None
    idle: bool = False
    number: int | None = None
    """What the front end shows: ``In [number]``."""
    stdout: str = ""
    stderr: str = ""
    result: str | None = None
    """Text of the last expression's value."""
    shown: list[str] = field(default_factory=list)
    """Texts of what was displayed."""
    errors: list[str] = field(default_factory=list)
    """Tracebacks, without their colours."""
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.idle and self.reply is not None

    @property
    def ename(self) -> str | None:
        assert self.reply is not None
        return self.reply.get("ename")

    @property
    def text(self) -> str:
        """All that a reader sees below it."""
        return "\n".join(filter(None, [self.stdout, self.stderr, *self.shown, self.result, *self.errors]))

    def take(self, message: dict[str, Any]) -> None:
        """Keep a message of the iopub channel."""
        self.messages.append(message)
        content = message["content"]
        match message["msg_type"]:
            case "stream" if content["name"] == "stdout":
                self.stdout += content["text"]
            case "stream":
                self.stderr += _COLOURS.sub("", content["text"])
            case "execute_result":
                self.result = content["data"]["text/plain"]
            case "display_data":
                self.shown.append(content["data"]["text/plain"])
            case "error":
                self.errors.append(_COLOURS.sub("", "\n".join(content["traceback"])))
            case "execute_input":
                self.number = content["execution_count"]
            case "status":
                self.idle = content["execution_state"] == "idle"


class NotebookKernel:
    """A kernel process and a front end's connection to it."""

    def __init__(self, folder: Path) -> None:
        """Start it; its files, and what it writes to its own stdout and stderr, go into `folder`."""
        self.log = folder / "kernel.log"
        self._manager = KernelManager(
            transport="ipc",  # TCP makes newer kernels warn
            connection_file=str(folder / "kernel.json"),
        )
        self._manager._kernel_spec = KernelSpec(  # the Python of the tests, whatever is installed in the system
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
        )
        env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        env |= {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython"), "PYTHONWARNINGS": "default"}
        with self.log.open("w") as log:
            self._manager.start_kernel(env=env, stdout=log, stderr=log, cwd=str(folder))
        self._connect()

    def _connect(self) -> None:
        self.client = self._manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)
        self._cells: dict[str, Cell] = {}
        self._replies: dict[str, dict[str, Any]] = {}
        self._channels = {
            channel.socket: channel
            for channel in (self.client.iopub_channel, self.client.shell_channel, self.client.control_channel)
        }
        self._poller = zmq.Poller()
        for socket in self._channels:
            self._poller.register(socket, zmq.POLLIN)

    # -- messages ------------------------------------------------------------------------------------------------------

    def _pump(self, seconds: float) -> None:
        """Take what arrives within so many seconds, and all that is there already."""
        for socket, _ in self._poller.poll(max(seconds, 0) * 1000):
            channel = self._channels[socket]
            message = channel.get_msg(timeout=0)
            parent = message["parent_header"].get("msg_id")
            cell = self._cells.get(parent)
            if channel is self.client.iopub_channel:
                if cell is not None:
                    cell.take(message)
            else:
                self._replies[parent] = message["content"]
                if cell is not None:
                    cell.reply = message["content"]

    def until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
        """Take messages until `condition()` holds."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            dead = self.process is None or self.process.poll() is not None
            if left <= 0 or dead:
                told = "\n".join(f"[{cell.number}] {cell.text}" for cell in self._cells.values())
                why = "the kernel died" if dead else f"waited {timeout:g} s in vain"
                raise AssertionError(f"{why}; the cells show:\n{told}")
            self._pump(min(left, 0.2))

    def _request(self, channel: Any, kind: str, content: dict[str, Any], subshell: str | None = None) -> dict[str, Any]:
        message = self.client.session.msg(kind, content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        channel.send(message)
        msg_id = message["header"]["msg_id"]
        self.until(lambda: msg_id in self._replies)
        return self._replies.pop(msg_id)

    # -- cells ---------------------------------------------------------------------------------------------------------

    def start(self, code: str, *, cell_id: str | None = None, subshell: str | None = None) -> Cell:
        """Send a cell off without waiting for it. `cell_id` is the cell's own id, as JupyterLab sends it."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self.client.session.msg("execute_request", content)
        if cell_id is not None:
            message["metadata"]["cellId"] = cell_id
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        cell = self._cells[message["header"]["msg_id"]] = Cell(message["header"]["msg_id"])
        self.client.shell_channel.send(message)
        return cell

    def _finish(self, code: str, cell_id: str | None, subshell: str | None) -> Cell:
        cell = self.start(code, cell_id=cell_id, subshell=subshell)
        self.until(lambda: cell.done)
        return cell

    def run(self, code: str, *, cell_id: str | None = None, subshell: str | None = None) -> Cell:
        """Run a cell that succeeds."""
        cell = self._finish(code, cell_id, subshell)
        assert cell.reply is not None
        assert cell.reply["status"] == "ok", f"{code}\n{cell.text}"
        return cell

    def fail(self, code: str, *, cell_id: str | None = None, subshell: str | None = None) -> Cell:
        """Run a cell that fails, so that "Run all" stops there."""
        cell = self._finish(code, cell_id, subshell)
        assert cell.reply is not None
        assert cell.reply["status"] == "error", f"{code}\n{cell.text}"
        return cell

    def show(self, cell: Cell, text: str) -> None:
        """Wait until `text` is shown below `cell`."""
        self.until(lambda: text in cell.text)

    def settle(self) -> None:
        """Wait until all that was printed so far has arrived."""
        self.run("pass")  # the kernel flushes its streams before it replies, and keeps the order

    def value(self, expression: str) -> Any:
        """The value of an expression, given as a literal of Python."""
        from ast import literal_eval

        cell = self.run(expression)
        assert cell.result is not None
        return literal_eval(cell.result)

    def complete(self, code: str) -> list[str]:
        """The texts that completion at the end of `code` makes of it."""
        content = self._request(self.client.shell_channel, "complete_request", {"code": code, "cursor_pos": len(code)})
        assert content["status"] == "ok", content
        return [code[: content["cursor_start"]] + match + code[content["cursor_end"] :] for match in content["matches"]]

    def subshell(self) -> str:
        """Make a subshell, as JupyterLab does for widgets."""
        content = self._request(self.client.control_channel, "create_subshell_request", {})
        assert content["status"] == "ok", content
        return str(content["subshell_id"])

    # -- the process ---------------------------------------------------------------------------------------------------

    @property
    def process(self) -> Any:
        return self._manager.provisioner.process  # type: ignore[union-attr]

    def interrupt(self) -> None:
        """What the stop button does."""
        self._manager.interrupt_kernel()

    def request_end(self, restart: bool) -> float:
        """Ask the kernel to end, as a front end does for a restart or a shutdown; seconds until its process has."""
        message = self.client.session.msg("shutdown_request", {"restart": restart})
        self.client.control_channel.send(message)
        begin = time.monotonic()
        self.process.wait(timeout=PATIENCE)
        return time.monotonic() - begin

    def close(self) -> None:
        """End the kernel, if need be by force."""
        self.client.stop_channels()
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self._manager.shutdown_kernel(now=True)
        self._manager.context.destroy(linger=0)
