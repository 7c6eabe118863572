"""Types are checked where they are given: a wrong message raises in its sender, naming both types and the kernel."""

import asyncio
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from pydotcompute import KernelContext, message, ring_kernel
from pydotcompute.exceptions import KernelFailedError, MessageTypeError
from pydotcompute.runtime import KernelState


@message
class Request:
    n: int


@message
class Reply:
    n: int


@message
class Urgent(Request):
    pass


@dataclass
class Other:
    n: int
    priority: int = 128


T = TypeVar("T")


async def answer(ctx: KernelContext[Request, Reply]):
    async for request in ctx:
        await ctx.send(Reply(request.n))


SENDS = {
    "send": lambda runtime, name, one: runtime.send(name, one),
    "ask": lambda runtime, name, one: runtime.ask(name, one),
    "send_many": lambda runtime, name, one: runtime.send_many(name, [one]),
    "handle": lambda runtime, name, one: runtime[name].send(one),
    "map": lambda runtime, name, one: anext(runtime.map(name, [one])),
}


# -- in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("wrong", [Other(1), Reply(1), "text", 1, None, Request])
async def test_a_wrong_message_raises_in_the_sender_and_names_types_and_kernel(runtime, start, send, wrong):
    kernel = await start(answer)
    with pytest.raises(MessageTypeError, match=f"'answer' takes Request, not {type(wrong).__qualname__}"):
        await SENDS[send](runtime, "answer", wrong)
    assert kernel.statistics().received == 0
    assert kernel.state is KernelState.ACTIVE
    assert (await runtime.ask("answer", Request(1))).n == 1


async def test_send_many_sends_none_when_one_is_wrong(runtime, start):
    kernel = await start(answer)
    with pytest.raises(MessageTypeError):
        await runtime.send_many("answer", [Request(1), Request(2), Other(3)])
    assert kernel.statistics().received == 0


async def test_a_body_learns_of_a_wrong_message_when_it_tells_or_asks(runtime, start):
    async def front(ctx):
        async for _ in ctx:
            errors = []
            for call in (ctx.tell, ctx.ask):
                try:
                    await call("answer", "text")
                except MessageTypeError as error:
                    errors.append(str(error))
            await ctx.send(errors)

    await start(answer)
    await start(front)
    assert await runtime.ask("front", 1) == ["'answer' takes Request, not str"] * 2


async def test_subclasses_are_taken(runtime, start):
    await start(answer)
    assert (await runtime.ask("answer", Urgent(5))).n == 5


async def test_the_type_of_a_message_counts_before_its_priority_and_the_state_of_the_kernel(runtime, start):
    kernel = await start(answer)
    await kernel.terminate()
    with pytest.raises(MessageTypeError):
        await runtime.send("answer", "text")


# -- out -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True])
async def test_a_wrong_reply_raises_in_the_body(runtime, start, asked):
    caught = []

    async def worker(ctx: KernelContext[Request, Reply]):
        async for _ in ctx:
            try:
                await ctx.send(Request(1))
            except MessageTypeError as error:
                caught.append(str(error))
            await ctx.send(Reply(2))

    kernel = await start(worker)
    if asked:
        assert (await runtime.ask("worker", Request(1))).n == 2
    else:
        await runtime.send("worker", Request(1))
        assert (await runtime.receive("worker")).n == 2
    assert caught == ["'worker' sends Reply, not Request"]
    assert kernel.statistics().replied == 1


async def test_a_wrong_reply_that_the_body_does_not_catch_fails_it(runtime, start):
    async def worker(ctx: KernelContext[Request, Reply]):
        async for _ in ctx:
            await ctx.send("text")

    await start(worker)
    with pytest.raises(KernelFailedError, match="'worker' sends Reply, not str"):
        await runtime.ask("worker", Request(1))


# -- where types come from -----------------------------------------------------------------------------------------


async def takes(runtime, name, *messages):
    """Which of these a kernel takes, or may send."""
    taken = []
    for one in messages:
        try:
            await runtime.ask(name, one, timeout=10)
        except MessageTypeError:
            continue
        taken.append(one)
    return taken


async def echo(ctx):
    async for one in ctx:
        try:
            await ctx.send(one)
        except MessageTypeError as error:
            await ctx.send(error)


A, B, C, D = Request(1), Reply(2), "text", 3


FORMS = [
    (None, [A, B, C, D]),
    (Any, [A, B, C, D]),
    (object, [A, B, C, D]),
    (T, [A, B, C, D]),
    (Request, [A]),
    (Request | Reply, [A, B]),
    ((Request, str), [A, C]),
    ((Request | str, int), [A, C, D]),
    ((Request | str,), [A, C]),
    ((Request,), [A]),
    (Request | Any, [A, B, C, D]),
    ((Request, Any), [A, B, C, D]),
    (Request | None, [A]),
    (list[int] | str, [C]),
]


@pytest.mark.parametrize(("wanted", "taken"), FORMS, ids=str)
async def test_input_types_of_every_form(runtime, start, wanted, taken):
    await start(echo, input_type=wanted)
    assert await takes(runtime, "echo", A, B, C, D) == taken


@pytest.mark.parametrize(
    ("wanted", "taken"), [form for form in FORMS if not isinstance(form[0], tuple | None)], ids=str
)
async def test_annotations_of_every_form(runtime, start, wanted, taken):
    async def worker(ctx: KernelContext[wanted, Any]):
        await echo(ctx)

    await start(worker)
    assert await takes(runtime, "worker", A, B, C, D) == taken


async def test_a_union_is_named_in_full(runtime, start):
    await start(echo, input_type=(Request | str, int), output_type=(Reply | str,))
    with pytest.raises(MessageTypeError, match="'echo' takes Request or str or int, not Reply"):
        await runtime.send("echo", B)


async def test_output_type_alone(runtime, start):
    sent = []

    async def worker(ctx):
        async for one in ctx:
            try:
                await ctx.send(one)
            except MessageTypeError as error:
                sent.append(str(error))
                await ctx.send("refused")

    await start(worker, output_type=(Reply, str))
    assert await runtime.ask("worker", B) is B
    assert await runtime.ask("worker", A) == "refused"
    assert sent == ["'worker' sends Reply or str, not Request"]


async def test_the_keyword_wins_over_the_annotation(runtime, start):
    async def worker(ctx: KernelContext[Request, Reply]):
        async for one in ctx:
            await ctx.send(one)

    await start(worker, input_type=str, output_type=str)
    assert await runtime.ask("worker", "text") == "text"
    with pytest.raises(MessageTypeError, match="takes str, not Request"):
        await runtime.ask("worker", A)


async def test_a_bare_context_is_not_checked(runtime, start):
    async def worker(ctx: KernelContext):
        async for one in ctx:
            await ctx.send(one)

    await start(worker)
    assert await takes(runtime, "worker", A, B, C, D) == [A, B, C, D]


async def test_annotations_that_are_texts_find_local_classes(runtime, start):
    @dataclass
    class Local:
        n: int

    @ring_kernel
    async def worker(ctx: "KernelContext[Local, Local | str]"):
        async for one in ctx:
            await ctx.send(one)

    await (await runtime.launch("worker")).activate()
    one = Local(1)
    assert await runtime.ask("worker", one) is one
    with pytest.raises(MessageTypeError, match="Local, not str"):
        await runtime.ask("worker", "text")


async def test_no_reply_is_taken_from_a_body_that_says_none(runtime, start):
    async def worker(ctx: KernelContext[Request, None]):
        async for _ in ctx:
            await ctx.send(B)

    await start(worker)
    with pytest.raises(KernelFailedError, match="sends NoneType, not Reply"):
        await runtime.ask("worker", A)


# -- classes that are defined again --------------------------------------------------------------------------------


def define_job(annotation=int):
    """The class of a cell that is run again: the same module and qualified name each time."""

    @message
    class Job:
        n: annotation

    return Job


def define_outer(inner):
    @message
    class Outer:
        job: inner

    return Outer


async def test_a_class_that_is_defined_again_with_the_same_fields_is_taken(runtime, start):
    former, latter = define_job(), define_job()
    assert former is not latter
    kernel = await start(echo, input_type=former, output_type=former)
    for cls in (former, latter, define_job(), former):
        assert (await runtime.ask("echo", cls(1))).n == 1
        await runtime.send("echo", cls(2))
        assert (await runtime.receive("echo")).n == 2
    await runtime.send_many("echo", [latter(1), former(2)])
    assert kernel.statistics().received == 10


async def test_a_class_that_is_defined_again_inside_another_is_taken(runtime, start):
    former, latter = (define_outer(define_job()) for _ in range(2))
    await start(echo, input_type=former)
    one = latter(define_job()(1))
    assert await runtime.ask("echo", one) is one


@pytest.mark.parametrize("send", SENDS)
async def test_a_class_that_is_defined_again_with_other_fields_is_refused_with_the_remedy(runtime, start, send):
    former, latter = define_job(int), define_job(str)
    await start(echo, input_type=former)
    with pytest.raises(MessageTypeError) as info:
        await SENDS[send](runtime, "echo", latter("text"))
    text = str(info.value)
    assert "'echo' takes" in text
    assert text.count("Job") >= 2
    assert "defined again with other fields" in text
    assert f"run the definition of 'echo' again (module {__name__})" in text


async def test_running_the_definition_again_takes_the_new_class_and_what_is_queued_stays(runtime, start):
    former, latter = define_job(int), define_job(str)

    def define(cls):
        @ring_kernel
        async def worker(ctx: KernelContext[cls, Any]):
            async for job in ctx:
                await ctx.send(job.n)

    define(former)
    kernel = await runtime.launch("worker")
    await kernel.activate()
    await kernel.deactivate()
    await kernel.send(former(1))
    define(latter)
    await kernel.reactivate()
    while kernel.version < 2:
        await asyncio.sleep(0)
    await kernel.send(latter("text"))
    assert [await kernel.receive(), await kernel.receive()] == [1, "text"]
    with pytest.raises(MessageTypeError, match="defined again"):
        await kernel.send(former(1))


async def test_a_class_of_the_same_name_elsewhere_is_another_class(runtime, start):
    def elsewhere():
        @message
        class Job:
            n: int

        return Job

    await start(echo, input_type=define_job())
    with pytest.raises(MessageTypeError, match=r"not .*elsewhere.*Job"):
        await runtime.send("echo", elsewhere()(1))


async def test_a_plain_class_that_is_defined_again_is_another_class(runtime, start):
    """Nothing tells whether instances of plain classes can stand for one another."""

    def define_plain():
        class Thing:
            pass

        return Thing

    former, latter = define_plain(), define_plain()
    await start(echo, input_type=former)
    with pytest.raises(MessageTypeError, match="'echo'"):
        await runtime.send("echo", latter())
