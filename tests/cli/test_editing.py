"""``append``, ``config``, ``squash`` and ``rebase`` as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.cli.test_cli import PROGRAM, Program
from tests.images.support import Layout, sample_layout


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program on a store with the sample image, as ``app:1``."""
    program = Program(tmp_path / "store")
    program.run("load", sample_layout(tmp_path / "layout"), "--name", "app:1")
    return program


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder to append."""
    (tmp_path / "tree" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "bin" / "tool.exe").write_bytes(b"MZ")
    return tmp_path / "tree"


def test_the_story(program: Program, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = program.out("append", "app:1", str(tree), "-t", "app:2", "--dest", "C:\\tools")
    assert made.startswith("app:2@sha256:")
    again = program.json("append", "app:1", str(tree), "-t", "app:again", "--dest", "/tools")
    assert again["digest"] == made.partition("@")[2]
    assert again["reference"] == "app:again"

    options = ["--env", "MODE=production", "--cmd", '["C:\\\\tools\\\\bin\\\\tool.exe"]', "--label", "a=b"]
    configured = program.out(
        "config", "app:2", "-t", "app:3", *options, "--expose", "80", "--workdir", "C:\\tools"
    )
    program.run("save", "app:3", f"oci:{tmp_path / 'out'}:3")
    saved = Layout(tmp_path / "out", "3")
    assert saved.descriptor["digest"] == configured.partition("@")[2]
    assert saved.config["config"] == {
        "Cmd": ["C:\\tools\\bin\\tool.exe"],
        "User": "ContainerUser",
        "Env": ["MODE=production"],
        "Labels": {"a": "b"},
        "ExposedPorts": {"80/tcp": {}},
        "WorkingDir": "C:\\tools",
    }

    squashed = program.json("squash", "app:3", "-t", "app:4", "--last", "2")
    before, after = program.json("layers", "app:3"), program.json("layers", "app:4")
    assert [layer["blob"] for layer in after[:2]] == [layer["blob"] for layer in before[:2]]
    assert len(after) == 3
    same = program.json("squash", "app:3", "-t", "app:5", "--from", before[2]["id"][:12])
    assert same["digest"] == squashed["digest"]
    assert len(program.json("layers", program.json("squash", "app:3", "--from", "1")["digest"])) == 1

    program.run("append", "app:1", str(tree), "-t", "base:2", "--dest", "patch")
    rebased = program.json("rebase", "app:3", "--onto", "base:2", "--old-base", "app:1", "-t", "app:6")
    found = program.json("layers", "app:6")
    assert [layer["blob"] for layer in found[-1:]] == [before[3]["blob"]]
    assert len(found) == 5
    assert rebased["reference"] == "app:6"
    assert program.out(
        "--quiet", "rebase", "app:3", "--onto", "base:2", "-t", "x:1", "--old-base", "app:1"
    ).startswith("sha256:")


def test_a_tar_from_standard_input(program: Program, tree: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(tree, ".")
    command = [*PROGRAM, "--root", str(program.root), "append", "app:1", "-t", "app:2", "-"]

    def run(data: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)

    done = run(packed.read_bytes())
    assert (done.returncode, done.stdout[:13]) == (0, b"app:2@sha256:"), done.stderr
    program.run("append", "app:1", str(packed), "-t", "app:3")
    assert program.json("layers", "app:2") == program.json("layers", "app:3")
    assert program.json("history", "app:2")[0]["created_by"] == "winlayers append - C:\\"
    layer = program.run(
        "-q", "layer", "export", program.json("layers", "app:1")[1]["id"], "-o", str(tmp_path / "l")
    )
    assert layer.stderr == ""
    assert run((tmp_path / "l").read_bytes()).returncode == 0
    cut = packed.read_bytes()[:100]
    (tmp_path / "cut").write_bytes(cut)
    assert f"{tmp_path}/cut: the gzip data is cut short" in program.fails(
        "append", "app:1", str(tree), str(tmp_path / "cut"), "-t", "app:4"
    )
    for wrong, message in (
        (b"", b"standard input is empty"),
        (b"no tar", b"standard input: "),
        (cut, b"standard input: the gzip data is cut short"),
    ):
        done = run(wrong)
        assert (done.returncode, done.stdout) == (1, b"")
        assert message in done.stderr
        assert str(tmp_path).encode() not in done.stderr


def test_wrong_input_is_one_clear_line(program: Program, tree: Path, tmp_path: Path) -> None:
    assert "nothing to merge" in program.fails("squash", "app:1", "--last", "9")
    assert "no layer called" in program.fails("squash", "app:1", "--from", "0123456789")
    assert "drive C: alone" in program.fails("append", "app:1", str(tree), "--dest", "D:\\")
    assert "not a variable" in program.fails("config", "app:1", "--env", "x")
    assert "--old-base" in program.fails("rebase", "app:1", "--onto", "app:1")
    layer = tmp_path / "own"
    (layer / "Windows").mkdir(parents=True)
    (layer / "Windows" / "win.ini").write_text("own")
    program.run("append", "app:1", str(layer), "-t", "app:2")
    (layer / "Windows" / "win.ini").write_text("patched")
    program.run("append", "app:1", str(layer), "-t", "app:new")
    message = program.fails("rebase", "app:2", "--onto", "app:new", "--old-base", "app:1")
    assert "1 path that the layers change differs in the new base: Files/Windows/win.ini" in message
    assert "force" in message
    program.run("rebase", "app:2", "--onto", "app:new", "--old-base", "app:1", "--force")


def test_wrong_usage(program: Program, tree: Path) -> None:
    program.run("append", "app:1", code=2)
    program.run("append", "app:1", os.fspath(tree / "missing"), code=2)
    program.run("config", "app:1", "-t", "app:2", code=2)
    program.run("squash", "app:1", "--last", "2", "--from", "1", code=2)
    program.run("squash", "app:1", "--last", "1", code=2)
    program.run("rebase", "app:1", code=2)


def test_what_config_can_take_away(program: Program) -> None:
    made = program.json("config", "app:1", "--cmd", "", "--user", "", "--no-args-escaped")
    shown = json.loads(program.out("inspect", made["digest"], "--raw-config"))
    assert shown["config"] == {}
