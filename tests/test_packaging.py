"""What a wheel and a source distribution hold."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

import pydotcompute
from pydotcompute.device import toolkit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    (name,) = (name for name in wheel if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel[name])


def sources() -> set[str]:
    found = (ROOT / "pydotcompute").rglob("*")
    return {str(path.relative_to(ROOT)) for path in found if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel):
    assert {name for name in wheel if ".dist-info/" not in name} == sources()
    assert "pydotcompute/py.typed" in wheel


def test_the_source_distribution_is_lean(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    about = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert names == sources() | about


def test_the_version_is_the_one_of_the_package(metadata):
    assert metadata["Version"] == pydotcompute.__version__


def test_a_plain_install_brings_what_a_notebook_needs(metadata):
    plain = [need for need in metadata.get_all("Requires-Dist") if "extra ==" not in need]
    names = {need.partition(">")[0] for need in plain}
    assert names == {"numpy", "msgpack", "numba", "ipywidgets", "anywidget", "bqplot"}
    assert all(find_spec(name) for name in names)


def test_no_requirement_but_the_toolkit_of_cuda_has_an_upper_bound(metadata):
    needs = [need.partition(";")[0] for need in metadata.get_all("Requires-Dist")]
    bound = {re.split(r"[\[=<]", need)[0] for need in needs if "<" in need or "==" in need}
    assert bound == {"cuda-toolkit", "nvidia-nvjitlink"}


def test_what_is_said_to_install_for_a_gpu_is_what_the_extra_brings(metadata):
    needs = [need for need in metadata.get_all("Requires-Dist") if "extra == 'cuda'" in need]
    assert all("sys_platform == 'linux'" in need for need in needs)
    brought = {need.partition(";")[0] for need in needs}
    for package in re.findall(r"'(.+?)'", toolkit.PACKAGES):
        name, extras, version = re.fullmatch(r"([\w-]+)(\[.+\])?(==.+)?", package).groups()
        assert f"{name}{extras or ''}{version or ''}" in brought


def test_all_asks_for_what_every_extra_but_the_one_for_a_gpu_does(metadata):
    needs = {extra: set() for extra in metadata.get_all("Provides-Extra")}
    for need in metadata.get_all("Requires-Dist"):
        name, _, extra = need.partition("; extra == ")
        if extra:
            needs[extra.strip("'")].add(name)
    everything = needs.pop("all")
    del needs["cuda"]
    assert everything == set().union(*needs.values())
