"""Wrong answers to each exercise, and what has to be said of them: ``{name: [(code, words), ...]}``."""

BODY = "@ring_kernel\nasync def {}(ctx):\n    {}\n"

WRONG: dict[str, list[tuple[str, str]]] = {
    "first_actor.1": [
        ("backwards = ...", "nothing yet"),
        ("async def backwards(ctx):\n    async for text in ctx:\n        await ctx.send(text[::-1])", "@ring_kernel"),
        ("backwards = 'gnir'", "not str"),
        (BODY.format("backwards", "async for text in ctx:\n        await ctx.send(text)"), "not 'gnir'"),
        (BODY.format("backwards", "async for text in ctx:\n        text.backwards()"), "AttributeError"),
        (BODY.format("backwards", "text = await ctx.receive()\n    await ctx.send(text[::-1])"), "Asked 'kernel'"),
    ],
    "first_actor.2": [
        (BODY.format("summing", "async for number in ctx:\n        await ctx.send(number)"), "whose sum is 7"),
        (
            "total = 0\n"
            + BODY.format(
                "summing",
                "global total\n    async for number in ctx:\n        total += number\n        await ctx.send(total)",
            ),
            "share it",
        ),
    ],
}
