"""What every live widget has to do in JupyterLab; one notebook shows them all.

The tests go through the life of that notebook in the order in which they stand here; each takes it on to where it
begins, so any of them can be run alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.jupyter.browser import BLOCK, Lab, Notebook, Site
from tests.jupyter.gallery import EXHIBITS, SETUP, Exhibit

pytestmark = pytest.mark.needs_browser
each = pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)

CELLS = [SETUP, *(exhibit.source for exhibit in EXHIBITS), BLOCK]
FIRST, LAST = 1, len(EXHIBITS)
MOVES = """(root) => [...root.querySelectorAll("*")].flatMap((el) => {
    const {transitionDuration, animationName} = getComputedStyle(el);
    const still = animationName === "none" && transitionDuration.split(", ").every((time) => time === "0s");
    return still ? [] : [`${el.outerHTML.slice(0, 80)}: ${transitionDuration} ${animationName}`];
})"""


class Course:
    """The notebook, and how far it has come."""

    def __init__(self, lab: Lab, nb: Notebook) -> None:
        self.lab, self.nb = lab, nb
        self._to_come: dict[str, Callable[[], None]] = {
            "shown": self._show,
            "blocked": self._block,
            "free": self._free,
            "closed": self._close,
            "restarted": nb.restart_kernel,
            "run again": self._show,
            "reloaded": nb.reload,
        }

    def reach(self, stage: str) -> None:
        while stage in self._to_come:
            passed = next(iter(self._to_come))
            self._to_come.pop(passed)()

    def _show(self) -> None:
        for i in range(LAST + 1):
            self.nb.run(i)
            self.nb.wait_done(i)

    def _block(self) -> None:
        self.nb.run(LAST + 1)
        self.nb.wait_busy(LAST + 1)

    def _free(self) -> None:
        self.nb.go_on()
        self.nb.wait_done(LAST + 1)

    def _close(self) -> None:
        self.nb.execute("\n".join(["await work(7)", "await runtime.close()", *(exhibit.end for exhibit in EXHIBITS)]))
        for exhibit in EXHIBITS:  # the last picture has come into the notebook
            self.nb.page.wait_for_function(
                """([i, words]) => window.jupyterapp.shell.currentWidget.content.widgets[i].model.outputs.toJSON()
                    .some(({data}) => data?.["text/html"]?.includes?.(words))""",
                arg=[FIRST + EXHIBITS.index(exhibit), exhibit.says],
            )
        self.nb.save()

    # -- one widget ----------------------------------------------------------------------------------------------------

    def output(self, exhibit: Exhibit) -> Any:
        output = self.nb.output(FIRST + EXHIBITS.index(exhibit))
        output.scroll_into_view_if_needed()
        return output

    def status(self, exhibit: Exhibit, text: str) -> None:
        """Wait for what it says of itself."""
        self.nb.expect(self.output(exhibit).locator(".pdc-live")).to_contain_text(text)

    def same(self, exhibit: Exhibit) -> Any:
        """Wait until it shows what is true, which is returned."""
        return exhibit.wait_same(self.nb, FIRST + EXHIBITS.index(exhibit))


@pytest.fixture(scope="module")
def course(lab: Lab) -> Iterator[Course]:
    with lab.notebook(CELLS) as nb:
        yield Course(lab, nb)


@each
def test_it_shows_what_the_statistics_say_and_goes_on(course: Course, exhibit: Exhibit) -> None:
    course.reach("shown")
    course.status(exhibit, "live")
    before = course.same(exhibit)
    course.nb.execute(exhibit.change)
    assert course.same(exhibit) != before


@each
def test_its_buttons_act_while_a_cell_blocks(course: Course, exhibit: Exhibit) -> None:
    course.reach("blocked")
    exhibit.use(course.nb, FIRST + EXHIBITS.index(exhibit))
    course.nb.wait_busy(LAST + 1)


@each
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(course: Course, exhibit: Exhibit, dark: bool) -> None:
    course.reach("free")
    course.nb.set_dark(dark)
    course.output(exhibit)
    assert course.nb.axe(f".jp-Cell:nth-of-type({FIRST + EXHIBITS.index(exhibit) + 1}) .pydotcompute") == []


@each
def test_nothing_moves_for_who_prefers_it_still(course: Course, exhibit: Exhibit) -> None:
    course.reach("free")
    course.nb.page.emulate_media(reduced_motion="reduce")
    assert course.output(exhibit).locator(".pydotcompute").evaluate(MOVES) == []
    course.nb.page.emulate_media(reduced_motion="no-preference")


@each
def test_it_says_that_what_it_shows_is_over(course: Course, exhibit: Exhibit) -> None:
    course.reach("closed")
    course.status(exhibit, exhibit.over)
    for button, _, _ in exhibit.press:
        if "button" in button:
            course.nb.expect(course.output(exhibit).locator(button)).to_be_disabled()


@pytest.fixture(scope="module")
def untrusted(course: Course) -> Iterator[Notebook]:
    """The notebook as somebody else gets it: JupyterLab has not seen these outputs before, and there is no kernel."""
    course.reach("closed")
    saved = json.loads(course.nb.path.read_text())
    saved["metadata"]["title"] = "from somebody else"  # it was signed for what it was
    with course.lab.notebook(course.lab.server.write(saved)) as nb:
        assert nb.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.widgets[0].model.trusted") is False
        yield nb


@each
def test_an_untrusted_notebook_shows_the_last_picture(untrusted: Notebook, exhibit: Exhibit) -> None:
    output = untrusted.output(FIRST + EXHIBITS.index(exhibit))
    output.scroll_into_view_if_needed()
    untrusted.expect(output.get_by_text(exhibit.says).first).to_be_visible()


@pytest.fixture(scope="module")
def exported(course: Course) -> Iterator[Site]:
    """The notebook as a page, by nbconvert, without a network."""
    from nbconvert import HTMLExporter

    course.reach("closed")
    page, _ = HTMLExporter().from_filename(course.nb.path)
    path = course.nb.path.with_suffix(".html")
    path.write_text(page, encoding="utf-8")
    with course.lab.site(path.as_uri(), offline=True) as site:
        yield site


@each
def test_an_exported_page_shows_the_last_picture(exported: Site, exhibit: Exhibit) -> None:
    output = exported.page.locator(".jp-Cell").nth(FIRST + EXHIBITS.index(exhibit)).locator(".jp-Cell-outputWrapper")
    exported.expect(output.get_by_text(exhibit.says).first).to_be_visible()


@each
def test_a_restarted_kernel_leaves_the_last_picture(course: Course, exhibit: Exhibit) -> None:
    course.reach("restarted")
    if exhibit.stays:
        course.status(exhibit, "no connection to the kernel: run the cell again")
    course.nb.expect(course.output(exhibit).get_by_text(exhibit.says).first).to_be_visible()


@each
def test_run_again_it_lives_again(course: Course, exhibit: Exhibit) -> None:
    course.reach("run again")
    course.status(exhibit, "live")
    course.same(exhibit)


@each
def test_a_reloaded_page_shows_it_again(course: Course, exhibit: Exhibit) -> None:
    course.reach("reloaded")
    course.status(exhibit, "live")
    course.same(exhibit)
