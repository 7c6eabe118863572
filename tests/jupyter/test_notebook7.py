"""The widgets in Notebook 7."""

from __future__ import annotations

import pytest

from tests.jupyter.browser import BLOCK, Lab
from tests.jupyter.gallery import EXHIBITS, SETUP

pytestmark = pytest.mark.needs_browser


def test_widgets_show_the_statistics_go_on_and_act_while_a_cell_blocks(lab: Lab) -> None:
    last = len(EXHIBITS) + 1
    with lab.notebook([SETUP, *(exhibit.source for exhibit in EXHIBITS), BLOCK], app="notebooks") as nb:
        for i in range(last):
            nb.run(i)
            nb.wait_done(i)
        for i, exhibit in enumerate(EXHIBITS, 1):
            before = exhibit.wait_same(nb, i)
            nb.execute(exhibit.change)
            assert exhibit.wait_same(nb, i) != before
        nb.run(last)
        nb.wait_busy(last)
        for i, exhibit in enumerate(EXHIBITS, 1):
            exhibit.use(nb, i)
        nb.wait_busy(last)
        nb.go_on()
        nb.wait_done(last)
