"""Compile what the tests on a GPU use, before they run, in several processes at once.

    python -m tests.device.warm sm_90 0 8

compiles the first of eight parts into the folder that PYDOTCOMPUTE_CACHE_DIR names.
"""

import inspect
import sys

import numpy as np

from pydotcompute import UnifiedBuffer, ring_kernel
from pydotcompute.device import cuda
from tests.device import steps, stress

OFTEN = (
    (steps.amplify, {"instances": 4, "key": "sensor"}),
    (steps.amplify, {"instances": 10, "key": "sensor"}),
    (steps.amplify, {"instances": 1000, "key": "sensor"}),
    (steps.count, {"instances": 3}),
    (steps.stats, {"instances": 4, "key": "sensor"}),
    (steps.tally, {"instances": 5}),
    (steps.pick, {"boundscheck": True}),
    (steps.weigh, {"buffers": {"weights": UnifiedBuffer((4, 2), np.float64), "uses": UnifiedBuffer(4, np.int64)}}),
    (stress.keyed, {"instances": 132, "key": "key"}),
    (stress.keyed, {"instances": 1056, "key": "key"}),
    (stress.keyed_otherwise, {"instances": 132, "key": "key"}),
    (stress.accumulate, {"threads": 128}),
    (stress.accumulate, {"threads": 128, "instances": 4, "key": "n"}),
    (stress.accumulate, {"threads": 128, "instances": 132, "key": "n"}),
)
"""Beside each step with no options."""


def definitions():
    for module in (steps, stress):
        for step in vars(module).values():
            if inspect.isfunction(step) and list(inspect.signature(step).parameters) == ["state", "msg", "out"]:
                yield step, {}
    yield from OFTEN


def main(arch, part, parts):
    if part == 0:
        cuda._native()  # what runs on the host's side
    for i, (step, options) in enumerate(definitions()):
        if i % parts == part:
            try:
                definition = ring_kernel(f"{step.__name__} {i}", backend="cpu", **options)(step)
            except Exception:  # one of those that no backend takes
                continue
            cuda.compiled(definition, arch)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
