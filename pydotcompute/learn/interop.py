"""Exercises of the tutorial "Interop: one array, many libraries"."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import Wrong, exercise

_HOUR = np.dtype([("station", np.int32), ("hour", np.int32), ("celsius", np.float32), ("humidity", np.float32)])
_WHY = {
    "h[1:3, ::2]": "its elements are at constant distances from each other",
    "h.T[0]": "to transpose is to exchange two strides",
    "h + 0": "a result of arithmetic is a new array, also that of adding nothing",
    "h[h > 0]": "what a condition picks out is at no constant distances",
    "h.ravel()": "all elements lie in a row already",
    "h[:, :3].ravel()": "between the rows there are elements that do not belong to it",
    "np.asarray(h, dtype=np.float64)": "look at the dtype",
    "records['celsius']": "one field in every record: a stride of a record",
    "np.ascontiguousarray(records['celsius'])": "what lies a record apart is to lie side by side",
    "records[['hour', 'celsius']]": "since NumPy 1.16 it is a dtype with gaps",
}


@exercise(
    "interop.1",
    hints=(
        "Can it be described by an address, a shape and one stride for each dimension, of the same memory?",
        "`np.shares_memory(h, h.T[0])` says it for one of them. The others can be tried in the same way.",
    ),
    solution="""
        answers = {
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
    """,
    after="`ravel` shows it best: the same call is one or the other, by where the elements lie.",
)
def answers(answers: Any) -> None:
    """View or copy."""
    if not isinstance(answers, dict):
        raise Wrong(f"A dict is wanted, from each expression to 'view' or 'copy', not {answers!r}.")
    h, records = np.ones((4, 6), np.float32), np.zeros(5, _HOUR)
    if missing := [one for one in _WHY if answers.get(one, ...) is ...]:
        raise Wrong(f"{len(missing)} of {len(_WHY)} are not answered, {missing[0]!r} is the first.")
    for expression, why in _WHY.items():
        result = eval(expression, {"h": h, "records": records, "np": np})
        kind = "view" if np.shares_memory(result, h) or np.shares_memory(result, records) else "copy"
        said = answers[expression]
        if said not in ("view", "copy"):
            raise Wrong(f"For {expression!r} it says {said!r}: 'view' or 'copy' is wanted.")
        if said != kind:
            raise Wrong(f"{expression} is no {said}: {why}.")


@exercise(
    "interop.2",
    hints=(
        "NumPy's arrays have both methods: whoever holds one can hand the question on.",
        "`return self.picture.__dlpack__(**options)`, and likewise for the device.",
    ),
    solution="""
        class Camera:
            def __init__(self, picture):
                self.picture = picture

            def __dlpack__(self, **options):
                return self.picture.__dlpack__(**options)

            def __dlpack_device__(self):
                return self.picture.__dlpack_device__()
    """,
    after="So does a UnifiedBuffer. PyTorch, JAX and CuPy take such an object as well.",
)
def camera(Camera: Any) -> None:  # noqa: N803 - it is a class
    """An object that goes into `from_dlpack` without a copy."""
    if not isinstance(Camera, type):
        raise Wrong(f"A class is wanted, `class Camera:`, not {Camera!r}.")
    for picture in (np.zeros((3, 4), np.uint8), np.zeros((2, 2, 3), np.float32)[:, ::2]):
        made = Camera(picture)
        for name in ("__dlpack__", "__dlpack_device__"):
            if not hasattr(made, name):
                raise Wrong(f"It has no method `{name}`.")
        device = made.__dlpack_device__()
        if device != (1, 0):
            raise Wrong(f"`__dlpack_device__` says {device!r}: for memory of the host it is (1, 0).")
        try:
            seen = np.from_dlpack(made)
        except (AttributeError, TypeError, ValueError) as error:
            raise Wrong(f"`np.from_dlpack(camera)` fails: {error}. Does `__dlpack__` return a capsule?") from error
        if seen.shape != picture.shape or seen.dtype != picture.dtype:
            raise Wrong(
                f"{picture.dtype} of shape {picture.shape} goes in; {seen.dtype} of shape {seen.shape} comes out."
            )
        picture[...] = 7
        if not (seen == 7).all():
            raise Wrong("The next picture was written, and from_dlpack still has the old one: it was copied.")
        try:
            again = np.from_dlpack(made)
        except (AttributeError, TypeError, ValueError) as error:
            raise Wrong(
                f"The first library gets the picture, and the second one fails: {error}. A capsule can be taken once: "
                "make a new one in each call of `__dlpack__`."
            ) from error
        if not np.shares_memory(again, picture):
            raise Wrong("The first library gets the picture itself, and the second one a copy.")
        try:
            made.__dlpack__(max_version=(1, 0), copy=None)
        except TypeError as error:
            raise Wrong(f"Libraries call it with options, such as `max_version=`: {error}. Take **options.") from error
