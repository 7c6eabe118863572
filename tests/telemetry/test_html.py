"""Statistics as static HTML."""

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pydotcompute.telemetry import COUNTERS, STATES, KernelStatistics, RuntimeStatistics
from pydotcompute.telemetry.html import STATE_WORDS, duration, kernels_html, runtime_html


def kernel(kernel_id: str = "stats", **fields: object) -> KernelStatistics:
    return replace(KernelStatistics.from_row(kernel_id, np.zeros(1, COUNTERS)[0]), **fields)


def runtime(*kernels: KernelStatistics, **fields: object) -> RuntimeStatistics:
    return replace(RuntimeStatistics({k.kernel_id: k for k in kernels}, 0, None, None), **fields)


class Reader(HTMLParser):
    """The rows of a table as texts; fails on tags that are not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.tags: set[str] = set()
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag != "path":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_a_row_has_the_figures_of_a_kernel():
    stats = kernel(
        state="ACTIVE",
        queue_size=1024,
        queue_depth=12,
        queue_peak=640,
        received=12345,
        processed=12333,
        wait_p50=31e-6,
        wait_p99=95e-6,
        handle_p50=2.1e-6,
        handle_p99=1.5,
        errors=1,
        dead_letters=3,
    )
    head, row = Reader(kernels_html([stats])).rows
    cells = dict(zip(head, row, strict=True))
    assert cells["kernel"] == "stats"
    assert cells["state"] == "active"
    assert cells["queue"] == "12 of 1,024"
    assert cells["peak"] == "640"
    assert cells["received"] == "12,345"
    assert cells["wait p50 / p99"] == "31 / 95 µs"
    assert cells["handle p50 / p99"] == "2.1 µs / 1.5 s"
    assert cells["errors"] == "1"
    assert cells["dead letters"] == "3"


def test_what_users_name_is_text_and_never_markup():
    evil = "<img src=x onerror='alert(1)'>&\""
    reader = Reader(runtime_html(runtime(kernel(evil, waiting_for="<script>"))))
    assert not {"img", "script"} & reader.tags
    assert evil in reader.text
    assert "waiting: <script>" in reader.text


@pytest.mark.parametrize("state", STATES)
def test_each_state_has_a_word_a_shape_and_a_colour(state):
    html = kernels_html([kernel(state=state)])
    assert Reader(html).rows[1][1] == STATE_WORDS[state]
    assert "<path" in html


def test_shapes_tell_active_paused_and_failed_apart():
    shapes = {kernels_html([kernel(state=s)]).partition("<path")[2][:60] for s in ("ACTIVE", "DEACTIVATED", "FAILED")}
    assert len(shapes) == 3


def test_a_version_is_shown_from_the_second_on():
    assert Reader(kernels_html([kernel(version=1)])).rows[1][0] == "stats"
    assert Reader(kernels_html([kernel(version=3)])).rows[1][0] == "stats v3"


def test_what_runs_a_kernel_is_said_where_it_is_known():
    assert Reader(kernels_html([kernel()], {"stats": "cpu ×3", "other": "async"})).rows[1][0] == "stats cpu ×3"
    assert "<b>cpu" not in kernels_html([kernel()], {"stats": "<b>cpu"})
    assert Reader(runtime_html(runtime(kernel()), tags={"stats": "async"})).rows[1][0] == "stats async"


def test_restarts_are_counted():
    head, row = Reader(kernels_html([kernel(restarts=7)])).rows
    assert row[head.index("restarts")] == "7"


def test_the_line_about_the_runtime():
    kernels = [kernel(f"k{i}", state=state) for i, state in enumerate(["ACTIVE", "ACTIVE", "FAILED"])]
    text = Reader(runtime_html(runtime(*kernels, dead_letters=1, loop_lag=0.0021))).text
    assert text.startswith("3 ring kernels")
    assert "2 active · 1 failed" in text
    assert "loop lag: runtime 2.1 ms" in text
    assert "1 dead letter" in text
    assert "notebook" not in text


def test_no_kernels_is_a_line_without_a_table():
    reader = Reader(runtime_html(runtime()))
    assert reader.text == "0 ring kernels"
    assert not reader.rows


def test_limit_is_the_number_of_rows():
    stats = runtime(*[kernel(f"k{i}") for i in range(30)])
    reader = Reader(runtime_html(stats, limit=10))
    assert len(reader.rows) == 11
    assert reader.text.endswith("and 20 more")
    assert len(Reader(runtime_html(stats)).rows) == 31


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (math.nan, "–"),
        (0, "0 ns"),
        (8e-7, "800 ns"),
        (2.06e-6, "2.1 µs"),
        (9.96e-6, "10 µs"),
        (9.995e-4, "1.0 ms"),
        (0.0123, "12 ms"),
        (1.5, "1.5 s"),
        (1234, "1,234 s"),
    ],
)
def test_durations_have_a_unit_that_fits(seconds, text):
    assert duration(seconds) == text
