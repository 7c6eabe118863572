"""How busy this process is, and the GPUs that ring kernels of a runtime are on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime import RingKernelRuntime

if TYPE_CHECKING:
    from ..device.accelerator import Accelerator

EVERY = 1.0
"""Seconds between two looks: the management library of a GPU takes milliseconds for an answer."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What is known of a GPU now."""

    name: str
    utilisation: float | None
    """The share of the last moment in which any kernel ran, from 0 to 1; None where nobody tells."""
    used: int | None
    """Bytes of its memory that are taken, by whomever; None where nobody tells."""
    memory: int
    """Bytes of its memory."""


class Meters:
    """Reads them at most once in `EVERY` seconds; in between the last reading holds."""

    def __init__(self, runtime: RingKernelRuntime) -> None:
        self._runtime = runtime
        self._read_at = time.monotonic()
        self._cpu_at = time.process_time()
        self._gpus_at = 0.0
        self._found: dict[int, Accelerator] | None = None
        self.cpu: float | None = None
        """Cores that this process kept busy, on average since the last reading: 1.0 is all of one core; None: not
        known yet."""
        self.gpus: tuple[Gpu, ...] = ()
        """Those that have kernels of the runtime."""

    def read(self) -> None:
        """Look again, if it is time to."""
        now = time.monotonic()
        if now - self._read_at >= EVERY:
            cpu = time.process_time()
            self.cpu = (cpu - self._cpu_at) / (now - self._read_at)
            self._read_at, self._cpu_at = now, cpu
        if now - self._gpus_at >= EVERY:
            self._gpus_at = now
            # An engine is there only after a kernel was compiled for a GPU: until then nothing here looks for one.
            engine: Any = self._runtime._engines.get("cuda")
            try:
                self.gpus = tuple(map(self._of, engine.in_use)) if engine is not None else ()
            except Exception:  # noqa: BLE001 - whatever a driver does: the numbers are not there, and all else goes on
                self.gpus = ()

    def _of(self, index: int) -> Gpu:
        if self._found is None:
            from ..device.accelerator import Accelerator

            self._found = {one.index: one for one in Accelerator.all() if one.kind == "cuda"}
        gpu = self._found[index]
        free = gpu.memory_free()
        return Gpu(gpu.name, gpu.utilisation(), None if free is None else gpu.memory - free, gpu.memory)
