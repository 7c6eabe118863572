"""NVIDIA's driver: what is said when it cannot be used, and memory, streams and functions through it."""

import ctypes
import os
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from time import perf_counter

import numpy as np
import pytest

from pydotcompute.device import driver as drivers
from pydotcompute.device import libcuda, toolkit
from pydotcompute.device.driver import CHUNK, SLAB, Driver
from pydotcompute.exceptions import BackendUnavailableError, DeviceError, DeviceMemoryError, PyDotComputeError

from .fake_cuda import GTX, H200, NAMES, install

ROOT = Path(__file__).parents[2]


@pytest.fixture
def library(monkeypatch):
    """``library(H200)``: the driver's library finds these GPUs; all else that it needs is there."""
    return partial(install, monkeypatch)


@pytest.fixture
def cuda(library):
    """The module ``cuda.bindings.driver`` of a machine with an H200."""
    library(H200)
    return sys.modules["cuda.bindings.driver"]


@pytest.fixture
def gpu(cuda):
    return drivers.driver()


# -- whether a GPU can be used -----------------------------------------------------------------------------------------


def test_without_a_driver_it_says_which_one_to_install(library):
    library(library=None)
    assert drivers.unavailable() == (
        "no NVIDIA driver is installed here (libcuda.so.1: no such file): an NVIDIA GPU needs driver 580 or newer, and "
        "a container must be started with `--gpus all`"
    )
    assert drivers.device_count() == 0
    assert libcuda.version() is None
    with pytest.raises(BackendUnavailableError, match="driver 580 or newer"):
        drivers.driver()


def test_with_a_gpu_it_says_nothing(library):
    library(H200, H200)
    assert drivers.unavailable() is None
    assert drivers.device_count() == 2


def test_an_old_driver_is_told_apart_from_the_toolkit(library):
    library(H200, version=12080)
    assert drivers.unavailable() == (
        "the NVIDIA driver is too old: it supports CUDA 12.8, and what compiles for the GPU is of CUDA 13.0: update "
        "the driver to 580 or newer"
    )


@pytest.mark.parametrize("version", [13000, 13010, 14020])
def test_drivers_of_the_toolkits_version_or_newer_will_do(library, monkeypatch, version):
    library(H200, version=version)
    # Within one major version an older driver runs what a newer toolkit has made.
    monkeypatch.setattr(toolkit, "versions", lambda: {"nvjitlink": "13.1.80", "nvvm": "13.1.80"})
    assert drivers.unavailable() is None


@pytest.mark.parametrize("hidden", ["", "-1", "9"])
def test_hidden_gpus_are_found_in_the_environment(library, monkeypatch, hidden):
    library()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert drivers.unavailable() == (
        f"the environment variable CUDA_VISIBLE_DEVICES is {hidden!r}, which hides all GPUs: unset it, or set it to "
        "the numbers that `nvidia-smi` shows, and start Python again"
    )


def test_a_driver_without_a_gpu(library):
    library()
    assert drivers.unavailable() == "an NVIDIA driver is installed, and finds no GPU: look at `nvidia-smi`"


def test_cuda_that_does_not_start_is_explained(library):
    library(H200).init_code = 802
    assert drivers.unavailable() == (
        "CUDA does not start: CUDA_ERROR_SYSTEM_NOT_READY (802): system not yet initialized. The machine is not ready: "
        "on one with NVSwitch, start nvidia-fabricmanager, else look at `nvidia-smi`"
    )


def test_old_gpus_are_refused(library):
    library(GTX)
    assert drivers.unavailable() == (
        "GPU 0 (NVIDIA GeForce GTX 1080) has compute capability 6.1, and ring kernels need 7.5 or newer, such as "
        "Turing, Ampere or Hopper"
    )


def test_an_old_gpu_beside_a_new_one_is_no_hindrance(library):
    library(GTX, H200)
    assert drivers.unavailable() is None
    assert drivers.driver(1).arch == "sm_90"


def test_missing_bindings_name_the_packages(library, monkeypatch):
    library(H200)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    assert f"`{toolkit.PACKAGES}`, and restart the notebook's kernel" in drivers.unavailable()


def test_the_answer_is_kept(library):
    made = library(H200)
    assert drivers.unavailable() is None
    made.gpus = ()
    assert drivers.unavailable() is None


def test_no_context_is_made_to_look_or_to_get_a_driver(cuda):
    gpu = drivers.driver()
    assert (gpu.arch, gpu.index, gpu.gpu.multiprocessors) == ("sm_90", 0, 132)
    assert cuda.calls == []


def test_kernels_are_loaded_at_once_unless_the_user_wants_it_otherwise(library, monkeypatch):
    made = library(H200)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    drivers.unavailable()
    assert made.seen["CUDA_MODULE_LOADING"] == "EAGER"
    assert made.seen["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"


def test_one_driver_for_each_gpu(library):
    library(H200, H200)
    found = []
    threads = [threading.Thread(target=lambda i=i: found.append(drivers.driver(i % 2))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(driver) for driver in found} == {id(drivers.driver(0)), id(drivers.driver(1))}
    assert drivers.driver(1).index == 1


@pytest.mark.parametrize(
    ("gpus", "index", "text"),
    [
        ([H200], 1, "there is no GPU 1: the only one is GPU 0"),
        ([H200, H200], 2, "there is no GPU 2: they are numbered from 0 to 1"),
        ([H200], -1, "there is no GPU -1: the only one is GPU 0"),
    ],
)
def test_a_gpu_that_is_not_there(library, gpus, index, text):
    library(*gpus)
    with pytest.raises(BackendUnavailableError) as caught:
        drivers.driver(index)
    assert str(caught.value) == text


def test_a_forked_process_is_told_that_it_cannot():
    script = """
        import os, sys
        from pydotcompute.device import driver, libcuda, toolkit
        from tests.device.fake_cuda import H200, Bindings, Library

        made = Library(H200)
        libcuda._loaded = lambda: (made, "")
        toolkit.versions = dict
        sys.modules["cuda.bindings.driver"] = Bindings()
        assert driver.unavailable() is None
        driver.driver()
        child = os.fork()
        if child == 0:
            print(driver.unavailable(), flush=True)
            try:
                driver.driver()
            except Exception as error:
                print(type(error).__name__, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    ended = subprocess.run(
        [sys.executable, "-c", dedent(script)], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    text, error = ended.stdout.splitlines()
    assert "multiprocessing.get_context('spawn')" in text
    assert error == "BackendUnavailableError"


# -- errors ------------------------------------------------------------------------------------------------------------


def test_every_failed_call_is_a_device_error_with_its_code(cuda, gpu):
    stream = gpu.stream()
    address = gpu.allocate(64, stream)
    function = gpu.load(b"cubin", "f")
    uses = {
        "cuMemFreeAsync": lambda: gpu.free(address, stream),
        "cuStreamSynchronize": lambda: gpu.read(address, 8, stream),
        "cuMemcpyHtoDAsync": lambda: gpu.write(address, np.zeros(2), stream),
        "cuMemcpyDtoHAsync": lambda: gpu.read(address, 8, stream),
        "cuMemsetD8Async": lambda: gpu.allocate(8, stream),
        "cuModuleLoadData": lambda: gpu.load(b"another", "f"),
        "cuModuleGetFunction": lambda: gpu.load(b"cubin", "g"),
        "cuOccupancyMaxActiveBlocksPerMultiprocessor": lambda: gpu.room(function, 32),
        "cuStreamCreate": gpu.stream,
        "cuCtxPushCurrent": lambda: gpu.free(address, stream),
    }
    for name, use in uses.items():
        cuda.failing = {name: 700}
        with pytest.raises(DeviceError) as caught:
            use()
        assert caught.value.code == 700
        assert str(caught.value).startswith(f"{name} failed: CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory acc")
        assert "boundscheck=True" in str(caught.value)
        assert "restart it" in str(caught.value)
        assert cuda.contexts == []


def test_without_room_on_the_device_it_says_how_much_there_is(cuda, gpu):
    cuda.failing, cuda.free_memory = {"cuMemAllocFromPoolAsync": 2}, 3 << 29
    with pytest.raises(DeviceMemoryError) as caught:
        gpu.allocate(12 << 30, gpu.stream())
    assert isinstance(caught.value, MemoryError)
    assert isinstance(caught.value, PyDotComputeError)
    assert caught.value.code == 2
    assert str(caught.value) == (
        "GPU 0 (NVIDIA H200) has no 12.0 GiB left: 1.5 GiB of 141.0 GiB are free. Use fewer instances, a smaller state "
        "or queue_size, or terminate kernels; free what other libraries keep "
        "(`cupy.get_default_memory_pool().free_all_blocks()`, `torch.cuda.empty_cache()`), or see in `nvidia-smi` "
        "which process has the rest"
    )


def test_without_page_locked_memory_it_says_so(cuda, gpu):
    cuda.failing = {"cuMemHostAlloc": 2}
    with pytest.raises(DeviceMemoryError, match=r"the system gives no 8\.0 MiB of page-locked memory; use a smaller q"):
        gpu.pinned(8 << 20)
    cuda.failing = {}
    assert gpu.pinned(8 << 20).words.size == 1 << 20


def test_codes_in_words(library):
    library(H200)
    driver = drivers.driver()
    assert driver.error_text(2) == "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"
    assert driver.error_text(12345) == "CUDA error 12345"


@pytest.mark.parametrize("code", sorted(libcuda._ADVICE))
def test_advice_follows_the_text_of_the_driver(library, monkeypatch, code):
    monkeypatch.setitem(NAMES, code, ("CUDA_ERROR_OF_A_TEST", "what the driver says"))
    library(H200)
    said, advice = libcuda.explained(code).split(". ", 1)
    assert said == f"CUDA_ERROR_OF_A_TEST ({code}): what the driver says"
    assert len(advice) > 20


# -- contexts and streams ----------------------------------------------------------------------------------------------


def test_a_context_is_current_inside_and_never_after(cuda, gpu):
    with gpu.use():
        assert cuda.contexts == [1000]
        with gpu.use():
            assert cuda.contexts == [1000, 1000]
    with suppress(ZeroDivisionError), gpu.use():
        1 / 0  # noqa: B018
    assert cuda.contexts == []
    assert cuda.named("cuDevicePrimaryCtxRetain") == [[0]]


def test_a_thread_that_is_attached_stays_so(cuda, gpu):
    gpu.attach()
    gpu.attach()
    assert cuda.contexts == [1000]


def test_streams_wait_for_no_other_and_are_used_again(cuda, gpu):
    one, other = gpu.stream(), gpu.stream()
    assert one != other
    assert cuda.named("cuStreamCreate") == [[1], [1]]  # CU_STREAM_NON_BLOCKING
    gpu.end_stream(one)
    assert gpu.stream() == one


# -- memory ------------------------------------------------------------------------------------------------------------


def test_page_locked_memory_is_zeroed_words(gpu):
    pinned = gpu.pinned(24)
    assert (pinned.words.dtype, pinned.words.shape) == (np.int64, (3,))
    assert pinned.words.tolist() == [0, 0, 0]
    assert pinned.device_address == pinned.words.ctypes.data
    pinned.words[:] = 7


@pytest.mark.parametrize("nbytes", [0, -8, 7, 12])
def test_page_locked_memory_of_no_whole_words(gpu, nbytes):
    with pytest.raises(ValueError, match="not a positive multiple of 8"):
        gpu.pinned(nbytes)


def test_page_locked_memory_is_used_again_and_never_given_back(cuda, gpu):
    first = gpu.pinned(10_000)
    at = first.device_address
    first.words[:] = 5
    first.free()
    first.free()  # once is enough
    again, other = gpu.pinned(9_000), gpu.pinned(10_000)
    assert again.device_address == at
    assert not again.words.any()
    assert other.device_address != at
    assert not hasattr(cuda, "_cuMemFreeHost")


def test_small_page_locked_memory_comes_in_slabs(cuda, gpu):
    taken = [gpu.pinned(nbytes) for nbytes in (8, 4096, 5000, 100_000, SLAB // 16)]
    assert [args[0] for args in cuda.named("cuMemHostAlloc")] == [SLAB]
    spans = sorted((pinned.words.ctypes.data, pinned.words.nbytes) for pinned in taken)
    for (at, nbytes), (following, _) in pairwise(spans):
        assert at % 4096 == 0
        assert at + nbytes <= following
    large = gpu.pinned(SLAB + 8)
    assert large.words.nbytes == SLAB + 8
    assert len(cuda.named("cuMemHostAlloc")) == 2
    many = [gpu.pinned(SLAB // 16) for _ in range(20)]
    assert len({pinned.device_address for pinned in many}) == 20


def test_device_memory_is_zeroed(gpu):
    stream = gpu.stream()
    address = gpu.allocate(1000, stream)
    assert address % 256 == 0
    assert not gpu.read(address, 1000, stream).any()
    gpu.free(address, stream)


def test_memory_of_no_bytes_has_an_address_too(gpu):
    stream = gpu.stream()
    address = gpu.allocate(0, stream)
    assert address
    assert gpu.read(address, 0, stream).shape == (0,)
    gpu.write(address, np.empty(0), stream)
    gpu.free(address, stream)


RECORD = np.dtype([("n", np.int32), ("x", np.float64, 3)], align=True)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10, dtype=np.int32),
        np.arange(24.0).reshape(4, 6)[:, ::2],
        np.array(3.5),
        np.array([(1, [1, 2, 3]), (2, [4, 5, 6])], RECORD),
        np.arange(CHUNK + 5, dtype=np.uint8),
        np.arange(CHUNK // 2, dtype=np.int64),
    ],
    ids=["words", "strided", "scalar", "records", "two chunks", "four chunks"],
)
def test_what_is_written_is_read(cuda, gpu, array):
    stream = gpu.stream()
    address = gpu.allocate(array.nbytes, stream)
    gpu.write(address, array, stream)
    data = gpu.read(address, array.nbytes, stream)
    assert (data.dtype, data.shape) == (np.uint8, (array.nbytes,))
    np.testing.assert_array_equal(data.view(array.dtype), array.reshape(-1))
    # Only this stream is waited for, and what is page-locked for the copy is free again.
    assert {args[0] for args in cuda.named("cuStreamSynchronize")} == {stream}
    assert len(cuda.named("cuMemHostAlloc")) <= 2


def test_memory_that_is_freed_does_not_make_streams_wait(cuda, gpu):
    for _ in range(2):
        gpu.allocate(8, gpu.stream())
    _, pool, _ = cuda.named("cuMemAllocFromPoolAsync")[0]
    assert pool.CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES == 0
    assert pool.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD > 0
    assert pool.location.id == 0
    assert len(cuda.named("cuMemPoolCreate")) == 1


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_a_module_is_loaded_once_and_whole(cuda, gpu):
    function = gpu.load(b"cubin", "f")
    assert isinstance(function, int)
    assert gpu.load(b"cubin", "f") == function
    assert gpu.load(b"another", "f") != function
    assert cuda.named("cuModuleLoadData") == [[b"cubin"], [b"another"]]
    assert cuda.named("cuModuleGetFunction")[0][1] == b"f"
    assert cuda.named("cuFuncLoad")[0] == [function]


def test_room_is_that_of_all_multiprocessors(gpu):
    assert gpu.room(gpu.load(b"cubin", "f"), 1024) == 2 * 132


def test_c_functions_have_addresses(gpu):
    assert gpu.launch
    assert gpu.query


# -- on a GPU ----------------------------------------------------------------------------------------------------------

PTX = b"""
.version 6.4
.target sm_75
.address_size 64

.visible .entry double_words(.param .u64 words)
{
    .reg .b32 %i;
    .reg .b64 %at, %at_i, %value;
    ld.param.u64 %at, [words];
    cvta.to.global.u64 %at, %at;
    mov.u32 %i, %tid.x;
    mul.wide.u32 %at_i, %i, 8;
    add.s64 %at, %at, %at_i;
    ld.global.u64 %value, [%at];
    add.s64 %value, %value, %value;
    st.global.u64 [%at], %value;
    ret;
}

// Says in the second word that it is there, and stays until the first one is not 0, or five seconds are over.
.visible .entry stay(.param .u64 words)
{
    .reg .pred %done;
    .reg .b64 %at, %value, %began, %now;
    ld.param.u64 %at, [words];
    cvta.to.global.u64 %at, %at;
    mov.u64 %began, %globaltimer;
    st.relaxed.sys.global.u64 [%at+8], 1;
AGAIN:
    ld.relaxed.sys.global.u64 %value, [%at];
    setp.ne.s64 %done, %value, 0;
    @%done bra END;
    mov.u64 %now, %globaltimer;
    sub.s64 %now, %now, %began;
    setp.gt.s64 %done, %now, 5000000000;
    @%done bra END;
    bra AGAIN;
END:
    st.relaxed.sys.global.u64 [%at+8], 2;
    ret;
}
\0"""


def launch(gpu: Driver, function: int, stream: int, *arguments: int, threads: int = 1) -> None:
    """As the poller does: through the address of the C function."""
    kinds = (ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    entry = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(gpu.launch)
    values = [ctypes.c_int64(value) for value in arguments]
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    with gpu.use():
        assert entry(function, 1, 1, 1, threads, 1, 1, 0, stream, ctypes.addressof(pointers), None) == 0


@pytest.mark.needs_cuda_compiler
@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_the_kernels_of_these_tests_can_be_assembled(arch):
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(1, [f"-arch={arch}"])
    text = PTX.rstrip(b"\0")
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text, len(text), "kernels")
        nvjitlink.complete(handle)
        assert nvjitlink.get_linked_cubin_size(handle) > 0
    finally:
        nvjitlink.destroy(handle)


@pytest.mark.needs_gpu
class TestOnGpu:
    @pytest.fixture
    def gpu(self):
        return drivers.driver()

    @pytest.fixture
    def stream(self, gpu):
        stream = gpu.stream()
        yield stream
        gpu.end_stream(stream)

    def test_device_memory(self, gpu, stream):
        array = np.random.default_rng(0).integers(0, 255, 2 * CHUNK + 17, np.uint8)
        address = gpu.allocate(array.nbytes, stream)
        assert not gpu.read(address, array.nbytes, stream).any()
        gpu.write(address, array, stream)
        np.testing.assert_array_equal(gpu.read(address, array.nbytes, stream), array)
        gpu.free(address, stream)

    def test_a_kernel_is_launched_through_the_c_function(self, gpu, stream):
        words = np.arange(64)
        address = gpu.allocate(words.nbytes, stream)
        gpu.write(address, words, stream)
        launch(gpu, gpu.load(PTX, "double_words"), stream, address, threads=64)
        np.testing.assert_array_equal(gpu.read(address, words.nbytes, stream).view(np.int64), 2 * words)
        gpu.free(address, stream)

    def test_the_gpu_uses_page_locked_memory_in_place(self, gpu, stream):
        pinned = gpu.pinned(8 * 32)
        pinned.words[:] = range(32)
        launch(gpu, gpu.load(PTX, "double_words"), stream, pinned.device_address, threads=32)
        gpu.read(pinned.device_address, 8, stream)  # waits for the stream
        assert pinned.words.tolist() == list(range(0, 64, 2))
        address = pinned.device_address
        pinned.free()
        again = gpu.pinned(8 * 32)
        assert again.device_address == address
        assert not again.words.any()
        again.free()

    def test_room_shrinks_with_the_size_of_blocks(self, gpu):
        function = gpu.load(PTX, "double_words")
        assert gpu.room(function, 32) >= gpu.room(function, 1024) >= gpu.gpu.multiprocessors

    def test_nothing_waits_for_a_kernel_that_stays(self, gpu, stream):
        function, words, data = gpu.load(PTX, "stay"), gpu.pinned(16), np.arange(3 * CHUNK // 8)
        double = gpu.load(PTX, "double_words")
        staying = gpu.stream()
        before = gpu.allocate(data.nbytes, staying)
        gpu.write(before, data, staying)
        launch(gpu, function, staying, words.device_address)
        deadline = perf_counter() + 5
        while words.words[1] == 0:
            assert perf_counter() < deadline, "the kernel has not begun"
        gpu.free(before, staying)  # which takes effect only once the kernel has left
        address = gpu.allocate(data.nbytes, stream)
        gpu.write(address, data, stream)
        launch(gpu, double, stream, address, threads=32)
        found = gpu.read(address, data.nbytes, stream).view(np.int64)
        gpu.free(address, stream)
        gpu.pinned(1000).free()
        assert words.words[1] == 1, "one of these has waited for the kernel"
        assert found[:33].tolist() == [*range(0, 64, 2), 32]
        words.words[0] = 1
        gpu.read(words.device_address, 8, staying)
        assert words.words[1] == 2
        gpu.end_stream(staying)
        words.free()

    def test_more_than_the_device_has(self, gpu, stream):
        with pytest.raises(DeviceMemoryError, match=r"has no 1\.0 PiB left: .* are free"):
            gpu.allocate(1 << 50, stream)
        address = gpu.allocate(1000, stream)  # and all goes on
        gpu.free(address, stream)

    def test_code_that_is_none(self, gpu):
        with pytest.raises(DeviceError) as caught:
            gpu.load(b"no code at all\0", "f")
        assert caught.value.code in (200, 218, 300)
        with pytest.raises(DeviceError) as caught:
            gpu.load(PTX, "nobody")
        assert caught.value.code == 500
        assert "CUDA_ERROR_NOT_FOUND (500)" in str(caught.value)

    def test_the_context_is_the_one_that_other_libraries_use(self, gpu):
        cupy = pytest.importorskip("cupy")
        array = cupy.arange(1000)
        cupy.cuda.get_current_stream().synchronize()
        stream = gpu.stream()
        data = gpu.read(array.data.ptr, array.nbytes, stream).view(np.int64)
        np.testing.assert_array_equal(data, np.arange(1000))
        gpu.end_stream(stream)
