"""Buffers beside the arrays of PyTorch, JAX and CuPy, in both directions."""

import numpy as np
import pytest

from pydotcompute import UnifiedBuffer

from .fake_cupy import in_place_of_cupy


def installed(library, monkeypatch):
    # On a GPU, JAX takes most of the memory unless it is told not to, before its first use.
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return pytest.importorskip(library, reason=f"{library} is not installed")


@pytest.mark.needs_interop
class TestOnTheHost:
    @pytest.fixture(autouse=True)
    def no_gpu(self):
        with in_place_of_cupy(None):
            yield

    @pytest.fixture
    def torch(self, monkeypatch):
        return installed("torch", monkeypatch)

    @pytest.fixture
    def jax(self, monkeypatch):
        jax = installed("jax", monkeypatch)
        with jax.default_device(jax.devices("cpu")[0]):
            yield jax

    @pytest.mark.parametrize("way", ["from_dlpack", "asarray", "as_tensor"])
    @pytest.mark.parametrize("key", [np.s_[:], np.s_[1:], np.s_[:, ::2], np.s_[0], np.s_[1:1], np.s_[1, 2, ...]])
    def test_torch_shares_the_memory(self, torch, way, key):
        buf = UnifiedBuffer.from_array(np.arange(6, dtype=np.float32).reshape(2, 3))
        part = buf[key]
        tensor = getattr(torch, way)(part)
        np.testing.assert_array_equal(tensor.numpy(), part.numpy())
        tensor.fill_(9)
        assert np.all(part.host == 9)
        part.host[...] = 5
        assert torch.all(tensor == 5)

    @pytest.mark.parametrize(
        "dtype", [np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float64, np.complex64]
    )
    def test_torch_there_and_back(self, torch, dtype):
        buf = UnifiedBuffer.from_array(np.arange(-3, 3).astype(dtype))
        back = UnifiedBuffer.from_dlpack(torch.from_dlpack(buf))
        assert back.dtype == dtype
        assert back.host.tolist() == buf.host.tolist()
        back.fill(1)
        assert buf.host.tolist() == np.arange(-3, 3).astype(dtype).tolist()

    def test_tensors_that_are_no_plain_arrays(self, torch):
        turned = torch.arange(6).reshape(2, 3).T
        assert UnifiedBuffer.from_dlpack(turned).host.tolist() == [[0, 3], [1, 4], [2, 5]]
        assert UnifiedBuffer.from_dlpack(turned).host.flags.c_contiguous
        with pytest.raises(BufferError, match="detach"):
            UnifiedBuffer.from_dlpack(torch.zeros(3, requires_grad=True))

    def test_torch_is_not_given_what_would_end_the_process(self, torch):
        with pytest.raises(BufferError, match="backwards"):
            torch.from_dlpack(UnifiedBuffer(3)[::-1])

    def test_a_tensor_outlives_the_buffer(self, torch):
        buf = UnifiedBuffer.from_array([1.0, 2.0, 3.0])
        tensor = torch.from_dlpack(buf)
        buf.close()
        del buf
        assert tensor.tolist() == [1, 2, 3]

    def test_copy_from_a_tensor(self, torch):
        buf = UnifiedBuffer((2, 3))
        buf.copy_from(torch.arange(3))
        assert buf.host.tolist() == [[0, 1, 2], [0, 1, 2]]

    @pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int32, np.float32, np.complex64])
    def test_jax_there_and_back(self, jax, dtype):
        buf = UnifiedBuffer.from_array(np.arange(6).reshape(2, 3).astype(dtype))
        for part in (buf, buf[1]):
            array = jax.numpy.from_dlpack(part)
            np.testing.assert_array_equal(np.asarray(array), part.numpy())
            back = UnifiedBuffer.from_dlpack(array + array)
            assert back.dtype == (part.numpy() + part.numpy()).dtype
            np.testing.assert_array_equal(back.host, part.numpy() + part.numpy())

    def test_jax_takes_a_buffer_for_an_array(self, jax):
        buf = UnifiedBuffer.from_array(np.arange(6, dtype=np.float32))
        assert jax.numpy.sum(jax.numpy.asarray(buf)) == 15
        buf.copy_from(jax.numpy.ones(6))
        assert buf.host.tolist() == [1] * 6


@pytest.mark.needs_gpu
class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def cupy(self, monkeypatch):
        return installed("cupy", monkeypatch)

    @pytest.fixture
    def torch(self, monkeypatch):
        torch = installed("torch", monkeypatch)
        if not torch.cuda.is_available():
            pytest.skip("torch is not built for this GPU")
        return torch

    @pytest.fixture
    def jax(self, monkeypatch):
        jax = installed("jax", monkeypatch)
        if jax.default_backend() != "gpu":
            pytest.skip("jax is not built for this GPU")
        return jax

    def test_torch_shares_the_device_side(self, torch):
        buf = UnifiedBuffer((2, 3))
        buf.host[:] = [1, 2, 3]
        tensor = torch.from_dlpack(buf)
        assert tensor.is_cuda
        assert tensor.data_ptr() == buf.device.data.ptr
        tensor += 1
        assert buf.host.tolist() == [[2, 3, 4], [2, 3, 4]]

    def test_work_on_a_stream_of_torch_is_waited_for(self, torch):
        buf = UnifiedBuffer(1 << 24)
        with torch.cuda.stream(torch.cuda.Stream()):
            tensor = torch.from_dlpack(buf)
            for _ in range(100):
                tensor += 1
        assert np.all(buf.numpy() == 100)

    def test_tensors_are_copied_on_the_gpu(self, torch):
        tensor = torch.arange(6, device="cuda", dtype=torch.float32).reshape(2, 3)
        buf = UnifiedBuffer.from_dlpack(tensor)
        assert repr(buf).endswith("newest: device)")
        assert buf.host.tolist() == [[0, 1, 2], [3, 4, 5]]
        buf.copy_from(tensor + 1)
        assert repr(buf).endswith("newest: device)")
        assert buf.host.tolist() == [[1, 2, 3], [4, 5, 6]]

    def test_jax_there_and_back(self, jax):
        buf = UnifiedBuffer(6)
        buf.host[:] = np.arange(6)
        array = jax.numpy.from_dlpack(buf)
        back = UnifiedBuffer.from_dlpack(array + 1)
        assert repr(back).endswith("newest: device)")
        assert back.host.tolist() == [1, 2, 3, 4, 5, 6]

    def test_cupy_and_numba_take_a_buffer_for_an_array_of_the_device(self, cupy):
        buf = UnifiedBuffer.from_array(np.arange(6.0))
        with buf.read_device():
            pass
        assert cupy.asarray(buf).sum() == 15
        from numba import cuda

        cuda.as_cuda_array(buf)[:2] = 7
        assert buf.host.tolist() == [7, 7, 2, 3, 4, 5]
