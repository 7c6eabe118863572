"""The command line: what it prints, what it writes and how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pydotcompute
from pydotcompute import cli
from pydotcompute.device.toolkit import PACKAGES
from pydotcompute.exceptions import BackendUnavailableError

ROOT = Path(__file__).parent.parent

KERNELS = """
import numpy as np
from pydotcompute import message, ring_kernel
from factor import FACTOR


@message
class Number:
    n: np.int64


@ring_kernel(backend="interpreted")
def scale(state: None, msg: Number, out: Number) -> bool:
    out.n = FACTOR * msg.n
    return True


@ring_kernel(backend="cuda")
def scale_there(state: None, msg: Number, out: Number) -> bool:
    out.n = FACTOR * msg.n
    return True


@ring_kernel
async def body(ctx):
    pass


class Kernels:
    scale = scale


def plain(state, msg, out):
    return True


NUMBER = 7
"""


@pytest.fixture(scope="module")
def compiled_steps(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


@pytest.fixture
def folder(tmp_path, monkeypatch, compiled_steps):
    """A folder with kernels in a file, and one with a fault, as the current one."""
    (tmp_path / "kernels_of_test.py").write_text(KERNELS)
    (tmp_path / "faulty_of_test.py").write_text(KERNELS.replace("scale", "scale_wrongly").replace("msg.n", "msg.m_n"))
    (tmp_path / "broken_of_test.py").write_text("import numpy_of_tomorrow\n")
    (tmp_path / "unread_of_test.py").write_text("\ndef f(:\n    pass\n")
    (tmp_path / "script_of_test.py").write_text("import sys\nsys.exit('usage: ...')\n")
    (tmp_path / "shaped_of_test.py").write_text("import numpy as np\n\nnp.broadcast_to(np.ones(2), 3)\n")
    (tmp_path / "factor.py").write_text("FACTOR = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("PYDOTCOMPUTE_CACHE_DIR", str(compiled_steps))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name == "factor" or name.endswith("_of_test"):
            del sys.modules[name]


def test_it_is_a_command_and_a_module():
    for command in (["-m", "pydotcompute"], ["-c", "from pydotcompute.cli import main; main()"]):
        run = subprocess.run([sys.executable, *command, "--version"], cwd=ROOT, capture_output=True, text=True)
        assert run.stdout == f"pydotcompute {pydotcompute.__version__}\n", run.stderr


def test_asking_for_help_loads_nothing_else():
    code = (
        "import sys\nfrom pydotcompute.cli import main\ntry:\n    main(['--help'])\nfinally:\n    print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    help_text, _, loaded = run.stdout.strip().rpartition("\n")
    assert "compile" in help_text
    assert not {"numpy", "numba", "msgpack", "pydotcompute.runtime"} & set(loaded.split())


@pytest.mark.parametrize("arguments", [[], ["dance"], ["compile"], ["compile", "a:b"]])
def test_wrong_usage_is_shown(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: pydotcompute" in capsys.readouterr().err


@pytest.mark.needs_cuda_compiler
@pytest.mark.parametrize(
    "step", ["kernels_of_test:scale", "kernels_of_test.py:scale", "./kernels_of_test.py:Kernels.scale"]
)
def test_a_step_is_compiled_for_each_architecture(folder, capsys, step):
    assert cli.main(["compile", step, "--arch", "sm_80", "--arch", "sm_90"]) == 0
    about, titles, *rows = capsys.readouterr().out.splitlines()
    assert about.startswith("'scale' with its loop, 32 threads a block: registers, spilled and local bytes a thread")
    assert re.split(r"  +", titles) == [
        "arch", "registers", "spilled bytes", "shared bytes", "local bytes", "seconds",
    ]  # fmt: skip
    for row, arch in zip(rows, ("sm_80", "sm_90"), strict=True):
        assert re.fullmatch(rf"{arch} +\d+ +0 +\d+ +0 +(\d+\.\d\d|kept)", row)
        assert len(row) == len(titles)
    assert cli.main(["compile", step, "--arch", "sm_90"]) == 0
    assert capsys.readouterr().out.endswith(" kept\n")


@pytest.mark.needs_cuda_compiler
def test_a_step_for_the_gpu_of_another_machine_is_compiled(folder, capsys, monkeypatch):
    from pydotcompute.device import backend

    monkeypatch.setattr(backend, "why_not", lambda name: "there is no GPU" if name == "cuda" else None)
    assert cli.main(["compile", "kernels_of_test:scale_there", "--arch", "sm_90"]) == 0
    assert "sm_90" in capsys.readouterr().out
    with pytest.raises(BackendUnavailableError, match="there is no GPU"):  # but not launched
        backend.choose("cuda")


@pytest.mark.needs_cuda_compiler
def test_what_was_compiled_is_written(folder, capsys):
    from pydotcompute.device import cuda
    from pydotcompute.device.backend import only_to_compile

    step = "kernels_of_test:scale"
    assert cli.main(["compile", step, "--arch", "sm_90", "--ptx", "scale.ptx", "--cubin", "scale.cubin"]) == 0
    with only_to_compile():
        binary = cuda.compiled(cli.step_named(step), "sm_90")
    assert Path("scale.ptx").read_text() == binary.ptx
    assert Path("scale.cubin").read_bytes() == binary.cubin


@pytest.mark.needs_cuda_compiler
def test_it_works_from_the_shell(folder):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    run = subprocess.run(
        [sys.executable, "-m", "pydotcompute", "compile", "kernels_of_test:scale", "--arch", "sm_80"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[2].startswith("sm_80 ")


@pytest.mark.needs_cuda_compiler
@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("kernels_of_test", r"'kernels_of_test' is no step: write module:name"),
        (":scale", r"':scale' is no step"),
        ("no_such_module:scale", r"there is no module no_such_module"),
        ("no/such/file.py:scale", r"there is no file no/such/file\.py"),
        ("kernels_of_test:scal", r"kernels_of_test has no 'scal': check the spelling"),
        ("kernels_of_test:body", r"'body' is an async ring kernel, which is not compiled"),
        ("kernels_of_test:plain", r"'plain' is no ring kernel: put @ring_kernel above"),
        ("kernels_of_test:NUMBER", r"'NUMBER' is no ring kernel"),
        ("kernels.ipynb:scale", r"notebooks cannot be read: use a \.py file"),
        ("unread_of_test.py:f", r": unread_of_test\.py, line 2: SyntaxError: invalid syntax\n$"),
        (
            "broken_of_test:f",
            r": broken_of_test\.py, line 1: ModuleNotFoundError: No module named 'numpy_of_tomorrow'\n$",
        ),
        ("shaped_of_test.py:f", r": shaped_of_test\.py, line 3: ValueError: .*broadcast"),
        ("script_of_test:f", r"script_of_test ends the process with 'usage: \.\.\.'.* guard what it runs as a script"),
        ("faulty_of_test:scale_wrongly", r"faulty_of_test\.py, line 14: .*m_n"),
        ("kernels_of_test:scale --arch sm_80 --ptx x", r"--ptx and --cubin .* one --arch"),
    ],
)
def test_what_cannot_be_compiled_is_told_in_a_line(folder, capsys, step, told):
    assert cli.main(["compile", *step.split(), "--arch", "sm_90"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pydotcompute compile: ")
    assert re.search(told, err)


@pytest.mark.needs_cuda_compiler
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--arch", "sm_42"], r"no code can be made for 'sm_42'.* sm_90"),
        (["--arch", "sm_90", "--cubin", "no/such/folder/x"], r"cannot write no/such/folder/x: No such file"),
    ],
)
def test_so_is_what_cannot_be_made_or_written(folder, capsys, options, told):
    assert cli.main(["compile", "kernels_of_test:scale", *options]) == 1
    assert re.search(told, capsys.readouterr().err)


def test_without_the_compiler_it_says_what_to_install(folder, capsys, monkeypatch):
    from pydotcompute.device import cuda_compiler

    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    cuda_compiler.compiler_missing.cache_clear()
    assert cli.main(["compile", "kernels_of_test:scale", "--arch", "sm_90"]) == 1
    cuda_compiler.compiler_missing.cache_clear()
    told = capsys.readouterr().err
    assert told.endswith(f"numba-cuda is not installed: `{PACKAGES}`\n")  # there is no notebook to be restarted


def test_the_name_is_looked_up_before_the_compiler(folder, capsys, monkeypatch):
    from pydotcompute.device import cuda_compiler

    monkeypatch.setattr(cuda_compiler, "compiler_missing", lambda: "there is no compiler")
    assert cli.main(["compile", "kernels_of_test:scal", "--arch", "sm_90"]) == 1
    assert "has no 'scal'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arch", "told"),
    [
        ("90", "'90' is no architecture: write sm_90"),
        ("compute_75", "write sm_75"),
        ("hopper", "write sm_90"),
        ("sm_90,sm_75", "give it several times, --arch sm_90 --arch sm_75"),
    ],
)
def test_how_an_architecture_is_written(arch, told, capsys):
    with pytest.raises(SystemExit):
        cli.main(["compile", "kernels_of_test:scale", "--arch", arch])
    assert told in capsys.readouterr().err


def test_help_says_that_the_file_is_imported(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compile", "--help"])
    assert "is imported: guard" in " ".join(capsys.readouterr().out.split())


def test_a_table_is_aligned():
    rows = [("a", 1, "2.0"), ("longest", 1000, "10.5")]
    assert cli.table(("name", "n", "s"), rows).splitlines() == [
        "name        n     s",
        "a           1   2.0",
        "longest  1000  10.5",
    ]


# -- replay ------------------------------------------------------------------------------------------------------------

ACTORS = """
import asyncio
import sys
from enum import Enum

from pydotcompute import RingKernelRuntime, message, ring_kernel


class Unit(Enum):
    METRE = "m"


@message
class Length:
    n: float
    unit: Unit = Unit.METRE
    run: int = 0


@ring_kernel
async def double(ctx):
    async for length in ctx:
        await ctx.send(Length(2 * length.n, run=id(ctx)))


@ring_kernel(state=list)
async def total(ctx):
    async for length in ctx:
        ctx.state.append(length.n)
        await ctx.send(Length(sum(ctx.state)))


async def main(log):
    async with RingKernelRuntime() as runtime:
        for kernel_id in ("left", "right"):
            await (await runtime.launch("double", kernel_id=kernel_id)).activate()
        await (await runtime.launch("total")).activate()
        await runtime.connect("right", "total")
        with runtime.record(log):
            for n in range(3):
                await runtime.ask("left", Length(n))
                await runtime.send("right", Length(n))
                await runtime.receive("total")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """``recordings["script"]``: the log of what was run as a script; as a module; and in no file."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "actors_of_test.py").write_text(ACTORS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    commands = {
        "script": ["actors_of_test.py", "script"],
        "module": ["-c", "import asyncio, actors_of_test; asyncio.run(actors_of_test.main('module'))"],
        "nowhere": ["-c", ACTORS, "nowhere"],
    }
    for command in commands.values():
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True)
    return {name: folder / name for name in commands}


@pytest.fixture
def actors(folder, monkeypatch):
    """``actors(former, latter)``: the file with the actors in the current folder, changed."""
    from pydotcompute.runtime import kernel

    monkeypatch.setattr(kernel, "_definitions", {})

    def write(former="", latter="", name="actors_of_test.py"):
        assert former in ACTORS
        (folder / name).write_text(ACTORS.replace(former, latter))
        return name

    return write


IGNORED = ["--ignore", "run"]


@pytest.mark.parametrize("log", ["script", "module"])
def test_a_recording_is_replayed_where_its_kernels_were_defined(actors, recordings, capsys, log):
    actors()
    assert cli.main(["replay", str(recordings[log]), "--check", *IGNORED]) == 0
    assert ": no differences; 6 messages sent, 9 replies compared" in capsys.readouterr().out


def test_what_differs_is_told_and_checked(actors, recordings, capsys):
    actors("sum(ctx.state)", "max(ctx.state)")
    command = ["replay", str(recordings["module"]), *IGNORED]
    assert cli.main(command) == 0
    told, *_ = capsys.readouterr().out.splitlines()
    assert ": 1 difference; 6 messages sent" in told
    assert cli.main([*command, "--check"]) == 1
    assert re.search(r"total +reply +Length\(n=4.* n: 4, recorded was 6\n", capsys.readouterr().out)


def test_fields_are_compared_unless_they_are_ignored(actors, recordings, capsys):
    actors()
    assert cli.main(["replay", str(recordings["module"]), "--check"]) == 1
    assert ": 6 differences;" in capsys.readouterr().out


def test_some_kernels_may_be_replayed_alone(actors, recordings, capsys):
    actors("2 * length.n", "3 * length.n")
    command = ["replay", str(recordings["module"]), "--check", *IGNORED, "--kernel"]
    assert cli.main([*command, "total"]) == 0
    assert ": no differences; 3 messages sent" in capsys.readouterr().out
    assert cli.main([*command, "left", "--kernel", "total"]) == 1
    assert ": 2 differences; 6 messages sent" in capsys.readouterr().out


@pytest.mark.parametrize("log", ["script", "nowhere"])
@pytest.mark.parametrize("where", ["moved_of_test.py", "moved_of_test"])
def test_the_kernels_may_be_elsewhere_by_now(actors, recordings, capsys, log, where):
    actors(name="moved_of_test.py")
    assert cli.main(["replay", str(recordings[log]), "--check", *IGNORED, "--actors", where]) == 0
    assert "no differences" in capsys.readouterr().out


def test_the_rhythm_can_be_kept(actors, recordings, capsys):
    actors()
    command = ["replay", str(recordings["module"]), "--check", *IGNORED, "--speed"]
    assert cli.main([*command, "1000"]) == 0
    assert cli.main([*command, "0"]) == 2
    assert "--speed must be a number above 0, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], r"cannot read nothing: No such file or directory"),
        (["actors_of_test.py"], r"'actors_of_test.py' is no log of a recording"),
        (
            ["{nowhere}"],
            r"'left' was defined in a notebook \(module __main__\): pass --actors FILE\.py with a file that",
        ),
        (["{module}", "--actors", "factor"], r"factor defines no ring kernel 'double': pass --actors"),
        (["{module}", "--actors", "no/such.py"], r"there is no file no/such\.py"),
        (["{module}", "--kernel", "middle"], r"no message that 'middle' has handled \(.*'left', 'right', 'total'\)"),
        (["{damaged}"], r"damaged at byte"),
        (["{module}", "--actors", "other_of_test.py"], r"Length: it has no field 'n'; its definition here may be"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_a_line(actors, recordings, capsys, tmp_path, arguments, told):
    actors()
    actors("n: float", "m: float", "other_of_test.py")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(recordings["module"].read_bytes().replace(b"Length n", b"Length m", 1))
    arguments = [one.format(**recordings, damaged=damaged) for one in arguments]
    assert cli.main(["replay", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pydotcompute replay: ")
    assert len(err.splitlines()) == 1
    assert re.search(told, err)
