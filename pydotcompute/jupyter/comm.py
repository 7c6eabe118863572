"""Control: what a browser asks of a widget, on a comm of its own.

The browser opens one for each view, says hello, and has every message acknowledged from its handler; the kernel sends
nothing else on it. This is what makes messages arrive while a cell blocks, on every ipykernel since 7.0: JupyterLab
gives a comm that it opens a subshell, a thread of the kernel, and from 7.4 on the kernel hands a comm's messages to the
thread that last published on that comm. One frame published from another thread, and they would wait for the cell.

Handlers run on whichever thread that is, so they only note and post.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

import comm as jupyter_comm

from ..runtime.dead_letters import error_text
from . import schema

log = logging.getLogger("pydotcompute")

CLOSED = "this widget is closed: run its cell again"

SAID = 5.0
"""Seconds that frames tell what became of a command: one of them may get lost."""
LATE = 3.0
"""Seconds that the browser may be behind with drawing until frames go out slowly."""
SILENT = 30.0
"""Seconds after which a silent view counts as out of sight."""
GONE = 600.0
"""Seconds after which a silent view counts as closed."""


class View:
    """One place where a widget is shown."""

    def __init__(self) -> None:
        self.visible = False
        self.received = 0
        """Number of the latest frame that was drawn here."""
        self.heard = time.monotonic()
        """When it last said anything."""
        self.trouble = ""
        """What went wrong last with a message, and was logged."""


class Host(Protocol):
    """A widget with views. Each method may be called on any thread and must return at once.

    The first two may raise `schema.RefusedError`; its text is shown in the view.
    """

    def view_opened(self, view: View) -> None: ...

    def view_told(self, view: View, message: schema.Message) -> None: ...

    def view_closed(self, view: View) -> None: ...


_hosts: WeakValueDictionary[str, Host] = WeakValueDictionary()


def serve(key: str, host: Host) -> None:
    """Let views reach `host` under `key`, which they name in their hello, for as long as it lives."""
    _hosts[key] = host
    jupyter_comm.get_comm_manager().register_target(schema.TARGET, _open)


def _open(comm: Any, opening: dict[str, Any]) -> None:
    """The browser opened a comm."""
    try:
        hello = schema.parse(opening["content"].get("data"))
        if not isinstance(hello, schema.Hello):
            raise schema.RefusedError("a view must say hello first")
        host = _hosts.get(hello.widget)
        if host is None:
            raise schema.RefusedError(CLOSED)
        view = View()
        host.view_opened(view)
    except schema.RefusedError as error:
        comm.send(schema.acknowledgement(str(error)))
        return
    key = hello.widget  # the comm must not keep the widget alive
    comm.on_msg(lambda message: tell(_hosts.get(key), view, message["content"].get("data"), comm.send))
    comm.on_close(lambda message: _closed(key, view))
    comm.send(schema.acknowledgement())


def tell(host: Host | None, view: View, data: Any, reply: Callable[[dict[str, Any]], None]) -> None:
    """Pass a message of a view on to its widget, and acknowledge it."""

    def follow() -> None:
        message = schema.parse(data)
        if host is None:
            raise schema.RefusedError(CLOSED)
        view.heard = time.monotonic()
        host.view_told(view, message)

    reply(schema.acknowledgement(refusal(view, host, data, follow)))


def refusal(view: View, host: object, data: Any, follow: Callable[[], None]) -> str | None:
    """Follow a message of a view; why that was not done, if it was not."""
    try:
        follow()
    except schema.RefusedError as error:
        return str(error)
    except Exception as error:
        refused = f"that did not work: {error_text(error)}"
        if refused != view.trouble:
            view.trouble = refused
            log.error("%r could not follow %s: %s", host, schema.shown(data), error_text(error), exc_info=error)
        return refused
    return None


def _closed(key: str, view: View) -> None:
    host = _hosts.get(key)
    if host is not None:
        host.view_closed(view)
