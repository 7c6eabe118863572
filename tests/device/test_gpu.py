"""Ring kernels on a real GPU: the conformance suite, many actors, and what no stand-in can show."""

import asyncio
import math

import numpy as np
import pytest

from pydotcompute import UnifiedBuffer
from pydotcompute.exceptions import BackendUnavailableError, UnifiedBufferError
from tests.device import steps
from tests.device.conformance import ParallelConformance, everything_at_once, numbers, through
from tests.device.steps import Fraction, Number, Quotients, tally_of
from tests.device.stress import Stress

pytestmark = pytest.mark.needs_gpu


@pytest.fixture(scope="module", autouse=True)
def machinery(own_cache):
    """What all kernels share is compiled here, for some seconds, and not in the time of a test."""
    asyncio.run(everything_at_once("cuda", 100))


class TestGpu(ParallelConformance):
    backend = "cuda"
    scale = 0.02
    shares_memory = False


class TestGpuStress(Stress):
    backend = "cuda"
    scale = 0.05
    seen_width = 128


def functions(state: None, msg: Fraction, out: Quotients) -> bool:
    out.real = math.sqrt(msg.a) + math.sin(msg.b)
    out.whole = msg.c % msg.d
    return True


def scale(state: None, msg: Number, out: Number, values, factors) -> bool:
    for i in range(len(values)):
        values[i] = values[i] * factors[msg.n]
    out.n = len(values)
    return True


def device_count():
    from pydotcompute.device.driver import device_count

    return device_count()


class TestOnADevice:
    backend = "cuda"

    async def test_it_is_what_auto_means(self, start):
        kernel = await start(steps.echo, backend="auto")
        assert kernel.definition.backend_name == "cuda"
        assert (await kernel.ask(Number(7))).n == 7

    async def test_a_device_by_its_number(self, start):
        kernel = await start(steps.echo, device=0)
        assert (await kernel.ask(Number(7))).n == 7
        with pytest.raises(BackendUnavailableError, match="GPU"):
            await start(steps.echo, "elsewhere", device=1000)

    async def test_functions_of_the_math_module(self, start):
        kernel = await start(functions)
        reply = await kernel.ask(Fraction(2.0, 1.0, -7, 3))
        assert reply.real == pytest.approx(math.sqrt(2) + math.sin(1), rel=1e-12)
        assert reply.whole == -7 % 3

    async def test_a_buffer_is_lent_and_given_back(self, start):
        values = UnifiedBuffer.from_array(np.arange(100_000, dtype=np.float64))
        factors = UnifiedBuffer.from_array(np.array([1.0, 2.0, 3.0]))
        kernel = await start(scale, buffers={"values": values, "factors": factors}, activate=False)
        await kernel.activate()
        for n in (1, 2):
            assert (await kernel.ask(Number(n))).n == 100_000
        for use in (lambda: values.host, lambda: np.asarray(values), lambda: factors.numpy(), lambda: factors.host):
            with pytest.raises(UnifiedBufferError, match=r"(?s)'scale'.*(deactivate|terminate)"):
                use()
        await kernel.deactivate()
        np.testing.assert_array_equal(values.numpy(), 6.0 * np.arange(100_000))
        values.host[:] = 1.0
        factors.host[0] = 5.0
        await kernel.reactivate()
        assert (await kernel.ask(Number(0))).n == 100_000
        await kernel.terminate()
        np.testing.assert_array_equal(values.host, np.full(100_000, 5.0))

    async def test_two_kernels_use_one_buffer(self, runtime, start):
        values = UnifiedBuffer.from_array(np.ones(1000))
        factors = UnifiedBuffer.from_array(np.array([2.0]))
        for name in ("one", "two"):
            await start(scale, name, buffers={"values": values, "factors": factors})
        for name in ("one", "two", "one"):
            await runtime.ask(name, Number(0))
        await runtime.terminate("one")
        with pytest.raises(UnifiedBufferError, match="'two'"):
            _ = values.host
        await runtime.terminate("two")
        np.testing.assert_array_equal(values.host, np.full(1000, 8.0))

    async def test_cupy_sees_what_a_kernel_wrote(self, start):
        cupy = pytest.importorskip("cupy")
        values = UnifiedBuffer.from_array(np.ones(1000))
        factors = UnifiedBuffer.from_array(np.array([2.0]))
        kernel = await start(scale, buffers={"values": values, "factors": factors})
        await kernel.ask(Number(0))
        await kernel.deactivate()
        on_device = await asyncio.to_thread(lambda: values.device)
        assert isinstance(on_device, cupy.ndarray)
        assert float(on_device.sum()) == 2000.0
        on_device += 1.0
        cupy.cuda.get_current_stream().synchronize()
        await kernel.reactivate()
        await kernel.ask(Number(0))
        await kernel.terminate()
        np.testing.assert_array_equal(values.host, np.full(1000, 6.0))

    async def test_too_many_at_once_are_told_what_to_do(self, start):
        async def fill():
            for i in range(64):
                name = f"strict {i}"
                await start(steps.amplify, name, instances=100_000, key="sensor", threads=32, quantum=None)

        with pytest.raises(BackendUnavailableError, match="too many instances"):
            await fill()

    async def test_more_kernels_than_run_side_by_side(self, runtime, start):
        names = [f"kernel {i}" for i in range(48)]
        for name in names:
            await start(steps.tally, name)
        for n in range(3):
            replies = await asyncio.gather(*(runtime.ask(name, Number(n), 15) for name in names))
            assert [reply.n for reply in replies] == [n] * len(names)

    async def test_on_several_devices(self, runtime, start):
        count = device_count()
        if count < 2:
            pytest.skip("there is one GPU")
        for device in range(count):
            await start(steps.increment, f"on {device}", device=device)
        for device in range(count - 1):
            await runtime.connect(f"on {device}", f"on {device + 1}")
        replies = await through(runtime, "on 0", f"on {count - 1}", 5000, 500)
        np.testing.assert_array_equal(replies["n"], np.arange(5000) + count)

    async def test_the_least_loaded_of_several_devices(self, runtime, start):
        count = device_count()
        if count < 2:
            pytest.skip("there is one GPU")
        for i in range(2 * count):
            await start(steps.tally, f"any {i}", device="auto")
        await asyncio.gather(*(runtime.send_batch(f"any {i}", numbers(range(100))) for i in range(2 * count)))
        for i in range(2 * count):
            await runtime.terminate(f"any {i}")
            assert await runtime[f"any {i}"].snapshot() == tally_of(100)
