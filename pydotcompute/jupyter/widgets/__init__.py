"""Live widgets, one file for each."""

from __future__ import annotations

try:
    import anywidget as _anywidget  # noqa: F401
    import bqplot as _bqplot  # noqa: F401
    import ipywidgets as _ipywidgets  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the dashboard needs the package {error.name}: pip install ipywidgets anywidget bqplot, "
        f"then restart the notebook's kernel",
        name=error.name,
    ) from error

from .dashboard import Dashboard, dashboard
from .lifecycle import Lifecycle, lifecycle
from .mailbox import MailboxView, mailbox
from .memory import Memory, memory
from .sequence import SequenceView, sequence
from .topology import Topology, topology

__all__ = [
    "Dashboard",
    "Lifecycle",
    "MailboxView",
    "Memory",
    "SequenceView",
    "Topology",
    "dashboard",
    "lifecycle",
    "mailbox",
    "memory",
    "sequence",
    "topology",
]
