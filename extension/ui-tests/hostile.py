"""Instead of pydotcompute in a kernel: it announces a panel as that does, and then sends what it wants.

Tests run this file in a kernel, and steer it with `say`.
"""

from __future__ import annotations

import copy
from typing import Any

import comm

PANEL, FRAMES = "pydotcompute.panel", "pydotcompute.panel.frames"
HTML = '<img src="x" onerror="window.harmed = true"><script>window.harmed = true</script>'

frames: list[Any] = []
controls: list[Any] = []
looks: list[dict[str, Any]] = []
number = 0
kernels = 3
names = "kernel-{}"


def row(i: int, **changes: Any) -> list[Any]:
    values: dict[str, Any] = {"runtime": 1, "kernel": names.format(i), "tag": "async", "state": 2, "version": 1}
    values |= {"depth": 0, "bound": 256, "peak": 0, "rate": 0.5, "errors": 0, "restarts": 0, "dead": 0, "note": ""}
    return list((values | changes).values())


def frame(**changes: Any) -> dict[str, Any]:
    """A good one, with the rows that were asked for, and with these fields instead of its own."""
    global number
    number += 1
    wanted = looks[-1]["list"] if looks and looks[-1]["list"] else {"first": 0, "count": 40}
    first = min(wanted["first"], kernels)
    values = {
        "version": 1,
        "kind": "frame",
        "number": number,
        "hz": 2,
        "runtimes": [{"id": 1, "name": "runtime", "status": "live", "kernels": kernels}],
        "summary": {"kernels": kernels, "states": [0, 0, kernels, 0, 0, 0, 0], "queued": 0, "rate": 1.0, "lag": 0.0}
        | {"deadLetters": 0},
        "cells": None,
        "list": {
            "matching": kernels,
            "first": first,
            "rows": [row(i) for i in range(first, min(first + wanted["count"], kernels))],
        },
        "details": None,
        "results": [],
    }
    return values | changes


def cell(**changes: Any) -> dict[str, Any]:
    values = {"cell": "cell-0", "digest": 0, "number": 1, "runtime": 1, "kernel": names.format(0), "kernels": 1}
    values |= {"states": [0, 0, 0, 0, 0, 0, 1], "version": 1, "queued": 0, "failed": HTML}
    return values | changes


def details(**changes: Any) -> dict[str, Any]:
    statistics = dict.fromkeys(("depth", "bound", "peak", "received", "processed", "replied", "unread", "dropped"), 0)
    statistics |= dict.fromkeys(("deadLetters", "errors", "restarts"), 0)
    values: dict[str, Any] = {"runtime": 1, "kernel": names.format(0), "missing": None, "tag": HTML, "state": 6}
    values |= {"version": 1, "origin": HTML, "cell": None, "source": HTML, "waiting": HTML, "verbs": ["restart"]}
    values["error"] = {"text": HTML, "traceback": HTML, "place": HTML}
    values["statistics"] = statistics | dict.fromkeys(
        ("rate", "busy", "waitP50", "waitP99", "handleP50", "handleP99"), None
    )
    return values | changes


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in frame().items() if key != name}


def summary(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(frame())["summary"] | changes


def say(data: Any) -> None:
    for one in frames:
        one.send(data)


def _control(one: Any, opening: dict[str, Any]) -> None:
    controls.append(one)

    def told(message: dict[str, Any]) -> None:
        data = message["content"]["data"]
        one.send({"version": 1, "kind": "acknowledgement", "refused": None})
        if data["kind"] == "look":
            looks.append(data)
            if kernels > 3:
                say(frame())
        elif data["kind"] == "command":
            say(frame(results=[{"request": data["request"], "ok": False, "text": HTML, "data": None}]))

    one.on_msg(told)
    one.send({"version": 1, "kind": "acknowledgement", "refused": None})


def _frames(one: Any, opening: dict[str, Any]) -> None:
    frames.append(one)
    one.send(frame())


manager = comm.get_comm_manager()
manager.register_target(PANEL, _control)
manager.register_target(FRAMES, _frames)
manager.register_comm(comm.create_comm(target_name=PANEL, primary=False))
