"""The kernel's side of the panel in JupyterLab, with a page that is no browser."""

import gc
import logging
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from pydotcompute import RingKernelRuntime, jupyter, ring_kernel
from pydotcompute.jupyter import census as census_module
from pydotcompute.jupyter import comm, panel, wire
from pydotcompute.origin import Cell
from pydotcompute.runtime import kernel as kernel_module
from pydotcompute.telemetry import COUNTERS, STATES, Frame
from tests.jupyter.page import Page
from tests.jupyter.test_wire import FIXTURES, validator

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    import pydotcompute.jupyter.widgets  # noqa: F401

pytestmark = pytest.mark.needs_notebook

LIST = {"filter": "", "sort": "kernel", "descending": False, "first": 0, "count": 40}
NOTHING = {"hz": 10, "visible": True, "summary": False, "cells": False, "list": None, "details": None}


class Browser:
    """A panel: two comms, of which it keeps what comes."""

    _ids = count()

    def __init__(self, page: Page, order: str = "control first", gone: Sequence[str] = ()) -> None:
        self._page = page
        self.key = f"panel-{next(self._ids)}"
        self.control, self.frames_at = f"{self.key}-control", f"{self.key}-frames"
        opened = [(self.control, jupyter.PANEL), (self.frames_at, jupyter.FRAMES)]
        for comm_id, target in opened if order == "control first" else reversed(opened):
            self.open(comm_id, target, {"version": 1, "kind": "hello", "panel": self.key, "gone": [*gone]})

    def open(self, comm_id: str, target: str, data: Any) -> None:
        self._page.manager.comm_open(None, "", {"content": {"comm_id": comm_id, "target_name": target, "data": data}})

    def send_raw(self, data: Any) -> dict[str, Any]:
        """Send a message; the acknowledgement."""
        before = len(self._page.on(self.control))
        self._page.manager.comm_msg(None, "", {"content": {"comm_id": self.control, "data": data}})
        (acknowledgement,) = self._page.on(self.control)[before:]
        return acknowledgement

    def send(self, kind: str, **fields: Any) -> None:
        told = self.send_raw({"version": 1, "kind": kind, **fields})
        assert told == {"version": 1, "kind": "acknowledgement", "refused": None}

    def look(self, **wish: Any) -> None:
        self.send("look", **NOTHING | wish)

    @property
    def frames(self) -> list[dict[str, Any]]:
        """All that came so far, each as the schema says."""
        return self._page.on(self.frames_at)

    def frame(self, like: Callable[[dict[str, Any]], Any] = lambda frame: True, after: int = -1) -> dict[str, Any]:
        """Wait for a frame after that number of messages of which `like(frame)` is true."""
        after = after if after >= 0 else 0
        return self._page.wait(lambda: next((f for f in self.frames[after:] if f["kind"] == "frame" and like(f)), None))

    def next(self, like: Callable[[dict[str, Any]], Any] = lambda frame: True, **wish: Any) -> dict[str, Any]:
        """Ask for something else; the frame that comes of it."""
        after = len(self.frames)
        self.look(**wish)
        return self.frame(like, after)

    def command(self, verb: str, kernel: str, runtime: RingKernelRuntime) -> dict[str, Any]:
        """Press a button; what became of it."""
        return self.result("command", verb=verb, kernel=kernel, runtime=runtime._serial)

    def result(self, kind: str, **fields: Any) -> dict[str, Any]:
        request = f"r{next(self._ids)}"
        self.send(kind, request=request, **fields)
        frame = self.frame(lambda frame: any(result["request"] == request for result in frame["results"]))
        return next(result for result in frame["results"] if result["request"] == request)

    def close(self) -> None:
        for comm_id in (self.control, self.frames_at):
            if comm_id in self._page.manager.comms:
                self._page.manager.comm_close(None, "", {"content": {"comm_id": comm_id, "data": {}}})


@pytest.fixture(autouse=True)
def alone(page: Page, monkeypatch: pytest.MonkeyPatch) -> Iterator[panel.Panel]:
    """A panel that nobody has looked at, in a process without runtimes; what it sends is as the schema says."""
    monkeypatch.setattr(kernel_module, "_definitions", {})
    monkeypatch.setattr(kernel_module, "_runtimes", runtimes := weakref.WeakSet())
    for module in (census_module, sys.modules["pydotcompute.runtime.runtime"]):
        monkeypatch.setattr(module, "_runtimes", runtimes)
    alone = panel.Panel()
    monkeypatch.setattr(panel, "panel", alone)
    jupyter.announce()
    yield alone
    with alone._changed:
        for view in list(alone._views.values()):
            view.wish = None
            view.results.clear()
        alone._changed.notify()
        thread = alone._thread
    if thread is not None:
        thread.join(10)
        assert not thread.is_alive()
    check = validator("toBrowser")
    for kind, _, data, _ in page._messages:
        if kind == "comm_msg" and "method" not in data:
            check.validate(data)


@pytest.fixture
def runtime() -> Iterator[RingKernelRuntime]:
    runtime = RingKernelRuntime(loop="thread")
    yield runtime
    if not runtime.closed:
        runtime.sync.close(drain=False, timeout=1)


@pytest.fixture
def browser(page: Page) -> Browser:
    return Browser(page)


@pytest.fixture
def start(runtime: RingKernelRuntime) -> Callable[..., None]:
    """Launch and activate kernels of these ids that take whatever comes; `crash` makes them raise."""

    @ring_kernel
    async def taker(ctx):
        async for message in ctx:
            if message == "crash":
                raise ValueError("no such <unit>: 'kelvinn'")

    def start(*ids: str, on: RingKernelRuntime = runtime) -> None:
        for kernel_id in ids:
            on.sync.launch(taker, kernel_id=kernel_id)
            on.sync.activate(kernel_id)

    return start


def ids(frame: dict[str, Any]) -> list[str]:
    return [row[1] for row in frame["list"]["rows"]]


def test_a_kernel_is_found_by_a_comm_that_nothing_was_sent_on(page):
    jupyter.announce()
    assert [c.target_name for c in page.manager.comms.values()] == ["pydotcompute.panel"]
    assert page._messages == []


@pytest.mark.parametrize("order", ["control first", "frames first"])
def test_frames_come_whichever_comm_is_there_first(page, start, order):
    start("b", "a", "a10", "a9")
    browser = Browser(page, order)
    assert page.on(browser.control) == [{"version": 1, "kind": "acknowledgement", "refused": None}]
    assert browser.frames == []
    frame = browser.next(list=LIST, summary=True)
    assert ids(frame) == ["a", "a9", "a10", "b"]
    assert frame["summary"]["states"] == [0, 0, 4, 0, 0, 0, 0]
    assert (frame["number"], frame["hz"], frame["cells"], frame["details"]) == (1, 10, None, None)


def test_only_what_is_wanted_is_told(browser, start, runtime):
    start("a")
    assert browser.next(summary=True)["list"] is None
    frame = browser.next(list=LIST | {"count": 0})
    assert (frame["summary"], frame["list"]) == (None, {"matching": 1, "first": 0, "rows": []})
    frame = browser.next(cells=True)
    assert (frame["cells"], frame["list"]) == ([], None)
    frame = browser.next(details={"runtime": runtime._serial, "kernel": "a"})
    assert (frame["details"]["kernel"], frame["cells"]) == ("a", None)


# -- who looks ---------------------------------------------------------------------------------------------------------


def test_nothing_is_sampled_or_sent_while_nobody_looks(page, browser, start, runtime, alone, monkeypatch):
    start("a")
    looks = []
    look = alone._census.look
    monkeypatch.setattr(alone._census, "look", lambda *args: looks.append(0) or look(*args))
    browser.next(list=LIST)
    for wish in ({"visible": False, "list": LIST}, {}):
        thread = alone._thread
        browser.look(**wish)
        thread.join(10)
        assert (thread.is_alive(), alone._thread) == (False, None)
        told, looked = len(browser.frames), len(looks)
        browser.send("received", number=1)
        assert (len(browser.frames), len(looks), alone._thread) == (told, looked, None)
        browser.next(list=LIST)  # and it goes on


@pytest.mark.parametrize("hz", [2, 10])
def test_hz_is_the_number_of_frames_a_second(page, browser, start, hz):
    start("a")
    assert browser.next(list=LIST, hz=hz)["hz"] == hz
    begin, before = time.monotonic(), len(browser.frames)
    page.wait(lambda: len(browser.frames) >= before + 3)
    assert 2.5 / hz < time.monotonic() - begin < 3.5 / hz + 0.5


def test_with_sums_and_cells_alone_a_frame_goes_out_when_something_changes(page, browser, start, alone, runtime):
    start("a")
    runtime._lag = None  # it may change whenever this machine has much to do
    browser.next(summary=True, cells=True)
    browser.frame(lambda frame: frame["summary"]["rate"] == 0)
    looks = []
    look = alone._census.look

    def counted(wanted):
        looks.append(0)
        return look(wanted)

    alone._census.look = counted
    told = len(browser.frames)
    Browser(page).look(list=LIST)  # another one, whose frames show that time goes on
    page.wait(lambda: len(looks) >= 6)
    assert len(browser.frames) == told
    runtime.sync.deactivate("a")
    browser.frame(lambda frame: frame["summary"]["states"][STATES.index("DEACTIVATED")] == 1)
    told = len(browser.frames)
    browser.look(summary=True, cells=True)
    browser.frame(after=told)  # who asks is answered


def test_a_view_that_says_nothing_is_out_of_sight_and_then_gone(page, browser, start, alone, monkeypatch):
    start("a")
    monkeypatch.setattr(comm, "SILENT", 0.3)
    browser.next(list=LIST)
    thread = alone._thread
    thread.join(10)
    assert alone._thread is None
    told = len(browser.frames)
    browser.send("received", number=1)  # it was only asleep
    browser.frame(after=told)
    monkeypatch.setattr(comm, "GONE", 0.0)
    alone._thread.join(10)
    assert alone._views == {}
    # Should it only have slept, the browser notices that its comms are closed.
    assert sum(kind == "comm_close" for kind, *_ in page._messages) == 2
    assert [c.target_name for c in page.manager.comms.values()] == [jupyter.PANEL]
    monkeypatch.undo()


def test_a_view_that_was_given_up_may_look_again(page, browser, start, alone):
    start("a")
    with alone._changed:
        alone._views.clear()
    assert browser.next(list=LIST)["list"]["matching"] == 1


def test_while_the_notebook_is_held_up_silence_means_nothing(browser, start, alone, monkeypatch):
    start("a")
    monkeypatch.setattr(census_module.Survey, "notebook_lag", 5.0)
    browser.next(list=LIST)
    monkeypatch.setattr(comm, "SILENT", 0.0)
    monkeypatch.setattr(comm, "GONE", 0.0)
    after = len(browser.frames)
    browser.frame(after=after + 2)
    monkeypatch.undo()


def test_frames_go_out_slowly_while_the_browser_does_not_draw_them(page, browser, start, monkeypatch):
    start("a")
    monkeypatch.setattr(comm, "LATE", 0.2)
    browser.next(list=LIST)
    browser.frame(lambda frame: frame["number"] >= 4)
    begin, before = time.monotonic(), len(browser.frames)
    browser.frame(after=before)
    assert time.monotonic() - begin > 0.5
    browser.send("received", number=browser.frames[-1]["number"])
    begin, before = time.monotonic(), len(browser.frames)
    browser.frame(after=before)
    assert time.monotonic() - begin < 1.5


def test_two_views_each_see_what_they_want(page, browser, start):
    start("a", "b", "c")
    other = Browser(page)
    browser.look(list=LIST | {"filter": "b"})
    other.look(list=LIST | {"descending": True, "count": 1, "first": 2})
    assert ids(browser.frame()) == ["b"]
    assert ids(other.frame()) == ["a"]
    other.close()
    told = len(other.frames)
    browser.next(list=LIST)
    assert len(other.frames) == told


def test_after_a_reload_a_second_pair_of_comms_is_served(page, browser, start, alone):
    start("a")
    browser.next(list=LIST)
    again = Browser(page)  # the page that is gone said nothing
    assert ids(again.next(list=LIST)) == ["a"]
    again.close()
    assert list(alone._views) == [browser.key]


def test_views_come_and_go_without_leaving_anything(page, start, alone):
    start("a")
    for _ in range(100):
        browser = Browser(page)
        browser.next(list=LIST)
        browser.close()
    assert alone._views == {}
    assert [c.target_name for c in page.manager.comms.values()] == [jupyter.PANEL]
    gc.collect()
    # Asking a weak proxy of whatever else there is for its class would ask what it stands for.
    assert not any(type(one) is panel.View for one in gc.get_objects())


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", FIXTURES["toKernel"]["bad"], ids=lambda bad: bad["why"])
def test_a_bad_message_is_refused_and_changes_nothing(browser, bad, alone, caplog):
    told = browser.send_raw(bad["message"])
    assert told["refused"]
    assert alone._views[browser.key].wish is None
    assert browser.frames == []
    assert not caplog.records
    browser.look(list=LIST)


@pytest.mark.parametrize(
    "hello", [None, {"version": 2, "kind": "hello", "panel": "x"}, {"version": 1, "kind": "received", "number": 1}]
)
def test_who_does_not_say_hello_is_told_so_on_either_comm(page, browser, hello, caplog, alone):
    browser.open("c", jupyter.PANEL, hello)
    browser.open("f", jupyter.FRAMES, hello)
    (refused,), (trouble,) = page.on("c"), page.on("f")
    assert (refused["kind"], trouble["kind"]) == ("acknowledgement", "trouble")
    assert refused["refused"] == trouble["text"]
    assert list(alone._views) == [browser.key]
    assert not caplog.records


def test_a_view_whose_closing_was_lost_goes_when_the_next_one_says_so(page, browser, start, alone):
    start("a")
    browser.look(list=LIST)
    other = Browser(page)
    third = Browser(page, gone=[browser.key, "unknown"])
    assert set(alone._views) == {other.key, third.key}
    assert not {browser.control, browser.frames_at} & page.manager.comms.keys()
    assert {other.control, other.frames_at} < page.manager.comms.keys()
    third.look(list=LIST)
    assert ids(third.frame()) == ["a"]


def test_a_look_that_fails_is_told_and_logged_once_and_the_next_one_goes_on(browser, start, alone, monkeypatch, caplog):
    start("a")
    with monkeypatch.context() as broken:
        broken.setattr(census_module, "runtimes", lambda: 1 / 0)
        browser.look(list=LIST)
        browser._page.wait(lambda: len(browser.frames) >= 2)
    assert browser.frames[0] == {
        "version": 1,
        "kind": "trouble",
        "text": "cannot be drawn: ZeroDivisionError: division by zero",
    }
    assert ids(browser.frame()) == ["a"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_fails_for_one_view_does_not_hold_up_another(page, browser, start, monkeypatch):
    start("a")
    monkeypatch.setattr(census_module.Survey, "summary", property(lambda self: 1 / 0))
    other = Browser(page)
    browser.look(summary=True)
    other.look(list=LIST)
    assert ids(other.frame()) == ["a"]
    page.wait(lambda: browser.frames)
    assert browser.frames[0]["kind"] == "trouble"


# -- commands ----------------------------------------------------------------------------------------------------------


def test_each_verb_does_what_it_says(browser, start, runtime):
    start("a")
    browser.look(list=LIST)
    for verb, state in (
        ("pause", "DEACTIVATED"),
        ("resume", "ACTIVE"),
        ("stop", "TERMINATED"),
        ("restart", "ACTIVE"),
    ):
        assert browser.command(verb, "a", runtime)["ok"]
        assert runtime["a"].state == state
        browser.frame(lambda frame, state=state: STATES[frame["list"]["rows"][0][3]] == state)
    runtime.sync.launch("taker", kernel_id="new")
    assert browser.command("activate", "new", runtime)["ok"]
    assert runtime["new"].state == "ACTIVE"
    runtime.sync.deactivate("a")
    runtime.sync.send("a", "hello")
    assert browser.command("step", "a", runtime)["text"] == "a handled 'hello'"
    assert browser.command("step", "a", runtime)["text"] == "a: nothing is queued"


def test_what_cannot_be_done_is_told(browser, start, runtime):
    start("a")
    result = browser.command("activate", "a", runtime)
    assert (result["ok"], result["data"]) == (False, None)
    assert "cannot activate 'a'" in result["text"]
    assert "no ring kernel 'nobody'" in browser.command("stop", "nobody", runtime)["text"]
    runtime.sync.close()
    assert not browser.command("restart", "a", runtime)["ok"]
    told = browser.send_raw(
        {"version": 1, "kind": "command", "request": "r", "verb": "stop", "runtime": 2**40, "kernel": "a"}
    )
    assert told["refused"] == "the runtime of this kernel is gone"


def test_a_result_is_told_for_a_while_also_to_who_sees_nothing(browser, start, runtime, alone, monkeypatch):
    start("a")
    browser.look(visible=False, list=LIST)
    assert browser.command("pause", "a", runtime)["ok"]  # by the keyboard, say
    assert browser.frames[-1]["list"] is None
    monkeypatch.setattr(comm, "SAID", 0.0)
    assert browser.next(list=LIST)["results"] == []


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(runtime, start) -> None:
    """Kernels in several states."""
    start("gamma", "Alpha", "beta-10", "beta-9")
    runtime.sync.send("Alpha", "crash")
    runtime.sync.terminate("gamma")
    runtime.sync.deactivate("beta-9")
    for _ in range(3):
        runtime.sync.send("beta-9", "x")
    runtime.sync.send("beta-10", "x")
    runtime.sync.wait_idle("beta-10", timeout=5)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", ["Alpha", "beta-9", "beta-10", "gamma"]),
        ("BETA", ["beta-9", "beta-10"]),
        ("beta -9", ["beta-9"]),  # the name of the runtime has a number, too
        ("-9 beta paused", ["beta-9"]),
        ("failed", ["Alpha"]),
        ("terminated", ["gamma"]),
        ("async", ["Alpha", "beta-9", "beta-10", "gamma"]),
        ("runtime", ["Alpha", "beta-9", "beta-10", "gamma"]),
        ("nothing at all", []),
        ("<script>", []),
    ],
)
def test_the_filter_takes_those_with_all_words(browser, many, words, found):
    frame = browser.next(list=LIST | {"filter": words})
    assert (ids(frame), frame["list"]["matching"]) == (found, len(found))


@pytest.mark.parametrize(
    ("sort", "up", "down"),
    [
        ("kernel", ["Alpha", "beta-9", "beta-10", "gamma"], ["gamma", "beta-10", "beta-9", "Alpha"]),
        ("state", ["beta-10", "beta-9", "gamma", "Alpha"], ["Alpha", "gamma", "beta-9", "beta-10"]),
        ("version", ["gamma", "Alpha", "beta-10", "beta-9"], ["gamma", "Alpha", "beta-10", "beta-9"]),
        ("depth", ["gamma", "Alpha", "beta-10", "beta-9"], ["beta-9", "gamma", "Alpha", "beta-10"]),
        ("errors", ["gamma", "beta-10", "beta-9", "Alpha"], ["Alpha", "gamma", "beta-10", "beta-9"]),
        ("restarts", ["gamma", "Alpha", "beta-10", "beta-9"], ["gamma", "Alpha", "beta-10", "beta-9"]),
        ("deadLetters", None, None),
        ("rate", None, None),
    ],
)
def test_the_list_can_be_sorted_both_ways(browser, many, sort, up, down):
    for descending, wanted in ((False, up), (True, down)):
        rows = browser.next(list=LIST | {"sort": sort, "descending": descending})["list"]["rows"]
        if wanted is None:
            place = {"deadLetters": 11, "rate": 8}[sort]
            values = [row[place] for row in rows if row[place] is not None]
            assert values == sorted(values, reverse=descending)
        else:
            assert [row[1] for row in rows] == wanted


def test_only_the_rows_in_view_travel(browser, start):
    start(*(f"k{i}" for i in range(30)))
    frame = browser.next(list=LIST | {"first": 5, "count": 3})
    assert (ids(frame), frame["list"]["first"], frame["list"]["matching"]) == (["k5", "k6", "k7"], 5, 30)
    frame = browser.next(list=LIST | {"first": 99, "count": 3})
    assert (ids(frame), frame["list"]["first"]) == (["k27", "k28", "k29"], 27)


def test_a_row_has_what_is_known_of_a_kernel(browser, many, runtime):
    rows = {row[1]: row for row in browser.next(list=LIST)["list"]["rows"]}
    assert rows["beta-9"][:8] == [runtime._serial, "beta-9", "async", STATES.index("DEACTIVATED"), 1, 3, 1024, 3]
    assert rows["Alpha"][9:] == [1, 0, 1, "failed: ValueError: no such <unit>: 'kelvinn'"]
    assert browser.frame(lambda f: all(row[8] is not None for row in f["list"]["rows"]))


def test_the_rate_is_that_of_the_last_seconds(browser, start, runtime):
    start("a", "b")
    browser.look(list=LIST | {"sort": "rate", "descending": True}, summary=True)
    browser.frame(lambda frame: frame["summary"]["rate"] is not None)
    for _ in range(50):
        runtime.sync.send("b", "x")
    frame = browser.frame(lambda frame: frame["summary"]["rate"])
    assert ids(frame) == ["b", "a"]
    assert frame["list"]["rows"][0][8] == frame["summary"]["rate"] > 1


def test_a_kernel_in_all_details(browser, many, runtime):
    def details(kernel: str, like: Callable[[dict[str, Any]], Any] = bool) -> dict[str, Any]:
        wish = {"details": {"runtime": runtime._serial, "kernel": kernel}}
        return browser.next(lambda frame: frame["details"]["kernel"] == kernel and like(frame["details"]), **wish)[
            "details"
        ]

    failed = details("Alpha")
    assert failed["error"]["text"] == "ValueError: no such <unit>: 'kelvinn'"
    assert failed["error"]["traceback"].endswith("ValueError: no such <unit>: 'kelvinn'")
    assert failed["error"]["place"].startswith(f"module {__name__}, line ")
    assert failed["source"].lstrip().startswith("@ring_kernel\n")
    assert failed["verbs"] == ["restart"]
    assert (failed["origin"], failed["cell"], failed["tag"]) == (f"module {__name__}", None, "async")
    paused = details("beta-9")
    assert paused["verbs"] == ["resume", "step", "restart", "stop"]
    assert (paused["error"], paused["missing"]) == (None, None)
    assert (paused["statistics"]["depth"], paused["statistics"]["received"]) == (3, 3)
    runtime.sync.reactivate("beta-9")
    runtime.sync.wait_idle("beta-9", timeout=5)
    active = details("beta-9", lambda d: d["statistics"]["waitP99"] is not None)
    assert active["verbs"] == ["pause", "restart", "stop"]
    assert active["statistics"]["handleP50"] <= active["statistics"]["handleP99"]
    assert active["statistics"]["processed"] == 3
    assert details("nobody")["missing"] == "no ring kernel 'nobody' was launched on this runtime"


def test_the_last_error_of_a_kernel_that_starts_again_is_told_until_there_is_another(browser, runtime):
    @ring_kernel(restart="on_failure")
    async def counting(ctx):
        async for message in ctx:
            raise ValueError(message)

    runtime.sync.launch(counting)
    runtime.sync.activate("counting")
    wish = {"details": {"runtime": runtime._serial, "kernel": "counting"}}
    for number in ("one", "two"):
        runtime.sync.send("counting", number)
        frame = browser.next(lambda f, text=number: text in (f["details"]["error"] or {"text": ""})["text"], **wish)
        assert frame["details"]["error"]["traceback"].endswith(f"ValueError: {number}")
    assert browser.frame(lambda frame: frame["details"]["statistics"]["restarts"] == 2)
    assert browser.frames[-1]["details"]["error"]["text"] == "ValueError: two"


# -- runtimes ----------------------------------------------------------------------------------------------------------


def test_several_runtimes_are_one_list_and_a_closed_one_goes(browser, start, runtime):
    other = RingKernelRuntime(loop="thread")
    start("b", "c")
    start("a", "d", on=other)
    frame = browser.next(list=LIST, summary=True)
    assert [row[:2] for row in frame["list"]["rows"]] == [
        [other._serial, "a"],
        [runtime._serial, "b"],
        [runtime._serial, "c"],
        [other._serial, "d"],
    ]
    assert frame["runtimes"] == [
        {"id": one._serial, "name": f"runtime {one._serial}", "status": "live", "kernels": 2}
        for one in (runtime, other)
    ]
    assert ids(browser.next(list=LIST | {"filter": f"{other._serial}"})) == ["a", "d"]
    assert browser.command("pause", "d", other)["ok"]
    other.sync.close()
    assert browser.frame(lambda frame: len(frame["runtimes"]) == 1)["summary"] is None
    frame = browser.next(details={"runtime": other._serial, "kernel": "a"})
    assert frame["details"]["missing"] == "the runtime of this kernel is gone"


class Shell:
    def __init__(self, **names: Any) -> None:
        self.user_ns = names


def test_a_runtime_is_called_as_its_variable_which_keeps_it_in_sight(browser, start, runtime, monkeypatch):
    shell = Shell(city=runtime, _=runtime, other=7)
    monkeypatch.setattr(census_module, "notebook_shell", lambda: shell)
    start("a")
    assert [one["name"] for one in browser.next(list=LIST)["runtimes"]] == ["city"]
    runtime.sync.close()
    frame = browser.frame(lambda frame: frame["runtimes"][0]["status"] == "closed")
    assert frame["list"]["rows"][0][3] == STATES.index("TERMINATED")
    frame = browser.next(details={"runtime": runtime._serial, "kernel": "a"})
    assert (frame["details"]["verbs"], frame["details"]["missing"]) == ([], None)
    del shell.user_ns["city"]
    browser.frame(lambda frame: frame["runtimes"] == [])


def test_views_keep_no_runtime_alive(browser, monkeypatch):
    monkeypatch.setattr(logging.getLogger("pydotcompute"), "disabled", True)  # records keep the frames of an error

    @ring_kernel
    async def crashing(ctx):
        raise ValueError

    other = RingKernelRuntime(loop="thread")
    other.sync.launch(crashing)
    other.sync.activate("crashing")
    browser.next(list=LIST, details={"runtime": other._serial, "kernel": "crashing"}, summary=True, cells=True)
    other.sync.close()
    gone = weakref.ref(other)
    del other
    kernel_module._definitions.clear()
    browser.frame(lambda frame: frame["runtimes"] == [])
    browser.next(summary=True)
    gc.collect()
    assert gone() is None


# -- cells -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Define kernels as one run of a cell does."""

    def define(cell: Cell, *ids: str, note: int = 0) -> None:
        monkeypatch.setattr(kernel_module, "current_cell", lambda: cell)

        async def body(ctx):
            async for message in ctx:
                if message == "crash":
                    raise ValueError(f"no {note}")

        for kernel_id in ids:
            ring_kernel(kernel_id)(body)

    return define


def test_a_cell_is_told_with_its_kernels_and_the_one_that_is_worst_off(browser, define, runtime):
    define(Cell(7, "one", 11), "a", "b", "c")
    define(Cell(8, "two", 12), "d")
    define(Cell(9, "three", 13), "unused")
    define(Cell(10, None, 14), "elsewhere")
    for kernel_id in ("a", "b", "c", "d", "elsewhere"):
        runtime.sync.launch(kernel_id)
        runtime.sync.activate(kernel_id)
    runtime.sync.deactivate("c")
    runtime.sync.send("c", "x")
    one, two = browser.next(cells=True)["cells"]
    assert one == {
        "cell": "one",
        "digest": 11,
        "number": 7,
        "runtime": runtime._serial,
        "kernel": "c",
        "kernels": 3,
        "states": [0, 0, 2, 1, 0, 0, 0],
        "version": 1,
        "queued": 1,
        "failed": None,
    }
    assert (two["cell"], two["kernel"], two["kernels"]) == ("two", "d", 1)
    runtime.sync.send("b", "crash")
    frame = browser.frame(lambda frame: frame["cells"][0]["failed"])
    assert (frame["cells"][0]["kernel"], frame["cells"][0]["failed"]) == ("b", "ValueError: no 0")


def test_a_cell_that_is_run_again_is_told_as_it_was_run_last(browser, define, runtime):
    define(Cell(7, "one", 11), "a", "b")
    for kernel_id in ("a", "b"):
        runtime.sync.launch(kernel_id)
        runtime.sync.activate(kernel_id)
    runtime.sync.terminate("b")
    browser.next(cells=True)
    define(Cell(9, "one", 22), "b")  # it has ended: it keeps its former body
    (cell,) = browser.next(lambda frame: frame["cells"][0]["number"] == 9, cells=True)["cells"]
    assert (cell["digest"], cell["version"], cell["kernels"]) == (22, 1, 2)
    define(Cell(10, "one", 33), "a")
    (cell,) = browser.next(lambda frame: frame["cells"][0]["version"] == 2, cells=True)["cells"]
    assert (cell["digest"], cell["number"]) == (33, 10)


# -- tabs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "kernel", "shows"),
    [
        ("dashboard", None, "Dashboard(hz=5, window=60)"),
        ("dashboard", "a", "Dashboard(hz=5, window=60, embed='a')"),
        ("topology", None, "Topology(hz=2)"),
        ("trace", None, "SequenceView(hz=5, limit=200)"),
        ("trace", "a", "SequenceView(hz=5, limit=200)"),
    ],
)
def test_a_tab_gets_a_widget_until_it_is_closed(page, browser, start, runtime, alone, view, kernel, shows):
    from ipywidgets.widgets.widget import _instances

    start("a", "b")
    result = browser.result("open", view=view, runtime=runtime._serial, kernel=kernel)
    assert (result["ok"], result["text"]) == (True, "")
    widget = _instances[result["data"]["model"]]
    assert repr(widget) == shows
    if view == "trace":
        assert widget.trace.recording
        runtime.sync.send("a", "x")
        runtime.sync.send("b", "x")
        runtime.sync.wait_idle("a", "b", timeout=5)
        assert {e.kernel_id for e in widget.trace} == ({"a"} if kernel else {"a", "b"})
    assert browser.result("close", model=result["data"]["model"])["ok"]
    assert widget.status == "closed"
    if view == "trace":
        assert not widget.trace.recording
    told = browser.send_raw({"version": 1, "kind": "close", "request": "r", "model": result["data"]["model"]})
    assert told["refused"] == "that view is closed already"


def test_what_was_opened_for_a_view_is_closed_when_it_is_gone(browser, start, runtime, alone, monkeypatch):
    from ipywidgets.widgets.widget import _instances

    start("a")
    monkeypatch.setattr(comm, "SILENT", 0.05)  # how often it looks for views that are gone
    widget = _instances[browser.result("open", view="trace", runtime=runtime._serial, kernel=None)["data"]["model"]]
    thread = alone._thread
    assert widget.trace.recording
    monkeypatch.setattr(comm, "GONE", 0.0)
    thread.join(10)
    assert not thread.is_alive()
    assert widget._ended.wait(10)
    assert not widget.trace.recording
    assert alone._views == {}
    monkeypatch.undo()


def test_what_cannot_be_opened_is_told(browser, start, runtime, caplog):
    start("a")
    ask = {"version": 1, "kind": "open", "request": "r", "view": "topology", "runtime": runtime._serial, "kernel": "a"}
    assert "all kernels of a runtime" in browser.send_raw(ask)["refused"]
    assert "gone" in browser.send_raw(ask | {"view": "trace", "runtime": 2**40})["refused"]
    result = browser.result("open", view="dashboard", runtime=runtime._serial, kernel="nobody")
    assert (result["ok"], result["data"]) == (False, None)
    assert "nobody" in result["text"]
    assert not caplog.records


# -- very many ---------------------------------------------------------------------------------------------------------


def test_hundred_thousand_kernels_do_not_break_it(page, browser, start, runtime, monkeypatch):
    start("template")
    kernel, n = runtime["template"], 100_000
    rows = np.zeros(n, COUNTERS)
    rows["state"], rows["queue_depth"] = STATES.index("ACTIVE"), np.arange(n) % 7
    names, launches = tuple(f"worker-{i}" for i in range(n)), np.arange(n)
    numbers = count(1)
    kernels = dict.fromkeys(names, kernel)
    monkeypatch.setattr(type(runtime), "kernels", kernels)

    def frame() -> Frame:
        number = next(numbers)
        return Frame(number, number * 10**8, names, rows, 0.0, 0.0, 0, launches)

    monkeypatch.setattr(runtime.sampler, "frame", frame)
    browser.look(summary=True, cells=True, list=LIST | {"first": 50_000})
    shown = browser.frame()
    assert ids(shown) == [f"worker-{i}" for i in range(50_000, 50_040)]
    assert shown["summary"]["kernels"] == n
    shown = browser.next(list=LIST | {"filter": "worker-99", "sort": "depth", "descending": True})
    assert shown["list"]["matching"] == 1 + 10 + 100 + 1000
    assert shown["list"]["rows"][0][5] == 6
    shown = browser.next(details={"runtime": runtime._serial, "kernel": "worker-99999"})
    assert shown["details"]["missing"] is None


def test_where_a_look_takes_long_frames_are_fewer_and_who_asks_need_not_wait(page, browser, start, monkeypatch):
    start("a")
    monkeypatch.setattr(panel, "SHARE", 1e-5)
    browser.look(list=LIST)
    browser.frame()
    frame = browser.next(list=LIST | {"filter": "a"})
    assert frame["hz"] < 1
    told = len(browser.frames)
    other = Browser(page)
    for _ in range(5):
        other.next(list=LIST)
    assert len(browser.frames) == told


@pytest.mark.parametrize("kernel_id", ["<img src=x onerror=alert(1)>", "x" * 5_000, "\ud800", "9" * 5_000, "a\nb\0c"])
def test_whatever_an_id_is_the_wire_takes_it(browser, start, kernel_id):
    start(kernel_id)
    (shown,) = ids(browser.next(list=LIST, summary=True))
    assert shown[:5] == kernel_id.encode("utf-8", "backslashreplace").decode()[:5]


def test_whatever_an_error_says_the_wire_takes_it(browser, runtime):
    class OddError(Exception):
        def __str__(self) -> str:
            return "\ud800 <b>\n" * 100_000

    @ring_kernel
    async def odd(ctx):
        raise OddError

    runtime.sync.launch(odd)
    runtime.sync.activate("odd")
    wish = {"details": {"runtime": runtime._serial, "kernel": "odd"}, "list": LIST}
    frame = browser.next(lambda frame: frame["details"]["error"], **wish)
    assert len(frame["details"]["error"]["text"]) == wire.TEXT
    assert "\n" not in frame["list"]["rows"][0][12]
