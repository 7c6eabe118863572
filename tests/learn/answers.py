"""Wrong answers to each exercise, and what has to be said of them: ``{name: [(code, words), ...]}``."""

BODY = "@ring_kernel\nasync def {}(ctx):\n    {}\n"

RECEIPT = "@message\nclass Receipt:\n    text: str\n    total: float\n\n\n"

SAID = (
    "class Said:\n    def __init__(self):\n        self.said = []\n\n\n"
    "@ring_kernel(state=Said)\nasync def collector(ctx):\n    {}\n"
)

SAMPLE = "@message\nclass Sample:\n    sensor: int\n    value: float\n\n\n"

READING = "@message\nclass Sample:\n    station: np.int32\n    hour: np.int32\n    celsius: np.float64\n\n\n"

FROST = (
    READING + "class Frost(Record):\n    hours: Annotated[NDArray[np.int64], Shape(3)]\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef frost(state: Frost, msg: Sample, out: None) -> bool:\n    {}\n"
    "    return False\n"
)

WARMEST = (
    READING + "@message\nclass Warmest:\n    celsius: np.float64\n\n\n"
    "class Window(Record):\n    seen: Annotated[NDArray[np.int64], Shape(3)]\n"
    "    last: Annotated[NDArray[np.float64], Shape(3, 24)]\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef warmest(state: Window, msg: Sample, out: Warmest) -> bool:\n    {}\n"
)

SMOOTH = (
    READING + "import math\n\n\n@message\nclass Smoothed:\n    celsius: np.float64\n\n\n"
    "class Before(Record):\n    seen: np.int64\n    celsius: np.float64\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef smooth(state: Before, msg: Sample, out: Smoothed) -> bool:\n    {}\n"
)

WRONG: dict[str, list[tuple[str, str]]] = {
    "first_actor.1": [
        ("backwards = ...", "nothing yet"),
        ("async def backwards(ctx):\n    async for text in ctx:\n        await ctx.send(text[::-1])", "@ring_kernel"),
        ("def backwards(text):\n    return text[::-1]", "async def backwards(ctx)"),
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
    "messages.1": [
        ("Payment = 'cash'", "has to be a class"),
        ("class Payment:\n    order: object", "`@message`"),
        ("@message\nclass Payment:\n    method: str = 'cash'", "no field `order`"),
        ("@message\nclass Payment:\n    order: object = None\n    method: str = 'cash'", "has a default"),
        ("@message\nclass Payment:\n    order: object\n    method: str", "no default"),
        ("@message\nclass Payment:\n    order: object\n    method: str = 'card'", "'card'"),
        ("@message\nclass Payment:\n    order: object\n    method: str = 'cash'", "is 128"),
    ],
    "messages.2": [
        (RECEIPT + BODY.format("accountant", "async for message in ctx:\n        pass"), "does not answer"),
        (RECEIPT + BODY.format("accountant", "async for message in ctx:\n        await ctx.send(0.0)"), "answers 0.0"),
        (
            RECEIPT
            + BODY.format(
                "accountant",
                "total = 0.0\n    async for message in ctx:\n        if isinstance(message, Receipt):\n"
                "            total += message.total\n        await ctx.send(total)",
            ),
            "also answers receipts",
        ),
        (
            RECEIPT
            + BODY.format(
                "accountant",
                "total = 0.0\n    async for message in ctx:\n        if isinstance(message, Receipt):\n"
                "            total += message.total\n        else:\n            await ctx.send(total)",
            ),
            "takes a number, too",
        ),
        (
            RECEIPT + "@ring_kernel\nasync def accountant(ctx: KernelContext[str, float]):\n    await ctx.receive()",
            "does not take a receipt",
        ),
    ],
    "backpressure.1": [
        ("screen, bank, web = ..., 'block', 'reject'", "screen: nothing yet"),
        ("screen, bank, web = 'drop', 'block', 'reject'", "no strategy 'drop'"),
        ("screen, bank, web = 'drop_newest', 'block', 'reject'", "has moved on"),
        ("screen, bank, web = 'block', 'block', 'reject'", "does not stop"),
        ("screen, bank, web = 'drop_oldest', 'drop_newest', 'reject'", "money is gone"),
        ("screen, bank, web = 'drop_oldest', 'reject', 'reject'", "simply wait"),
        ("screen, bank, web = 'drop_oldest', 'block', 'block'", "told at once"),
    ],
    "backpressure.2": [
        (
            "@ring_kernel(queue_size=1)\nasync def latest(ctx):\n    async for value in ctx:\n        pass",
            "has to wait",
        ),
        (
            "@ring_kernel(queue_size=1, backpressure='reject')\nasync def latest(ctx):\n"
            "    async for value in ctx:\n        pass",
            "is refused",
        ),
        (
            "@ring_kernel(queue_size=1, backpressure='drop_oldest')\nasync def latest(ctx):\n"
            "    async for value in ctx:\n        pass",
            "state=Seen",
        ),
        (
            "class Seen:\n    def __init__(self):\n        self.seen = []\n\n\n"
            "@ring_kernel(queue_size=1, backpressure='drop_newest', state=Seen)\nasync def latest(ctx):\n"
            "    async for value in ctx:\n        ctx.state.seen.append(value)",
            "handled [0]",
        ),
    ],
    "lifecycle.1": [
        ("ways = ['a']", "a text of the letters"),
        ("ways = 'cd'", "a: a paused"),
        ("ways = 'abcd'", "b: what was never"),
        ("ways = 'ad'", "c: what was launched"),
        ("ways = 'ac'", "d: a body"),
        ("ways = 'acde'", "e: what has ended"),
    ],
    "lifecycle.2": [
        ("@ring_kernel\nasync def collector(ctx):\n    async for text in ctx:\n        pass", "state=Said"),
        (SAID.format("async for text in ctx:\n        ctx.state.said.append(text)"), "nobody has stopped it"),
        (SAID.format("async for text in ctx:\n        pass"), "still empty"),
        (
            SAID.format("texts = [text async for text in ctx]\n    ctx.state.said.append(texts)"),
            "noted [['nothing', 'is', 'ever', 'lost']]",
        ),
        (SAID.format("async for text in ctx:\n        await ctx.send(text)"), "nobody asked"),
    ],
    "routing.1": [
        ("thumbnails, sensors, reload = 'any', 'hash', 'broadcast'", "no strategy 'any'"),
        ("thumbnails, sensors, reload = 'round_robin', 'hash', 'broadcast'", "holds up"),
        ("thumbnails, sensors, reload = 'hash', 'hash', 'broadcast'", "who has time"),
        ("thumbnails, sensors, reload = 'least_queue', 'least_queue', 'broadcast'", "none has its mean"),
        ("thumbnails, sensors, reload = 'least_queue', 'hash', 'round_robin'", "not all"),
    ],
    "routing.2": [
        ("temperatures, germany = 3, 'station.de.#'", "is no pattern"),
        ("temperatures, germany = 'station.#.temperature', 'station.de.#'", "also takes `station.de.kiel.sea"),
        ("temperatures, germany = 'station.*.temperature', 'station.de.#'", "does not take `station.de.berlin.temp"),
        ("temperatures, germany = 'station.*.*.temperature', 'station.de.*'", "germany: 'station.de.*' does not take"),
        ("temperatures, germany = 'station.*.*.temperature', 'station.#'", "also takes `station.fr"),
    ],
    "replay.1": [
        (
            "import random\n\n\n"
            + BODY.format("seeded", "async for _ in ctx:\n        await ctx.send(random.randint(1, 6))"),
            "throws are others",
        ),
        (BODY.format("seeded", "async for _ in ctx:\n        await ctx.send(4)"), "that is no die"),
        (BODY.format("seeded", "async for _ in ctx:\n        await ctx.send(0)"), "a die has 1 to 6"),
    ],
    "replay.2": [
        ("handled = 3", "A function is wanted"),
        ("def handled(path, kernel_id):\n    return 0", "not 0"),
        (
            "from pydotcompute import read_log\n\n\ndef handled(path, kernel_id):\n"
            "    return sum(getattr(e, 'priority', 0) > 0 and e.kernel_id == kernel_id for e in read_log(path))",
            "Another one made it fail",
        ),
        (
            "from pydotcompute import read_log\n\n\ndef handled(path, kernel_id):\n"
            "    return sum(type(e).__name__ == 'RecordedEnd' for e in read_log(path))",
            "not 8",
        ),
    ],
    "from_dotnet.1": [
        (SAMPLE + BODY.format("average", "async for sample in ctx:\n        await ctx.send(sample.value)"), "not 1.5"),
        (
            SAMPLE + BODY.format("average", "sample = await ctx.receive()\n    await ctx.send(sample.value)"),
            "Asked Sample",
        ),
    ],
    "from_dotnet.2": [
        (SAMPLE + "def doubled(runtime, kernel_id, sensor, value):\n    return 2 * value", "A coroutine is wanted"),
        (
            SAMPLE + "async def doubled(runtime, kernel_id, sensor, value):\n"
            "    await runtime.send(kernel_id, Sample(sensor, value))\n"
            "    return (await runtime.receive(kernel_id)).value",
            "Called 20 times at once",
        ),
        (
            SAMPLE + "async def doubled(runtime, kernel_id, sensor, value):\n"
            "    return await runtime.ask(kernel_id, Sample(sensor, value))",
            "got Sample",
        ),
    ],
    "compiled.1": [
        (FROST.format("pass"), "it counts 0"),
        (FROST.format("if msg.celsius <= 0:\n        state.hours[msg.station] += 1"), "exactly 0 °C"),
        (FROST.format("state.hours[msg.station + 1] += 1"), "IndexError"),
        (BODY.format("frost", "async for sample in ctx:\n        pass"), "write a step"),
        ("def frost(state, msg, out):\n    return False", "`@ring_kernel` above it"),
        (
            READING + "@ring_kernel(backend='interpreted')\ndef frost(state: None, msg: Sample, out: Sample) -> bool:\n"
            "    return False",
            "reply nothing",
        ),
        (
            READING + "@ring_kernel(backend='interpreted')\ndef frost(state: None, msg: Sample, out: None) -> bool:\n"
            "    return False",
            "annotate `state` with Frost",
        ),
    ],
    "compiled.2": [
        (WARMEST.format("out.celsius = msg.celsius\n    return True"), "as it replies"),
        (WARMEST.format("out.celsius = msg.celsius\n    return False"), "replied 0 times"),
        (
            WARMEST.format(
                "state.last[msg.station, state.seen[msg.station] % 24] = msg.celsius\n"
                "    state.seen[msg.station] += 1\n    out.celsius = max(state.last[msg.station])\n    return True"
            ),
            "and not 0 °C",
        ),
        (
            WARMEST.format(
                "state.last[msg.station, state.seen[msg.station]] = msg.celsius\n"
                "    state.seen[msg.station] += 1\n    return True"
            ),
            "IndexError",
        ),
        (
            READING + "@ring_kernel(backend='interpreted')\ndef warmest(state: None, msg: Sample, out: None) -> bool:\n"
            "    return False",
            "cannot reply",
        ),
    ],
    "compiled.3": [
        ("def smooth(state, msg, out):\n    return True", "`@ring_kernel` above it"),
        (SMOOTH.format("out.celsius = msg.celsius\n    return True"), "no number (NaN), too"),
        (SMOOTH.format("return False"), "replied 0 times"),
        (SMOOTH.format("out.celsius = msg.celsius / 2\n    return not math.isnan(msg.celsius)"), "none before it"),
        (
            SMOOTH.format(
                "out.celsius = (state.celsius + msg.celsius) / 2 if state.seen else msg.celsius\n"
                "    state.seen += 1\n    state.celsius = msg.celsius\n    return not math.isnan(msg.celsius)"
            ),
            "do not count",
        ),
    ],
}
