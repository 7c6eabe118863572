"""The site is built without a warning and without a network; its links lead somewhere, and its errors are real ones."""

import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import pydotcompute
from pydotcompute import KernelContext, RingKernelRuntime, message
from pydotcompute.exceptions import PyDotComputeError
from pydotcompute.runtime.kernel import definition_of

ROOT = Path(__file__).parent.parent
SITE = ROOT / "notebooks" / "site"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install --group docs")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        str(SITE),
        str(SITE.parent),
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Page(HTMLParser):
    """What a page refers to, and what may be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.anchors.add(name)
        if tag == "a" and (href := given.get("href")):
            self.links.append(href)
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(given["href"] or "")
        elif tag in ("script", "img", "iframe", "source") and (source := given.get("src")):
            self.loads.append(source)


def pages(built: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in built.rglob("*.html")}


def test_every_notebook_and_page_is_there(built: Path) -> None:
    for notebook in SITE.parent.glob("[0-9][0-9]_*.ipynb"):
        assert (built / f"{notebook.stem}.html").is_file()
    for page in SITE.glob("*.md"):
        assert (built / "site" / f"{page.stem}.html").is_file()


def test_links_lead_somewhere(built: Path) -> None:
    known = pages(built)
    for path, page in known.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor and target in known:
                assert anchor in known[target].anchors, f"{path.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    for path, page in pages(built).items():
        for source in page.loads:
            assert not re.match(r"([a-z]+:)?//", source), f"{path.name}: {source}"
    for style in built.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_the_api_has_every_name(built: Path) -> None:
    anchors = Page(built / "site" / "api.html").anchors
    for name in pydotcompute.__all__:
        if name != "exceptions":
            assert f"pydotcompute.{name}" in anchors
    for name in pydotcompute.exceptions.__all__:
        assert f"pydotcompute.exceptions.{name}" in anchors


# -- errors ------------------------------------------------------------------------------------------------------------


@message
class Reading:
    celsius: float


async def body(ctx: KernelContext[Reading, Any]) -> None:
    async for reading in ctx:
        await ctx.send(reading)


async def wrong_name(runtime: RingKernelRuntime) -> None:
    await runtime.launch(definition_of(body, kernel_id="kelvin"))
    await runtime.ask("kelvn", Reading(celsius=1.0))


async def twice(runtime: RingKernelRuntime) -> None:
    kelvin = definition_of(body, kernel_id="kelvin")
    await runtime.launch(kelvin)
    await runtime.launch(kelvin)


async def wrong_type(runtime: RingKernelRuntime) -> None:
    await runtime.launch(definition_of(body, kernel_id="kelvin"))
    await runtime.send("kelvin", "text")


async def full(runtime: RingKernelRuntime) -> None:
    await runtime.launch(definition_of(body, kernel_id="strict", queue_size=1, backpressure="reject"))
    for _ in range(2):
        await runtime.send("strict", Reading(celsius=1.0))


async def silent(runtime: RingKernelRuntime) -> None:
    async def says_nothing(ctx: KernelContext[Any, Any]) -> None:
        async for _ in ctx:
            pass

    await runtime.launch(definition_of(says_nothing, kernel_id="silent"))
    await runtime.activate("silent")
    await runtime.ask("silent", 1, timeout=0.05)


async def broken(runtime: RingKernelRuntime) -> None:
    async def divides(ctx: KernelContext[Any, Any]) -> None:
        async for number in ctx:
            await ctx.send(1 / number)

    await runtime.launch(definition_of(divides, kernel_id="broken"))
    await runtime.activate("broken")
    await runtime.ask("broken", 0)


async def yields(runtime: RingKernelRuntime) -> None:
    async def generator(ctx: Any) -> Any:
        yield ctx

    definition_of(generator, kernel_id="generator")


async def no_cluster(runtime: RingKernelRuntime) -> None:
    await runtime.launch(definition_of(body, kernel_id="kelvin"), node="node-1")


PROVOKED: list[Callable[[RingKernelRuntime], Awaitable[None]]] = [
    *(wrong_name, twice, wrong_type, full, silent, broken, yields, no_cluster)
]


def headings() -> list[str]:
    text = (SITE / "troubleshooting.md").read_text(encoding="utf-8")
    return [heading for heading in re.findall(r"^## (.*)$", text, re.MULTILINE) if "Error:" in heading]


def test_all_errors_of_the_page_are_provoked() -> None:
    assert len(headings()) == len(PROVOKED)


@pytest.mark.parametrize(("heading", "provoke"), list(zip(headings(), PROVOKED, strict=False)))
async def test_the_errors_of_the_page_are_real(heading: str, provoke: Any) -> None:
    async with RingKernelRuntime("current") as runtime:
        with pytest.raises(PyDotComputeError) as caught:
            await provoke(runtime)
    said = f"{type(caught.value).__name__}: {caught.value}"
    assert said.startswith(heading), said


def test_words_are_spelled_right() -> None:
    pytest.importorskip("codespell_lib", reason="codespell is not installed: pip install --group dev")
    sources = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "pydotcompute",
        ROOT / "notebooks",
    ]
    command = [
        sys.executable,
        "-m",
        "codespell_lib",
        "--ignore-words-list",
        "fro,Fram,Brin",
        "--skip",
        "*.gif,*.js",
        "--ignore-regex",
        r"base64,[A-Za-z0-9+/=]+|\"image/png\": \"[^\"]+",
        *map(str, sources),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr
