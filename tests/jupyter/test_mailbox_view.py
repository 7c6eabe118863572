"""The queue of a ring kernel, message by message, with a page that is no browser."""

import asyncio
import re
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from pydotcompute import KernelContext, RingKernelRuntime, message, ring_kernel
from pydotcompute.runtime import kernel as kernel_module
from tests.device import steps
from tests.device.steps import Number
from tests.jupyter.page import Page

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # bqplot's own, of how it uses traitlets
    from pydotcompute.jupyter.widgets import MailboxView, mailbox

pytestmark = pytest.mark.needs_notebook


@message
class Reading:
    station: str
    celsius: float


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingKernelRuntime]:
    monkeypatch.setattr(kernel_module, "_definitions", {})
    runtime = RingKernelRuntime(loop="thread")

    @ring_kernel(queue_size=8)
    async def parse(ctx: KernelContext[Reading, None]):
        async for _ in ctx:
            pass

    runtime.sync.launch("parse")
    runtime.sync.activate("parse")
    yield runtime
    runtime.sync.close(drain=False, timeout=1)


@pytest.fixture
def box(page: Page, runtime: RingKernelRuntime) -> Iterator[MailboxView]:
    box = mailbox(runtime["parse"], hz=20)
    yield box
    box.close()


@pytest.fixture
def queued(runtime: RingKernelRuntime) -> RingKernelRuntime:
    """A paused kernel with four messages."""
    runtime.sync.deactivate("parse")
    for celsius, priority in ((1.0, 128), (2.0, 128), (3.0, 255), (4.0, 16)):
        runtime.sync.send("parse", Reading("KSFO", celsius, priority=priority))
    return runtime


def order(frame):
    """The temperatures in a frame, as they are shown."""
    return [float(one["text"].partition("celsius=")[2].rstrip(")").partition(",")[0]) for one in frame["messages"]]


def test_messages_are_shown_in_the_order_in_which_they_will_be_handed_out(page, queued, box):
    page.view(box)
    frame = page.frame()
    assert order(frame) == [3.0, 1.0, 2.0, 4.0]
    assert [one["priority"] for one in frame["messages"]] == [255, 128, 128, 16]
    assert {one["type"] for one in frame["messages"]} == {"Reading"}
    assert all(one["waits"] >= 0 for one in frame["messages"])
    assert (frame["depth"], frame["bound"], frame["state"]) == (4, 8, "DEACTIVATED")
    assert frame["chosen"] == 0
    assert frame["detail"] == repr(queued["parse"].peek())
    assert frame["template"] == '{"station": "", "celsius": 0.0}'
    html = box._repr_mimebundle_()["text/html"]
    assert "parse: 4 of 8 queued, paused" in html
    assert "celsius=4.0" in html


def test_what_is_in_hand_is_shown_and_that_somebody_waits(page, runtime):
    go_on = threading.Event()

    @ring_kernel
    async def slow(ctx):
        async for _ in ctx:
            await asyncio.to_thread(go_on.wait)
            await ctx.send("done")

    runtime.sync.launch("slow")
    runtime.sync.activate("slow")
    box = mailbox(runtime["slow"], hz=20)
    page.view(box)
    asked = [runtime._post(runtime.ask, "slow", word) for word in ("first", "second")]
    frame = page.frame(lambda content: content["inHand"] and content["messages"])
    assert frame["inHand"] == "'first'"
    (waiting,) = frame["messages"]
    assert (waiting["text"], waiting["ask"]) == ("'second'", True)
    go_on.set()
    assert [future.result(10) for future in asked] == ["done", "done"]
    page.frame(lambda content: content["inHand"] is None and not content["messages"])
    box.close()


def test_steps_moves_and_discards(page, queued, box):
    view = page.view(box)
    keys = [one["key"] for one in page.frame()["messages"]]
    assert page.result(view.command("move", "parse", at=3, to=0, key=keys[3]))["ok"]
    frame = page.frame(lambda content: order(content) == [4.0, 3.0, 1.0, 2.0])
    assert frame["chosen"] == 0
    result = page.result(view.command("step", "parse", n=2))
    assert result["ok"]
    assert result["text"].startswith("parse handled Reading(station='KSFO', celsius=4.0")
    page.frame(lambda content: order(content) == [1.0, 2.0])
    result = page.result(view.command("discard", "parse", at=1, key=keys[2]))
    assert result["text"].endswith("discarded: it is a dead letter")
    page.frame(lambda content: order(content) == [1.0])
    assert [letter.message.celsius for letter in queued.dead_letters] == [2.0]
    assert page.result(view.command("step", "parse", n=10))["ok"]  # what is there, and no more
    page.frame(lambda content: content["depth"] == 0 and content["detail"] is None)


def test_a_command_for_another_kernel_is_refused(page, queued, box):
    queued.sync.launch("parse", kernel_id="another")
    view = page.view(box)
    for verb, arguments in (("resume", {}), ("step", {"n": 1}), ("inject", {"message": "{}", "at": 0})):
        told = view.send("command", verb=verb, kernel="another", request="r", arguments=arguments)
        assert told["refused"] == "kernel cannot be 'another'; possible: parse"
    assert queued["parse"].queue_depth == 4


def test_a_button_that_was_pressed_on_another_message_does_nothing(page, queued, box):
    view = page.view(box)
    long = "a name of which the first eighty characters are the same, and more than that: " + "x" * 80
    for i in range(2):
        queued.sync.send("parse", Reading(f"{long}{i}", 0.0, priority=255))
    key = page.frame(lambda content: content["depth"] == 6)["messages"][1]["key"]
    queued["parse"].discard(1)
    for verb in ("discard", "move"):
        result = page.result(view.command(verb, "parse", at=1, to=0, key=key))
        assert not result["ok"]
        assert "the queue has changed meanwhile: look again" in result["text"]
    assert len(queued["parse"].queue()) == 5


def test_a_selection_shows_a_message_in_full(page, queued, box):
    view = page.view(box)
    view.send("set", name="selected", value=3)
    frame = page.frame(lambda content: content["chosen"] == 3)
    assert frame["detail"] == repr(queued["parse"].queue()[3].message)
    view.send("set", name="selected", value=99)
    page.frame(lambda content: content["chosen"] == 3, after=page.last)
    for value in (-1, True, "0"):
        assert "must be a place in the queue" in view.send("set", name="selected", value=value)["refused"]


def test_a_message_is_injected_from_its_fields(page, queued, box):
    view = page.view(box)
    text = '{"station": "KLAX", "celsius": 9.5}'
    assert page.result(view.command("inject", "parse", message=text, at=1))["text"] == "injected"
    assert order(page.frame(lambda content: content["depth"] == 5)) == [3.0, 9.5, 1.0, 2.0, 4.0]
    assert queued["parse"].queue()[1].message == Reading("KLAX", 9.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", 'is no JSON .*: write {"station": "", "celsius": 0.0}'),
        ("5", 'messages here are Reading: write its fields, such as {"station"'),
        ('{"celsius": 1}', "Reading: TypeError: .*station"),
        (5, "message must be a text, not 5"),
    ],
)
def test_what_is_no_message_is_refused(page, queued, box, text, says):
    view = page.view(box)
    arguments = {"message": text, "at": 0}
    told = view.send("command", verb="inject", kernel="parse", request="r", arguments=arguments)
    assert re.search(says, told["refused"])
    assert len(queued["parse"].queue()) == 4


def test_it_breaks_when_a_condition_holds(page, runtime, box, monkeypatch):
    monkeypatch.setitem(sys.modules["__main__"].__dict__, "HOT", 100)
    view = page.view(box)
    assert page.result(view.command("break", "parse", condition="msg.celsius > HOT"))["ok"]
    assert page.frame(lambda content: content["break"])["break"] == "msg.celsius > HOT"
    for celsius in (20.0, 101.0, 21.0):
        runtime.sync.send("parse", Reading("KSFO", celsius))
    frame = page.frame(lambda content: content["state"] == "DEACTIVATED" and content["depth"] == 2)
    assert order(frame) == [101.0, 21.0]
    assert "before Reading" in frame["waits"]
    assert page.result(view.command("break", "parse", condition=" "))["text"] == "stops before no message"
    page.frame(lambda content: not content["break"])
    assert page.result(view.command("resume", "parse"))["ok"]
    page.frame(lambda content: content["depth"] == 0)


def test_a_condition_that_is_no_expression_is_refused(page, box):
    view = page.view(box)
    arguments = {"condition": "msg.celsius >"}
    told = view.send("command", verb="break", kernel="parse", request="r", arguments=arguments)
    assert "'msg.celsius >' is not an expression of Python" in told["refused"]
    assert "such as msg.celsius > 100" in told["refused"]


def test_limit_is_how_many_are_shown(page, queued):
    box = mailbox(queued["parse"], hz=20, limit=2)
    page.view(box)
    frame = page.frame()
    assert (order(frame), frame["depth"]) == ([3.0, 1.0], 4)
    assert "2 more" in box._repr_mimebundle_()["text/html"]
    box.close()


@pytest.mark.may_block
def test_a_loop_that_is_blocked_makes_an_old_picture_and_not_a_stop(page, runtime, box):
    page.view(box)
    page.frame()
    go_on = threading.Event()
    runtime._loop.call_soon_threadsafe(go_on.wait)
    assert page.frame(lambda content: content["age"] > 0.3)["state"] == "ACTIVE"
    go_on.set()
    page.frame(lambda content: content["age"] < 0.2, after=page.last)


def test_a_closed_runtime_is_no_blocked_loop(page, queued, box):
    page.view(box)
    page.frame()
    queued.sync.close(drain=False)
    frame = page.frame(lambda content: content["status"] == "closed")
    assert (frame["state"], frame["depth"], frame["age"]) == ("TERMINATED", 0, 0.0)


@pytest.mark.needs_numba
def test_of_a_compiled_kernel_the_rings_are_shown(page, runtime):
    definition = ring_kernel(kernel_id="echo", queue_size=4)(steps.echo)
    runtime.sync.launch(definition)
    runtime.sync.activate("echo")
    box = mailbox(runtime["echo"], hz=20)
    view = page.view(box)
    before = page.frame()["rings"]
    places, limit, _, tail = before["messages"]
    assert (places, limit) == (4, 4)
    runtime.sync.send("echo", Number(7))
    frame = page.frame(lambda content: content["rings"]["replies"][3] == before["replies"][3] + 1)
    assert frame["rings"]["messages"][3] == tail + 1
    assert "what is queued is in its ring: pause it first" in frame["hidden"]
    assert page.result(view.command("pause", "echo"))["ok"]
    runtime.sync.send("echo", Number(8))
    frame = page.frame(lambda content: content["messages"])
    assert frame["hidden"] == ""
    assert frame["messages"][0]["waits"] is None
    box.close()


@pytest.mark.parametrize("limit", [0, 1001, True, 2.5])
def test_arguments_out_of_range_are_refused(page, runtime, limit):
    with pytest.raises(ValueError, match="limit must be an integer from 1 to 1000"):
        mailbox(runtime["parse"], limit=limit)
    with pytest.raises(ValueError, match="hz must be"):
        mailbox(runtime["parse"], hz=21)


def test_it_shows_handles_only(page):
    with pytest.raises(TypeError, match=r"mailbox takes the handle of a ring kernel, such as runtime.*, not 'parse'"):
        mailbox("parse")


def test_a_message_that_cannot_be_shown_does_not_end_it(page, runtime):
    class Odd:
        def __repr__(self):
            raise RuntimeError("no")

    @ring_kernel
    async def any_of_them(ctx):
        async for _ in ctx:
            pass

    runtime.sync.launch("any_of_them")
    runtime.sync.send("any_of_them", Odd())
    box = mailbox(runtime["any_of_them"], hz=20)
    page.view(box)
    frame = page.frame()
    assert frame["detail"] == "<Odd, whose repr() raised RuntimeError>"
    page.frame(after=frame["number"])
    box.close()


def test_of_a_long_queue_only_what_is_shown_is_read(page, runtime, monkeypatch):
    @ring_kernel(queue_size=50_000)
    async def long(ctx):
        async for _ in ctx:
            pass

    runtime.sync.launch("long")
    runtime.sync.send_many("long", range(50_000))
    read = []
    entries = type(runtime["long"]._box).entries
    monkeypatch.setattr(
        type(runtime["long"]._box), "entries", lambda box, most=None: read.append(most) or entries(box, most)
    )
    box = mailbox(runtime["long"], hz=20, limit=5)
    page.view(box)
    assert page.frame()["depth"] == 50_000
    assert set(read) == {5}
    box.close()


def test_a_condition_may_have_a_loop_of_its_own(page, queued, box):
    view = page.view(box)
    assert page.result(view.command("break", "parse", condition="any(msg.celsius == x for x in (2.0, 9.0))"))["ok"]
    assert page.result(view.command("resume", "parse"))["ok"]
    assert order(page.frame(lambda content: content["depth"] == 2)) == [2.0, 4.0]
    queued["parse"].break_when(lambda msg: False)
    page.frame(lambda content: content["break"] == "(set in code)")


def test_a_step_without_a_message_says_so(page, runtime, box):
    view = page.view(box)
    assert page.result(view.command("pause", "parse"))["ok"]
    assert page.result(view.command("step", "parse", n=1))["text"] == "nothing is queued"


def test_a_condition_that_fails_is_told_where_it_was_set(page, queued, box):
    view = page.view(box)
    result = page.result(view.command("break", "parse", condition="celsius > 3"))
    assert result == result | {"ok": False, "text": "NameError: name 'celsius' is not defined"}
    assert queued["parse"]._breakpoint is None
    assert page.result(view.command("break", "parse", condition="1 / (msg.celsius - 1) > 100"))["ok"]
    assert page.result(view.command("resume", "parse"))["ok"]
    frame = page.frame(lambda content: content["depth"] == 3 and content["state"] == "DEACTIVATED")
    assert frame["stopped"].endswith("raised ZeroDivisionError: float division by zero, and stops it at every message")


def test_without_a_declared_type_that_of_the_next_message_is_injected(page, runtime):
    @ring_kernel
    async def untyped(ctx):
        async for _ in ctx:
            pass

    runtime.sync.launch("untyped")
    box = mailbox(runtime["untyped"], hz=20)
    view = page.view(box)
    assert page.frame()["template"] == '"text"'
    assert page.result(view.command("inject", "untyped", message='{"celsius": 7}', at=0))["ok"]
    runtime["untyped"].discard()
    runtime.sync.send("untyped", Reading("KSFO", 1.0))
    page.frame(lambda content: "station" in content["template"])
    assert page.result(view.command("inject", "untyped", message='{"station": "KLAX", "celsius": 7}', at=0))["ok"]
    assert runtime["untyped"].peek() == Reading("KLAX", 7)
    box.close()
