"""Wrong answers to each exercise, and what has to be said of them: ``{name: [(code, words), ...]}``."""

BODY = "@ring_kernel\nasync def {}(ctx):\n    {}\n"

RECEIPT = "@message\nclass Receipt:\n    text: str\n    total: float\n\n\n"

SAID = (
    "class Said:\n    def __init__(self):\n        self.said = []\n\n\n"
    "@ring_kernel(state=Said)\nasync def collector(ctx):\n    {}\n"
)

LATEST = (
    "class Seen:\n    def __init__(self):\n        self.seen = []\n\n\n"
    "@ring_kernel(queue_size=1, backpressure='drop_oldest', state=Seen)\nasync def latest(ctx):\n    {}\n"
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

ALARM = "@ring_kernel\nasync def finer(ctx):\n    async for deviation in ctx:\n        {}\n"

PEAK = (
    "@message\nclass Sample:\n    sensor: np.int32\n    value: np.float64\n\n\n"
    "@message\nclass Peak:\n    sensor: np.int32\n    value: np.float64\n\n\n"
    "class Highest(Record):\n    seen: Annotated[NDArray[np.int64], Shape(64)]\n"
    "    highest: Annotated[NDArray[np.float64], Shape(64)]\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef peak(state: Highest, msg: Sample, out: Peak) -> bool:\n    {}\n"
)

COLLECT = (
    "async def collect(runtime, kernel_id, batches):\n    for batch in batches:\n"
    "        await runtime.send_batch(kernel_id, batch)\n    {}\n"
)

EDGE = (
    "@message\nclass Edge:\n    source: np.int32\n    target: np.int32\n    probability: np.float64\n\n\n"
    "class Mended(Record):\n    size: np.int64\n    rank: Annotated[NDArray[np.float64], Shape(64)]\n"
    "    coming: Annotated[NDArray[np.float64], Shape(64)]\n    stuck: np.float64\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef mended(state: Mended, msg: Edge, out: None) -> bool:\n"
    "    if msg.source >= 0 and msg.target >= 0:\n"
    "        state.coming[msg.target] += 0.85 * state.rank[msg.source] * msg.probability\n"
    "    elif msg.source >= 0:\n        {}\n    elif state.size == 0:\n        state.size = msg.target\n"
    "        state.rank[: msg.target] = 1.0 / msg.target\n    else:\n        for vertex in range(state.size):\n"
    "            state.rank[vertex] = {} + state.coming[vertex]\n            state.coming[vertex] = 0.0\n"
    "        {}\n    return False\n"
)
HOME = "def first_shares(names, home):\n    return {}\n"
NEW = "def correction(rank, before, after):\n    return {}\n"
ALL = "(0.15 + 0.85 * state.stuck) / state.size"

COPIES = (
    "def count_copies(accesses):\n    newest, copies = {{'host', 'device'}}, 0\n    for verb, side in accesses:\n"
    "        if {}:\n            copies += 1\n        newest = {}\n    return copies\n"
)
TURN = "def turn(frame, result, picture):\n    {}\n    {}\n    return {}\n"
PUT = "with frame.write_host() as h: h[:] = picture"
MEAN = "float(result.numpy().mean())"
MEANS = (
    "def means(pool, pictures):\n    found = []\n    for number, picture in enumerate(pictures):\n"
    "        buffer = {}\n        buffer.host[:] = picture\n        found.append({})\n        buffer.close()\n"
    "    return found\n"
)

ANSWERS = {
    "h[1:3, ::2]": "view",
    "h.T[0]": "view",
    "h + 0": "copy",
    "h[h > 0]": "copy",
    "h.ravel()": "view",
    "h[:, :3].ravel()": "copy",
    "np.asarray(h, dtype=np.float64)": "copy",
    "records['celsius']": "view",
    "np.ascontiguousarray(records['celsius'])": "copy",
    "records[['hour', 'celsius']]": "view",
}
CAMERA = (
    "class Camera:\n    def __init__(self, picture):\n        self.picture = {}\n"
    "    def __dlpack__({}):\n        return {}\n    def __dlpack_device__(self):\n        return {}\n"
)

PURSE = (
    "class Purse:\n    balance = 100\n\n\n"
    "@ring_kernel(state=Purse)\nasync def purse(ctx):\n    async for want in ctx:\n        {}\n"
)

BALANCE = (
    "@ring_kernel\nasync def balance(ctx):\n    total, seen = 0, set()\n    async for payment in ctx:\n        {}\n"
)

COUNTER = (
    "@ring_kernel(restart='on_failure')\nasync def counter(ctx):\n    total = await ctx.ask('safe', 'load')\n"
    "    async for number in ctx:\n        total += number\n        {}\n"
)

SWAP = (
    "@message\nclass Read:\n    by: str\n\n\n"
    "@message\nclass Swap:\n    by: str\n    expected: int\n    balance: int\n\n\n"
    "class Account:\n    balance = 0\n\n\n"
    "@ring_kernel(state=Account)\nasync def ledger(ctx):\n    async for request in ctx:\n"
    "        if isinstance(request, Swap) and {}:\n            ctx.state.balance = request.balance\n"
    "        await ctx.send(ctx.state.balance)\n\n\n"
    "@ring_kernel\nasync def customer(ctx):\n    async for pay in ctx:\n"
    "        before = await ctx.ask('ledger', Read(''))\n        while True:\n"
    "            wanted = before + pay.euros\n"
    "            found = await ctx.ask('ledger', Swap('', before, wanted))\n            {}\n"
    "        await ctx.send(found)\n"
)

ADD = (
    "class Account:\n    balance = 0\n\n\n"
    "@ring_kernel(state=Account)\nasync def ledger(ctx):\n    async for euros in ctx:\n"
    "        ctx.state.balance += euros\n        await ctx.send(0)\n\n\n"
    "@ring_kernel\nasync def customer(ctx):\n    async for pay in ctx:\n"
    "        await ctx.ask('ledger', pay.euros)\n        {}\n"
)

INTENSITY = "def intensity(m, n, k):\n    return {}"

GATHER = (
    "@message\nclass Question:\n    row: object\n\n\n@message\nclass Answer:\n    row: object\n\n\n"
    "class Small:\n    def __init__(self):\n"
    "        self.weights = np.random.default_rng(5).random((32, 32), dtype=np.float32)\n        self.sizes = []\n\n"
    "    def __call__(self, rows):\n        self.sizes.append(len(rows))\n"
    "        return (rows.astype(np.float32) @ self.weights).astype(np.float16)\n\n\n"
    "@ring_kernel(state=Small)\nasync def gatherer(ctx):\n    async for question in ctx:\n        batch = [question]\n"
    "        while len(batch) < {}:\n            try:\n"
    "                batch.append(await ctx.receive(timeout=0))\n"
    "            except QueueTimeoutError:\n                await asyncio.sleep(0)\n                {}\n"
    "        rows = ctx.state(np.stack([one.row for one in batch]))\n"
    "        for one, row in zip(batch, rows, strict=True):\n            await ctx.send({})\n"
)

WARMEST_OF = (
    "@message\nclass Picture:\n    celsius: Annotated[NDArray[np.float32], Shape(1024)]\n\n\n"
    "@message\nclass Warmest:\n    celsius: np.float32\n\n\n"
    "class Parts(Record):\n    part: Annotated[NDArray[np.float32], Shape(1024)]\n\n\n"
    "@ring_kernel(backend='interpreted'{})\ndef warmest(state: Parts, msg: Picture, out: Warmest) -> bool:\n"
    "    highest = msg.celsius[lane()]\n    highest = {}\n    for i in {}:\n"
    "        highest = max(highest, msg.celsius[i])\n    state.part[lane()] = highest\n    {}\n"
    "    if lane() == 0:\n        for n in range({}):\n            highest = max(highest, state.part[n])\n"
    "        out.celsius = highest\n    return True\n"
)
OWN = "range(lane(), 1024, width())"

FULL = (
    "def bottleneck(runtime):\n    kernels = runtime.statistics().kernels\n"
    "    full = [name for name, kernel in kernels.items() if kernel.queue_depth == kernel.queue_size]\n    {}\n"
)

MEDIAN = (
    "@message\nclass Patch:\n    pixels: Annotated[NDArray[np.uint8], Shape(18, 18)]\n\n\n"
    "@message\nclass Clean:\n    pixels: Annotated[NDArray[np.uint8], Shape(16, 16)]\n\n\n"
    "class Nine(Record):\n    nine: Annotated[NDArray[np.uint8], Shape(9)]\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef median(state: Nine, msg: Patch, out: Clean) -> bool:\n"
    "    for y in range(16):\n        for x in range(16):\n            {}\n    return True\n"
)
SORT = (
    "for n in range(9):\n                value = msg.pixels[{}]\n                place = n\n"
    "                while place > 0 and state.nine[place - 1] > value:\n"
    "                    state.nine[place] = state.nine[place - 1]\n                    place -= 1\n"
    "                state.nine[place] = value\n            out.pixels[y, x] = state.nine[{}]"
)
NEAR = "y + n // 3, x + n % 3"

HISTOGRAM = (
    "@message\nclass Grey:\n    picture: np.int32\n    row: np.int32\n    column: np.int32\n"
    "    grey: Annotated[NDArray[np.uint8], Shape(36, 36)]\n\n\n"
    "class Brightness(Record):\n    pixels: Annotated[NDArray[np.int64], Shape(256)]\n\n\n"
    "@ring_kernel(backend='interpreted')\ndef histogram(state: Brightness, msg: Grey, out: None) -> bool:\n    {}\n"
    "    for y in range({}):\n        for x in range({}):\n            {}\n    return False\n"
)
COUNT = "state.pixels[msg.grey[y, x]] += 1"

STRIPS = (
    "COLUMNS = 4\n\n\n@ring_kernel\nasync def strips(ctx):\n    tiles, following = {{}}, 0\n"
    "    async for tile in ctx:\n        tiles[tile.row, tile.column] = tile.edges\n        {}\n"
)
COMPLETE = "all((following, column) in tiles for column in range(COLUMNS))"
STRIP = "[tiles.pop((following, column)) for column in range(COLUMNS)]"

WRONG: dict[str, list[tuple[str, str]]] = {
    "first_actor.1": [
        ("backwards = ...", "nothing yet"),
        ("async def backwards(ctx):\n    async for text in ctx:\n        await ctx.send(text[::-1])", "@ring_kernel"),
        ("def backwards(text):\n    return text[::-1]", "async def backwards(ctx)"),
        ("backwards = 'gnir'", "not str"),
        ("backwards = lambda text: text[::-1]", "it is a plain function"),
        (BODY.format("backwards", "for text in ctx:\n        await ctx.send(text[::-1])"), "`async for ... in ctx:`"),
        (BODY.format("backwards", "async for text in ctx:\n        await ctx.send(text)"), "not 'gnir'"),
        (BODY.format("backwards", "async for text in ctx:\n        text.backwards()"), "AttributeError"),
        (BODY.format("backwards", "text = await ctx.receive()\n    await ctx.send(text[::-1])"), "Asked 'kernel'"),
    ],
    "first_actor.2": [
        (
            BODY.format(
                "summing", "total = 0\n    async for n in ctx:\n        total += n\n        await ctx.send(str(total))"
            ),
            "the text '3'",
        ),
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
    "memory.1": [
        ("count_copies = ...", "nothing yet"),
        ("count_copies = 3", "A function is wanted"),
        ("def count_copies(accesses):\n    pass", "a number is wanted"),
        ("def count_copies(accesses):\n    return 1", "Nothing is accessed"),
        ("def count_copies(accesses):\n    return 0", "1 copies are needed"),
        ("def count_copies(accesses):\n    return np.int64(0)", "1 copies are needed"),
        (
            COPIES.format("side not in newest", "newest | {side} if verb == 'read' else {side}"),
            "Accesses: change host, overwrite device, read host. It says 2",
        ),
        (COPIES.format("verb != 'overwrite' and side not in newest", "{side}"), "It says 2, and 1"),
        (
            COPIES.format("verb == 'read' and side not in newest", "newest | {side} if verb == 'read' else {side}"),
            "change",
        ),
    ],
    "memory.2": [
        ("turn = ...", "nothing yet"),
        ("turn = 3", "A function is wanted"),
        (
            TURN.format("frame.host[:] = picture", "result.device[:] = frame.device * 2", "float(result.host.mean())"),
            "Turn 2: right, and 4 copies",
        ),
        (TURN.format("frame.host[:] = picture", "result.device[:] = frame.device * 2", MEAN), "Turn 2: right, and 3"),
        (
            TURN.format(PUT, "result.device[:] = frame.device * 2", "float(result.host.mean())"),
            "`result` to the device",
        ),
        (TURN.format(PUT, "with result.write_host() as r: r[:] = 2 * picture", MEAN), "the device is to do that"),
        (
            TURN.format(PUT, "with frame.read_device() as f, result.write_device() as r: r[:2] = f[:2] * 2", MEAN),
            "never written",
        ),
        (TURN.format(PUT, "with frame.read_device() as f, result.write_device() as r: r[:] = f", MEAN), "it returns"),
        (TURN.format(PUT, "with result.read_device() as r: r[:] = 2 * picture", MEAN), "read-only"),
        (TURN.format(PUT, "result.fill(0)", MEAN), "no 'fill'"),
        (TURN.format(PUT, "pass", "2 * picture.mean()"), "does not hold the doubled"),
        (TURN.format(PUT, "pass", "result"), "not the mean"),
    ],
    "memory.3": [
        ("means = ...", "nothing yet"),
        (
            "def means(pool, pictures):\n    all = []\n    for one in pictures:\n"
            "        all.append(pool.empty(one.shape, one.dtype))\n        all[-1].host[:] = one\n"
            "    return [np.mean(one, axis=0) for one in all]",
            "who still holds the others",
        ),
        (MEANS.format("pool.empty(picture.shape, picture.dtype)", "buffer.host[0]"), "who still holds the others"),
        (MEANS.format("pool.empty(picture.shape, picture.dtype)", "np.mean(buffer, axis=1)"), "16 columns"),
        (
            MEANS.format("pool.empty(picture.shape, picture.dtype)", "np.mean(pictures[0], axis=0)"),
            "the means of picture 0",
        ),
        (MEANS.format("pool.empty(picture.shape, picture.dtype)", "np.median(buffer, axis=0)"), "are wrong"),
        (
            MEANS.format("UnifiedBuffer(picture.shape, picture.dtype)", "np.mean(buffer, axis=0)"),
            "no buffer of the pool",
        ),
        ("def means(pool, pictures):\n    return [np.mean(pictures[0], axis=0)]", "Of 12 pictures"),
        ("def means(pool, pictures):\n    return np.mean(pictures, axis=1)", "of type ndarray: a list"),
        ("def means(pool, pictures):\n    return [np.mean(one, axis=0) for one in pictures]", "no buffer of the pool"),
    ],
    "messages.1": [
        (
            "@message\nclass Payment:\n    order: str\n    method: str = 'cash'\n    priority: int = 200\n",
            "the order itself",
        ),
        ("@message\nclass P:\n    n: int\n\n\nPayment = P(3)", "The class itself is wanted"),
        ("Payment = 'cash'", "has to be a class"),
        ("class Payment:\n    order: object", "`@message`"),
        ("@message\nclass Payment:\n    method: str = 'cash'", "no field `order`"),
        (
            "@message\nclass Order:\n    item: str\n\n\n@message\nclass Payment(Order):\n    method: str = 'cash'",
            "a kind of Order",
        ),
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
        (LATEST.format("async for one in ctx:\n        ctx.state.seen = [one]"), "each is to be noted"),
        (
            LATEST.format("async for one in ctx:\n        ctx.state.seen.append(one)\n        await ctx.send(one)"),
            "nobody asked for that",
        ),
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
            "is [0], and [4]",
        ),
        (LATEST.format("async for value in ctx:\n        ctx.state.seen = value"), "is 4, and [4]"),
        (LATEST.format("async for value in ctx:\n        seen.append(value)"), "It failed: NameError"),
        (LATEST.format("ctx.state.seen.append(await ctx.receive())"), "and ended"),
    ],
    "images.1": [
        ("median = ...", "nothing yet"),
        ("def median(patch):\n    return np.median(patch)", "@ring_kernel"),
        (BODY.format("median", "async for patch in ctx:\n        await ctx.send(patch)"), "write a step"),
        (MEDIAN.format("pass").replace("True", "False"), "replied 0 times to 4 patches"),
        (
            MEDIAN.format(
                "total = 0\n            for n in range(9):\n"
                "                total += int(msg.pixels[y + n // 3, x + n % 3])\n"
                "            out.pixels[y, x] = total // 9"
            ),
            "the mean of the nine",
        ),
        (
            MEDIAN.format(
                "for n in range(9):\n                state.nine[n] = msg.pixels[y + n // 3, x + n % 3]\n"
                "            out.pixels[y, x] = state.nine[4]"
            ),
            "the pixels as they came",
        ),
        (MEDIAN.format(SORT.format(NEAR, 5)), "the sixth of the nine"),
        (MEDIAN.format(SORT.format(NEAR, 8)), "the largest of the nine"),
        (MEDIAN.format(SORT.format("y + n // 3 - 1, x + n % 3 - 1", 4)), "one pixel too far"),
        (MEDIAN.format(SORT.format("y + n // 3 + 1, x + n % 3 + 1", 4)), "IndexError"),
        (MEDIAN.format(SORT.format("y + n % 3, x + n % 3", 4)), "the median is"),
        (MEDIAN.format(SORT.format(NEAR, 4)).replace("out: Clean", "out: Patch"), "annotate `out` with Clean"),
        (MEDIAN.format(SORT.format(NEAR, 4)).replace("pixels", "grey"), "Patch has no field `pixels`"),
    ],
    "images.2": [
        ("histogram = ...", "nothing yet"),
        ("histogram = np.bincount", "write `@ring_kernel` above it"),
        (HISTOGRAM.format("pass", 36, 36, COUNT), "those of the margins too"),
        (HISTOGRAM.format("pass", 32, 32, COUNT), "those in the corner"),
        (HISTOGRAM.format("pass", "2, 33", "2, 33", COUNT), "and it counts 5,766"),
        (HISTOGRAM.format("state.pixels[:] = 0", "2, 34", "2, 34", COUNT), "only the last one"),
        (HISTOGRAM.format("pass", "2, 34", "2, 34", "state.pixels[msg.grey[y, x]] = 1"), "and it counts 256"),
        (
            HISTOGRAM.format("pass", "2, 34", "2, 34", "state.pixels[max(1, msg.grey[y, x])] += 1"),
            "have the brightness 0, and it counts 0",
        ),
        (HISTOGRAM.format("pass", "2, 34", "2, 34", COUNT).replace("out: None", "out: Grey"), "out` with None"),
        (
            HISTOGRAM.format("pass", "2, 34", "2, 34", "pass").replace("pixels:", "of:"),
            "annotate `state` with Brightness",
        ),
    ],
    "images.3": [
        ("strips = ...", "nothing yet"),
        ("def strips(tiles):\n    return tiles", "@ring_kernel"),
        (
            HISTOGRAM.format("pass", 36, 36, COUNT).replace("histogram", "strips") + "\n",
            "an async ring kernel is wanted",
        ),
        (STRIPS.format("await ctx.send(tile.edges)"), "of shape (32, 32)"),
        (STRIPS.format(f"while {COMPLETE}:\n            await ctx.send({STRIP})\n            following += 1"), "list"),
        (
            STRIPS.format(
                f"while {COMPLETE}:\n            await ctx.send(np.vstack({STRIP}))\n            following += 1"
            ),
            "(128, 32)",
        ),
        (
            STRIPS.format(
                f"if {COMPLETE}:\n            await ctx.send(np.hstack({STRIP}))\n            following += 1"
            ),
            "sends row 0 and stops",
        ),
        (
            STRIPS.format("following = tile.row\n        if " + COMPLETE + f": await ctx.send(np.hstack({STRIP}))"),
            "it sends row 4, and row 0, which comes before it",
        ),
        (
            STRIPS.format(
                "if len(tiles) == COLUMNS:\n            await ctx.send(np.hstack(list(tiles.values())))\n"
                "            tiles.clear()"
            ),
            "row 0, column 3; row 0, column 2",
        ),
        (
            STRIPS.format(f"while {COMPLETE}:\n            await ctx.send(np.hstack({STRIP}))"),
            "row 1 is complete and is",
        ),
        (STRIPS.format("following = 5 if len(tiles) == 20 else 0"), "row 0 is complete and is the next"),
        (
            STRIPS.format(
                f"if {COMPLETE}:\n            await ctx.send(np.hstack({STRIP.replace('pop(', '__getitem__(')}))"
            ),
            "it sends row 0, again",
        ),
        (STRIPS.format("tiles[tile.row, tile.column + 1]"), "it failed: KeyError"),
        (STRIPS.format("return"), "It has ended before the tile of row 0, column 1"),
        (
            "@message\nclass Grey:\n    grey: object\n\n\n@ring_kernel\n"
            "async def strips(ctx: KernelContext[Grey, None]):\n    async for tile in ctx:\n        pass\n",
            "It takes Grey, and it is sent Edges",
        ),
    ],
    "interop.1": [
        ("answers = ...", "nothing yet"),
        ("answers = ['view']", "A dict is wanted"),
        ("answers = {'h.T[0]': 'view'}", "9 of 10 are not answered"),
        (f"answers = {ANSWERS | {'h + 0': 'a copy'}}", "it says 'a copy'"),
        (f"answers = {dict.fromkeys(ANSWERS, 'view')}", "h + 0 is no view"),
        (f"answers = {dict.fromkeys(ANSWERS, 'copy')}", "h[1:3, ::2] is no copy"),
        (f"answers = {ANSWERS | {'h.ravel()': 'copy'}}", "in a row already"),
        (f"answers = {ANSWERS | {'h[:, :3].ravel()': 'view'}}", "between the rows"),
        (f"""answers = {ANSWERS | {"records[['hour', 'celsius']]": "copy"}}""", "a dtype with gaps"),
    ],
    "interop.2": [
        ("Camera = ...", "nothing yet"),
        ("Camera = np.zeros(3)", "A class is wanted"),
        ("class Camera:\n    def __init__(self, picture): pass", "no method `__dlpack__`"),
        (CAMERA.format("picture", "self, **o", "self.picture", "(1, 0)"), "`np.from_dlpack(camera)` fails"),
        (CAMERA.format("picture", "self, **o", "self.picture.__dlpack__(**o)", "'cpu'"), "it is (1, 0)"),
        (CAMERA.format("picture.copy()", "self, **o", "self.picture.__dlpack__(**o)", "(1, 0)"), "it was copied"),
        (CAMERA.format("picture", "self, **o", "self.picture.T.__dlpack__(**o)", "(1, 0)"), "comes out"),
        (CAMERA.format("picture", "self", "self.picture.__dlpack__()", "(1, 0)"), "with options"),
        (CAMERA.format("picture.__dlpack__()", "self, **o", "self.picture", "(1, 0)"), "the second one fails"),
    ],
    "lifecycle.1": [
        ("ways = 7", "a text of the letters"),
        ("ways = ['a', 'D']", "c: what was launched"),
        ("ways = 'a, c, e'", "d: a body"),
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
            "is [['every', 'page', 'counts']]",
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
    "cluster.1": [
        ("balance = ...", "nothing yet"),
        ("def balance(payments):\n    return sum(p.cents for p in payments)", "balance is a plain function"),
        (BODY.format("balance", "payment = await ctx.receive()\n    await ctx.send(payment.cents)"), "has a loop"),
        (
            BALANCE.format("total += payment.cents\n        await ctx.send(total)"),
            "Payment 3, of 500 cents, came a second time (as a message of its own: somebody has asked twice), and the "
            "balance went from 1250 to 1750",
        ),
        (
            BALANCE.format(
                "if payment.message_id not in seen:\n            seen.add(payment.message_id)\n"
                "            total += payment.cents\n        await ctx.send(total)"
            ),
            "as a message of its own",
        ),
        (
            BALANCE.format(
                "if payment.number in seen:\n            continue\n        seen.add(payment.number)\n"
                "        total += payment.cents\n        await ctx.send(total)"
            ),
            "who has sent it waits. But",
        ),
        (
            BALANCE.format(
                "if payment.cents not in seen:\n            seen.add(payment.cents)\n"
                "            total += payment.cents\n        await ctx.send(total)"
            ),
            "Payment 3 was of the same amount, and is another one",
        ),
        (
            "@ring_kernel\nasync def balance(ctx):\n    total, last = 0, -1\n    async for payment in ctx:\n"
            "        if payment.number > last:\n            last, total = payment.number, total + payment.cents + 1\n"
            "        await ctx.send(total)",
            "is the first one that the first balance gets, and is answered by 501",
        ),
        (
            "@ring_kernel\nasync def balance(ctx):\n    total, last = 0, -1\n    async for payment in ctx:\n"
            "        if payment.number > last:\n            last, total = payment.number, total + payment.cents\n"
            "        await ctx.send(total)",
            "from 500 to 500, not to 750. A larger number was there before",
        ),
        (
            "total, seen = 0, set()\n\n\n@ring_kernel\nasync def balance(ctx):\n    global total\n"
            "    async for payment in ctx:\n        if payment.number not in seen:\n"
            "            seen.add(payment.number)\n            total += payment.cents\n        await ctx.send(total)",
            "Is the sum in a variable outside of the body?",
        ),
        (BALANCE.format("await ctx.send(payment)"), "a number of cents: 500"),
        (
            "@ring_kernel\nasync def balance(ctx: KernelContext[str, int]):\n    async for _ in ctx:\n"
            "        await ctx.send(0)",
            "It takes str, and gets payments",
        ),
    ],
    "cluster.2": [
        ("counter = ...", "nothing yet"),
        (
            COUNTER.format("await ctx.tell('safe', total)\n        await ctx.send(total)").replace(
                "(restart='on_failure')", ""
            ),
            "no policy",
        ),
        (COUNTER.format("await ctx.send(total)"), "told to the safe last is 0"),
        (COUNTER.format("await ctx.tell('safe', number)\n        await ctx.send(total)"), "told to the safe last is 7"),
        (COUNTER.format("await ctx.send(total)\n        await ctx.tell('safe', total)"), "before that was in the safe"),
        (
            "class Sum:\n    total = 0\n\n\n"
            "@ring_kernel(restart='on_failure', keep_state=True, state=Sum)\nasync def counter(ctx):\n"
            "    async for number in ctx:\n        ctx.state.total += number\n"
            "        await ctx.tell('safe', ctx.state.total)\n        await ctx.send(ctx.state.total)",
            "Its node was lost when the sum was 10: at a sum of 10 it got 3, and replied 3, not 13",
        ),
        (
            "total = 0\n\n\n@ring_kernel(restart='on_failure')\nasync def counter(ctx):\n    global total\n"
            "    async for number in ctx:\n        total += number\n        await ctx.tell('safe', total)\n"
            "        await ctx.send(total)",
            "replied 22, not 1005. Is the sum in a variable outside of the body?",
        ),
        (COUNTER.format("await ctx.ask('safe', total)\n        await ctx.send(total)"), "does not answer"),
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
    "pagerank.1": [
        ("first_shares = ...", "nothing yet"),
        ("first_shares = {'Ada': 0.15}", "A function is wanted"),
        (HOME.format("home"), "no dict"),
        (HOME.format("{name: 0.15 / len(names) for name in names}"), "nobody begins anew"),
        (HOME.format("{home: 1.0}"), "only 15 % begin anew"),
        (HOME.format("{home: 0.85}"), "add up to 5.667"),
        (HOME.format("{home: 0.15 / len(names)}"), "not to 1"),
        (HOME.format("{'home': 0.15}"), "nobody is called so"),
        (HOME.format("{home: '15 %'}"), "which is no number"),
    ],
    "pagerank.2": [
        ("mended = ...", "nothing yet"),
        ("def mended(state, msg, out): ...", "plain function"),
        (EDGE.format("pass", "0.15 / state.size", "state.stuck = 0.0"), "what is stuck leaks away"),
        (
            EDGE.format(
                "state.stuck += state.rank[msg.source]", "(0.15 + state.stuck) / state.size", "state.stuck = 0"
            ),
            "too, only 85 % go on",
        ),
        (EDGE.format("state.stuck += state.rank[msg.source]", ALL, "pass"), "After 2 rounds"),
        (EDGE.format("state.stuck = state.rank[msg.source]", ALL, "state.stuck = 0"), "right would be"),
        (
            EDGE.format("state.coming[msg.source] += 0.85 * state.rank[msg.source]", "0.15 / state.size", "pass"),
            "as they should, but",
        ),
        (EDGE.format("state.coming[msg.target + 900] += 1", "0.15 / state.size", "pass"), "It failed"),
    ],
    "pagerank.3": [
        ("correction = ...", "nothing yet"),
        ("def correction(rank, before, after):\n    pass", "no dict"),
        (NEW.format("{name: 0.85 * rank * share for name, share in after.items()}"), "is not taken back"),
        (NEW.format("{name: -0.85 * rank * share for name, share in before.items()}"), "is taken back than sent"),
        (
            NEW.format("{name: rank * (after.get(name, 0) - before.get(name, 0)) for name in before | after}"),
            "settles at",
        ),
        (NEW.format("{name: 0.85 * rank * (after[name] - before.get(name, 0)) for name in after}"), "Eva has links to"),
        (NEW.format("{}"), "Dia has links to Eva"),
    ],
    "supervision.1": [
        ("options = 'on_failure'", "A `dict` of options"),
        ("options = {}", "its last"),
        ("options = dict(max_restarts=100)", "restart='on_failure'"),
        ("options = dict(restart='on_failure', max_restarts=100, backoff=None, keep_state=True)", "next line"),
        ("options = dict(restart='on_failure', max_retries=1, backoff=None, keep_state=True)", "after 3 restarts"),
        ("options = dict(restart='on_failure', max_retries=1, max_restarts=100, keep_state=True)", "waiting"),
        ("options = dict(restart='on_failure', max_retries=1, max_restarts=100, backoff=None)", "forgotten"),
    ],
    "supervision.2": [
        ("bodies, lines = '5', 3", "a number is wanted"),
        ("bodies, lines = 5, 4", "is too many"),
        ("bodies, lines = 4, 3", "number of restarts"),
        ("bodies, lines = 10, 5", "not 10"),
        ("bodies, lines = 5, 5", "handed out once more"),
        ("bodies, lines = 5, 2", "a line, too"),
    ],
    "supervision.3": [
        ("def protect(runtime):\n    pass", "A coroutine"),
        ("async def protect(runtime):\n    pass", "expected number 3 and got number 1"),
        (
            "async def protect(runtime):\n    await runtime.supervise('numberer', 'checker', strategy='one_for_one')",
            "expected number 3 and got number 1",
        ),
        (
            "async def protect(runtime):\n"
            "    await runtime.supervise('numberer', 'checker', 'clock', strategy='one_for_all')",
            "lost its count",
        ),
        ("async def protect(runtime):\n    await runtime.supervise('reader')", "It raised KernelNotFoundError"),
    ],
    "tour.1": [
        (
            ALARM.format("if abs(deviation.spreads) >= 3:\n            await ctx.send(deviation)"),
            "At 3 spreads there is an alarm",
        ),
        (
            ALARM.format("if abs(deviation.celsius - deviation.expected) > 3:\n            await ctx.send(deviation)"),
            "there is an alarm",
        ),
        (
            ALARM.format("if abs(deviation.spreads) > 3:\n            await ctx.tell('nobody', deviation)"),
            "is to reply",
        ),
        ("def finer(deviation):\n    return abs(deviation.spreads) > 3", "async def finer(ctx)"),
        (ALARM.format("if deviation.spreads > 3:\n            await ctx.send(deviation)"), "At -3.1 spreads"),
        (
            ALARM.format("if abs(deviation.spreads) > 5:\n            await ctx.send(deviation)"),
            "At 3.5 spreads there is no",
        ),
        (ALARM.format("await ctx.send(deviation)"), "At 0.5 spreads there is an alarm"),
        (
            ALARM.format("if abs(deviation.spreads) > 3:\n            await ctx.send(deviation.spreads)"),
            "replies with 3.5",
        ),
        (BODY.format("finer", "deviation = await ctx.receive()\n    await ctx.send(deviation)"), "has ended"),
        (ALARM.format("await ctx.send(deviation.spread)"), "AttributeError"),
        (
            "@ring_kernel\nasync def finer(ctx: KernelContext[str, str]):\n    async for line in ctx:\n        pass",
            "It takes str",
        ),
    ],
    "tour.2": [
        ("sent = '31'", "A number is wanted"),
        ("sent = 32", "is too many"),
        ("sent = 30", "nowhere else"),
        ("sent = 32", "is paused"),
        ("sent = 10", "through two"),
        ("sent = 1024", "another number"),
    ],
    "from_cupy_numba.1": [
        ("def peak(state, msg, out):\n    return True", "`@ring_kernel` above it"),
        (PEAK.format("return False"), "replied 0 times"),
        (PEAK.format("out.sensor, out.value = msg.sensor, msg.value\n    return True"), "to all 600 values"),
        (
            PEAK.format(
                "if msg.value <= state.highest[msg.sensor]:\n        return False\n"
                "    state.highest[msg.sensor] = msg.value\n    out.sensor, out.value = msg.sensor, msg.value\n"
                "    return True"
            ),
            "replied 0 times",
        ),
        (
            PEAK.format(
                "state.seen[msg.sensor] += 1\n"
                "    if state.seen[msg.sensor] > 1 and msg.value < state.highest[msg.sensor]:\n        return False\n"
                "    state.highest[msg.sensor] = msg.value\n    out.sensor, out.value = msg.sensor, msg.value\n"
                "    return True"
            ),
            "a peak is higher",
        ),
        (
            PEAK.format(
                "state.seen[msg.sensor] += 1\n"
                "    if state.seen[msg.sensor] > 1 and msg.value <= state.highest[msg.sensor]:\n        return False\n"
                "    state.highest[msg.sensor] = msg.value\n    out.value = msg.value\n    return True"
            ),
            "has `sensor` 0",
        ),
    ],
    "from_cupy_numba.2": [
        ("def collect(runtime, kernel_id, batches):\n    pass", "A coroutine is wanted"),
        (COLLECT.format("return await runtime[kernel_id].snapshot()"), "it did not wait"),
        (COLLECT.format("return await runtime.wait_idle(kernel_id)"), "returns None"),
        (
            "async def collect(runtime, kernel_id, batches):\n    await runtime.send_batch(kernel_id, batches[0])\n"
            "    await runtime.wait_idle(kernel_id)\n    return await runtime[kernel_id].snapshot()",
            "knows of 3",
        ),
        (
            "async def collect(runtime, kernel_id, batches):\n    for batch in batches:\n"
            "        runtime.send_batch(kernel_id, batch)\n    await runtime.wait_idle(kernel_id)\n"
            "    return await runtime[kernel_id].snapshot()",
            "knows of 0",
        ),
    ],
    "from_cupy_numba.3": [
        ("image, root, meters = 'gpu', 'call', 'ring'", "not 'gpu'"),
        ("image, root, meters = 'ring', 'call', 'ring'", "as one array"),
        ("image, root, meters = 'launch', 'ring', 'ring'", "before there is a next"),
        ("image, root, meters = 'launch', 'call', 'launch'", "outlives them"),
    ],
    "tracing.1": [
        ("order = 3", "A list of six names"),
        ("order = ['Bob', 'Alice', 'Carol', 'Bob']", "two turns"),
        ("order = ['Alice', 'Alice', 'Bob', 'Bob', 'Carol', 'Carol']", "70 euros are left"),
        ("order = ['Carol', 'Bob', 'Bob', 'Alice', 'Alice', 'Carol']", "40 euros are left"),
        ("order = ['Alice', 'Alice', 'Bob', 'Carol', 'Carol', 'Bob']", "30 euros are left"),
    ],
    "tracing.2": [
        (
            PURSE.format("ctx.state.balance -= want.euros\n        await ctx.send(want.euros)"),
            "wanted 70, and it paid 70",
        ),
        (
            PURSE.format(
                "ctx.state.balance -= want.euros\n        await ctx.send(want.euros if ctx.state.balance >= 0 else 0)"
            ),
            "wanted 40, and it paid 0",
        ),
        (
            PURSE.format(
                "paid = min(want.euros, ctx.state.balance)\n        ctx.state.balance -= paid\n"
                "        await ctx.send(paid)"
            ),
            "wanted 70, and it paid 40",
        ),
        (
            PURSE.format(
                "paid = want.euros if want.euros < ctx.state.balance else 0\n        ctx.state.balance -= paid\n"
                "        await ctx.send(paid)"
            ),
            "wanted 40, and it paid 0",
        ),
        (
            PURSE.format(
                "if want.euros <= ctx.state.balance:\n            ctx.state.balance -= want.euros\n"
                "            await ctx.send(want.euros)"
            ),
            "does not answer",
        ),
    ],
    "tracing.3": [
        (SWAP.format("True", "break"), "20 were lost"),
        (SWAP.format("request.expected == ctx.state.balance", "break"), "were lost"),
        (
            SWAP.format(
                "request.expected == ctx.state.balance", "before = found\n            if found == wanted: break"
            ),
            "were lost",
        ),
        (SWAP.format("request.expected == ctx.state.balance", "pass"), "they are not done"),
        (
            SWAP.format("request.expected == ctx.state.balance", "break").replace("(state=Account)", ""),
            "no attribute 'balance'",
        ),
        (SWAP.format("True", "break").replace("await ctx.ask('ledger', Read(''))", "0"), "29 were lost"),
        (ADD.format("break"), "has ended"),
        (ADD.format("await ctx.send(1)"), "that is the till"),
        (ADD.format("pass"), "one reply for each"),
    ],
    "tensor_cores.1": [
        ("dot = 3", "A function is wanted"),
        ("def dot(a, b):\n    return a * b", "a single number"),
        ("def dot(a, b):\n    return a @ b", "not 5001"),
        ("def dot(a, b):\n    return np.float32(a @ b)", "not 5001"),
        ("def dot(a, b):\n    return (a * b).sum(dtype=np.float32)", "infinite in float16"),
        ("def dot(a, b):\n    return a.astype(float) @ b.astype(float)", "but a float64"),
    ],
    "tensor_cores.2": [
        ("intensity = 2", "A function is wanted"),
        ("def intensity(m, n, k):\n    pass", "not a number"),
        (INTENSITY.format("m * n * k / (2 * (m * n + n * k) + 4 * m * k)"), "an addition is an operation"),
        (INTENSITY.format("2 * m * n * k / (2 * (m * n + n * k))"), "the result goes through memory"),
        (INTENSITY.format("2 * m * n * k / (2 * (m * n + n * k + m * k))"), "the result is float32"),
        (INTENSITY.format("2 * m * n * k / (4 * (m * n + n * k + m * k))"), "the factors are float16"),
        (INTENSITY.format("2 * m * n * k / (m * n + n * k + m * k)"), "operations per number"),
        (INTENSITY.format("(2 * (m * n + n * k) + 4 * m * k) / (2 * m * n * k)"), "bytes per operation"),
    ],
    "tensor_cores.3": [
        ("class Question:\n    pass\n\n\ngatherer = ...", "nothing yet"),
        (GATHER.format("16", "break", "one.reply(Answer, row=row)").replace("state=Small", ""), "not a `Small`"),
        (GATHER.format("1", "break", "one.reply(Answer, row=row)"), "multiplied 40 times"),
        (GATHER.format("64", "break", "one.reply(Answer, row=row)"), "40 rows at once"),
        (GATHER.format("16", "break", "Answer(row)"), "which question it answers"),
        (GATHER.format("16", "break", "one.reply(Answer, row=rows[0])"), "gives the answer to another one"),
        (GATHER.format("16", "break", "one.reply(Answer, row=row[:3])"), "an `Answer` with a `row`"),
        (GATHER.format("16", "break", "one.answer(row)"), "AttributeError"),
        (
            GATHER.format("16", "break", "one.reply(Answer, row=row)").replace("timeout=0", ""),
            "Does it wait for others",
        ),
        (GATHER.format("16", "break", "batch[-1].reply(Answer, row=row)"), "40 questions were waiting, and 37 got no"),
    ],
    "gpu.1": [
        (
            WARMEST_OF.format(", threads=64", "highest", OWN, "barrier()", "width()").replace(", threads=64", ""),
            "threads=256",
        ),
        (
            WARMEST_OF.format(", threads=64", "highest", OWN, "", "width()"),
            "Thread 0 reads `state.part[1]`, and thread 1 writes it",
        ),
        (WARMEST_OF.format(", threads=64", "0.0", OWN, "barrier()", "width()"), "replies 0 °C"),
        (WARMEST_OF.format(", threads=64", "highest", OWN, "barrier()", "64"), "replies 0 °C"),
        (
            WARMEST_OF.format(", threads=64", "highest", OWN, "if lane() == 0:\n        barrier()", "width()"),
            "Thread 0 waits at a barrier to which thread 1 does not come",
        ),
        (
            WARMEST_OF.format(", threads=64", "highest", "range(1024)", "barrier()", "width()"),
            "one of 32 threads looks at 1025 cells",
        ),
        (
            WARMEST_OF.format(", threads=64", "highest", "range(lane(), 1000, width())", "barrier()", "width()"),
            "and the warmest cell has -2 °C",
        ),
        (
            WARMEST_OF.format(", threads=64", "highest", OWN, "barrier()", "width()").replace(
                "if lane() == 0:", "if True:"
            ),
            "Thread 0 writes `out.celsius`, and thread 1 writes it",
        ),
        (
            WARMEST_OF.format(", threads=64", "highest", OWN, "barrier()", "width()").replace(
                "part[lane()] =", "part[0] ="
            ),
            "`state.part[0]`",
        ),
        (
            WARMEST_OF.format(", threads=64", "highest", OWN, "barrier()", "width()").replace(
                "return True", "return False"
            ),
            "no reply",
        ),
    ],
    "gpu.2": [
        ("wide, narrow = 2, 5", "on one multiprocessor"),
        ("wide, narrow = 396, 660", "one by one"),
        ("wide, narrow = 1056, 660", "but not their registers"),
        ("wide, narrow = 384, 660", "lie on two"),
        ("wide, narrow = 264, 528", "narrow: 528 it is not"),
    ],
    "dashboards.1": [
        ("shortest_first = 3", "A function is wanted"),
        ("def shortest_first(kernel):\n    sorted(kernel.queue(), key=lambda one: one.message.crates)", "as before"),
        (
            "def shortest_first(kernel):\n"
            "    crates = [one.message.crates for one in kernel.queue()]\n"
            "    if crates:\n        kernel.move(crates.index(min(crates)), to=0)",
            "Now their order is 1, 7, 3",
        ),
        (
            "def shortest_first(kernel):\n"
            "    for place in range(kernel.queue_depth):\n"
            "        crates = [one.message.crates for one in kernel.queue()]\n"
            "        kernel.move(max(range(place, len(crates)), key=lambda i: crates[i]), to=place)",
            "Now their order is 18, 12, 9",
        ),
        ("def shortest_first(kernel):\n    kernel.discard()", "only their order is to change"),
        (
            "def shortest_first(kernel):\n"
            "    ships = sorted((one.message for one in kernel.queue()), key=lambda ship: -ship.crates)\n"
            "    for ship in ships:\n        kernel.discard()\n    for ship in ships:\n        kernel.inject(ship)",
            "discarded, and others",
        ),
        ("async def shortest_first(kernel):\n    await kernel.reactivate()", "is not paused"),
    ],
    "dashboards.2": [
        ("bottleneck = 'harbour'", "A function is wanted"),
        ("def bottleneck(runtime):\n    return 'harbour'", "None is wanted"),
        (FULL.format("return full"), "One id is wanted"),
        (FULL.format("return full[0] if full else None"), "It says 'sea'"),
        (
            FULL.format("return max(full, key=lambda name: kernels[name].queue_depth) if full else None"),
            "It says 'sea'",
        ),
        (FULL.format("return 'harbour' if full else None"), "sea, pilot, harbour, office are full"),
        ("def bottleneck(runtime):\n    pass", "It says None"),
    ],
}
