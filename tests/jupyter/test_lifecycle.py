"""The life of a ring kernel as a diagram, with a page that is no browser."""

import itertools
import warnings
from collections.abc import Iterator

import pytest

from pydotcompute import RingKernelRuntime, ring_kernel
from pydotcompute.jupyter.acts import verbs
from pydotcompute.runtime import TRANSITIONS, KernelState
from pydotcompute.runtime import kernel as kernel_module
from tests.jupyter.page import Page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import Lifecycle, lifecycle
    from pydotcompute.jupyter.widgets.lifecycle import BOXES, SHOWN, WAYS, Step, in_words, way_of

pytestmark = pytest.mark.needs_notebook


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingKernelRuntime]:
    monkeypatch.setattr(kernel_module, "_definitions", {})
    runtime = RingKernelRuntime(loop="thread")

    @ring_kernel
    async def worker(ctx):
        async for message in ctx:
            if message == "bad":
                raise ValueError("<colder than cold>")

    runtime.sync.launch("worker")
    yield runtime
    runtime.sync.close(drain=False, timeout=1)


@pytest.fixture
def life(page: Page, runtime: RingKernelRuntime) -> Iterator[Lifecycle]:
    life = lifecycle(runtime["worker"], hz=20)
    yield life
    life.close()


def test_each_way_of_the_table_is_drawn_and_none_besides():
    drawn = {(way.start, way.end) for way in WAYS}
    table = {(start, end) for ends in TRANSITIONS.values() for start, end in ends.items()}
    by_restart = {(KernelState.FAILED, KernelState.ACTIVE)}
    # What a paused kernel does that is not idle: it ends its message, and may return or raise after it.
    from_pause = {(KernelState.DEACTIVATED, KernelState.TERMINATED), (KernelState.DEACTIVATED, KernelState.FAILED)}
    assert drawn == (table | by_restart) - from_pause
    assert set(BOXES) == set(KernelState)


def test_buttons_are_those_that_the_state_allows():
    assert {state: verbs(state) for state in KernelState} == {
        "CREATED": [],
        "LAUNCHED": ["activate", "stop"],
        "ACTIVE": ["pause", "restart", "stop"],
        "DEACTIVATED": ["resume", "restart", "stop"],
        "TERMINATING": [],
        "TERMINATED": ["restart"],
        "FAILED": ["restart"],
    }


def test_each_button_leads_to_its_state(page, runtime, life):
    view = page.view(life)
    for verb, state in (
        ("activate", "ACTIVE"),
        ("pause", "DEACTIVATED"),
        ("resume", "ACTIVE"),
        ("stop", "TERMINATED"),
        ("restart", "ACTIVE"),
    ):
        offered = page.frame(lambda content: content["state"] == runtime["worker"].state, after=page.last)["verbs"]
        assert verb in offered
        assert page.result(view.command(verb, "worker"))["ok"]
        assert runtime["worker"].state == state
    frame = page.frame(lambda content: content["state"] == "ACTIVE", after=page.last)
    assert [step["word"] for step in frame["way"]] == ["created", "launched", "active"]  # of the one launched again
    assert life.kernel is runtime["worker"]


def test_what_is_not_allowed_is_told(page, life):
    view = page.view(life)
    result = page.result(view.command("resume", "worker"))
    assert not result["ok"]
    assert "cannot reactivate 'worker': it is LAUNCHED" in result["text"]
    refused = view.send("command", verb="explode", kernel="worker", request="r", arguments={})["refused"]
    assert "verb cannot be 'explode'" in refused


def test_a_command_for_another_kernel_is_refused(page, runtime, life):
    runtime.sync.launch("worker", kernel_id="another")
    view = page.view(life)
    refused = view.send("command", verb="activate", kernel="another", request="r", arguments={})["refused"]
    assert refused == "kernel cannot be 'another'; possible: worker"
    assert {kernel.state for kernel in runtime.kernels.values()} == {KernelState.LAUNCHED}


def test_the_way_it_came_and_what_it_failed_with(page, runtime, life):
    page.view(life)
    first = page.frame()
    assert set(first["diagram"]["boxes"]) == set(KernelState)
    runtime.sync.activate("worker")
    runtime.sync.send("worker", "bad")
    frame = page.frame(lambda content: content["state"] == "FAILED")
    assert "diagram" not in frame
    assert [step["word"] for step in frame["way"]] == ["created", "launched", "active", "failed"]
    assert frame["former"] == "ACTIVE"
    times = [step["at"] for step in frame["way"]]
    assert times == sorted(times)
    assert times[-1] <= frame["now"]
    assert frame["error"] == "ValueError: <colder than cold>"
    assert frame["waits"] == ""
    assert frame["verbs"] == ["restart"]
    html = life._repr_mimebundle_()["text/html"]
    assert "ValueError: &lt;colder than cold&gt;" in html
    assert "worker is FAILED" in html


def test_of_a_long_way_the_latest_is_shown(page, runtime, life):
    runtime.sync.activate("worker")
    for _ in range(SHOWN):
        runtime.sync.deactivate("worker")
        runtime.sync.reactivate("worker")
    page.view(life)
    frame = page.frame()
    assert len(frame["way"]) == SHOWN
    assert frame["leftOut"] == len(runtime["worker"].history) - SHOWN
    assert in_words(way_of(runtime["worker"])).startswith("… → ")


def test_a_crash_and_the_restart_after_it_stand_on_the_way(page, runtime):
    @ring_kernel(restart="on_failure")
    async def frail(ctx):
        async for message in ctx:
            raise ValueError(f"no {message}")

    runtime.sync.launch("frail")
    runtime.sync.activate("frail")
    life = lifecycle(runtime["frail"], hz=20)
    page.view(life)
    runtime.sync.send("frail", "bad")
    page.frame(lambda content: content["restarts"] == 1)
    runtime.sync.restart("frail")
    way = page.frame(lambda content: content["restarts"] == 2)["way"]
    assert [step["word"] for step in way] == ["created", "launched", "active", "restarted", "restarted"]
    assert [step["why"] for step in way] == ["", "", "", "ValueError: no bad", ""]
    assert [step["at"] for step in way[3:]] == [at for at, _ in runtime["frail"].restarted]
    assert "ValueError: no bad)" in life._repr_mimebundle_()["text/html"]
    life.close()


def test_the_way_in_words():
    active = KernelState.ACTIVE
    way = [
        Step("created", KernelState.CREATED, 1.0),
        Step("active", active, 1.031),
        Step("restarted", active, 1.0312, "ValueError: no"),
    ]
    words = in_words(way).split(" → ")
    assert words[0].startswith("created ")
    assert words[1:] == ["active +31 ms", "restarted +200 µs (ValueError: no)"]


@pytest.mark.parametrize("hz", [4, 20])
def test_hz_is_the_number_of_frames_a_second(page, runtime, hz):
    life = lifecycle(runtime["worker"], hz=hz)
    page.view(life)
    page.wait(lambda: page.last >= 5)
    times = [content["now"] for content, _ in page.frames()[:5]]
    life.close()
    gaps = sorted(after - before for before, after in itertools.pairwise(times))
    assert 0.5 / hz < gaps[1] < 2 / hz


def test_it_shows_handles_only(page, runtime):
    with pytest.raises(
        TypeError, match=r'takes the handle of a ring kernel, such as runtime\["stats"\], not \'worker\''
    ):
        lifecycle("worker")
    with pytest.raises(ValueError, match="hz must be above 0"):
        lifecycle(runtime["worker"], hz=0)


def test_when_the_runtime_closes_the_last_picture_stays(page, runtime, life):
    page.view(life)
    page.frame()
    runtime.sync.close()
    assert page.frame(lambda content: content["status"] == "closed")["state"] == "TERMINATED"
    assert life.status == "closed"


def test_what_cannot_be_drawn_is_said_and_the_next_look_goes_on(page, runtime, life, caplog):
    view = page.view(life)
    page.frame()
    draw, life._content = life._content, lambda full: 1 / 0
    told = lambda: [d for d in page.on(life.model_id) if (d.get("content") or {}).get("kind") == "trouble"]  # noqa: E731
    (first, *_) = page.wait(told)
    assert first["content"]["text"] == "cannot be drawn: ZeroDivisionError: division by zero"
    page.wait(lambda: len(told()) > 3)
    assert len([record for record in caplog.records if "cannot be drawn" in record.getMessage()]) == 1
    life._content = draw
    page.frame(after=page.last)
    assert page.result(view.command("activate", "worker"))["ok"]
    life._look = life._picture = lambda *_: 1 / 0
    runtime.sync.close()
    page.wait(lambda: life.status == "closed")
    assert "cannot be drawn" in life._repr_mimebundle_()["text/html"]
    layout = life.layout
    life.close()
    assert life.comm is None
    assert layout.comm is None


def test_an_error_that_cannot_be_told_is_named(page, runtime, life):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no")

    page.view(life)
    runtime.sync.activate("worker")
    runtime.sync.kill("worker", Odd())
    assert page.frame(lambda content: content["state"] == "FAILED")["error"] == "Odd"
    assert "failed last: Odd" in life._repr_mimebundle_()["text/html"]
