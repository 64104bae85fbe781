"""The command line as a user meets it: output, exit codes, one line for each error."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.images.support import Layout, sample_layout, tree_digest
from tests.support import require

PROGRAM = [sys.executable, "-m", "winlayers"]


class Program:
    """The program, on a store of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run it; check the exit code."""
        command = [*PROGRAM, "--root", os.fspath(self.root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == code, done.stderr
        return done

    def out(self, *arguments: str) -> str:
        """What it prints."""
        return self.run(*arguments).stdout.strip()

    def json(self, *arguments: str) -> Any:
        """What it prints as JSON."""
        return json.loads(self.out(*arguments, "--json"))

    def fails(self, *arguments: str) -> str:
        """Its one line of error."""
        done = self.run(*arguments, code=1)
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if line.startswith("winlayers: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr
        return lines[0]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program on an empty store."""
    return Program(tmp_path / "store")


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The sample image."""
    return sample_layout(tmp_path / "layout")


def test_the_story(program: Program, source: str, tmp_path: Path) -> None:
    loaded = program.out("load", source)
    reference, digest = loaded.split("@")
    assert reference == "layout:sample"
    assert digest == Layout(tmp_path / "layout").descriptor["digest"]

    assert program.out("images").splitlines()[0].split() == [
        *("REPOSITORY", "TAG", "IMAGE", "ID", "OS", "VERSION", "CREATED", "SIZE")
    ]
    (image,) = program.json("images")
    assert (image["reference"], image["digest"], image["layers"]) == (reference, digest, 3)
    assert program.out("--quiet", "images") == image["id"][7:19]

    layers = program.json("layers", reference)
    assert [layer["diff_id"] for layer in layers] == Layout(tmp_path / "layout").config["rootfs"]["diff_ids"]
    assert all({"id", "diff_id", "chain_id", "entries", "size"} <= layer.keys() for layer in layers)
    assert len(program.out("layers", reference).splitlines()) == 4
    for layer in layers:
        program.run("layer", "export", layer["id"][:12], "-o", str(tmp_path / "layer.tar"))
        assert (
            f"sha256:{hashlib.sha256((tmp_path / 'layer.tar').read_bytes()).hexdigest()}" == layer["diff_id"]
        )

    container = program.out("create", reference, "--name", "box")
    assert len(container) == 64
    drive = Path(program.out("mount", "box"))
    try:
        assert program.json("ps")[0]["mount"] == str(drive)
        (drive / "added.txt").write_text("x")
        (drive / "app" / "app.exe").unlink()
        changes = program.out("changes", "box").splitlines()
        assert "A Files/added.txt" in changes
        assert "D Files/app/app.exe" in changes
        assert "is mounted" in program.fails("rm", "box")
    finally:
        assert program.out("umount", "box") == "box"

    made, _, made_digest = program.out("commit", "box", "app:2").partition("@")
    assert made == "app:2"
    assert program.out("save", "app:2", f"oci:{tmp_path / 'out'}:2") == made_digest
    assert program.out("rm", "box") == "box"
    assert program.out("rmi", "app:2").splitlines()[0] == "Untagged: app:2"
    assert program.out("rmi", reference).splitlines()[1] == f"Deleted: {image['id']}"
    assert program.json("images") == []
    assert Program(tmp_path / "second").json("load", f"oci:{tmp_path / 'out'}:2")["digest"] == made_digest


def test_wrong_input_is_one_clear_line_and_the_store_as_before(
    program: Program, source: str, tmp_path: Path
) -> None:
    program.run("load", source, "--name", "good:1")
    program.run("layers", "good:1")
    before = tree_digest(program.root)
    wrong = Layout(tmp_path / "wrong")
    sample_layout(wrong.folder, compression="zstd")
    wrong.change_config(lambda c: c.update(os="linux"))
    assert "an image for linux" in program.fails("load", wrong.name)
    truncated = Layout(tmp_path / "truncated")
    sample_layout(truncated.folder, compression="none")
    truncated.layer(1).write_bytes(truncated.layer(1).read_bytes()[:5000])
    assert "is truncated: 5000 of" in program.fails("load", truncated.name)
    assert "not an OCI image layout" in program.fails("load", f"oci:{tmp_path}:x")
    assert "has no image tagged 'x'" in program.fails("load", f"oci:{tmp_path / 'layout'}:x")
    assert "no such image: missing" in program.fails("layers", "missing")
    assert "no such container: missing" in program.fails("mount", "missing")
    assert "no such layer: 0123456789" in program.fails("layer", "export", "0123456789")
    assert "not an image reference" in program.fails("load", source, "--name", "BAD NAME")
    assert tree_digest(program.root) == before


def test_wrong_usage_is_exit_code_2(program: Program, tmp_path: Path) -> None:
    assert "Did you mean images?" in program.run("imagse", code=2).stderr
    program.run("load", code=2)
    program.run("images", "--nonsense", code=2)
    program.run("create", "x", "--storage-opt", "size", code=2)
    program.run("load", "x", "--all", "--name", "y:1", code=2)
    assert not program.root.exists()


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in Program(tmp_path / "file" / "store").fails("images")


def test_debug_shows_the_traceback(program: Program) -> None:
    assert "Traceback" in program.run("--debug", "layers", "missing", code=1).stderr


def test_a_reader_that_goes_away_is_no_error(program: Program, source: str) -> None:
    program.run("load", source)
    layer = program.json("layers", "layout:sample")[0]["id"]
    command = f"{' '.join(PROGRAM)} --root {program.root} layer export {layer} | head -c 10 >/dev/null"
    done = subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("141", "0")  # 0 where the pipe took all of it at once


def wait_until_it_waits_for_a_lock(process: subprocess.Popen[str]) -> None:
    """Wait until the kernel says that the process waits for somebody's lock."""
    require(os.path.exists("/proc/locks"), "this system does not tell who waits for a lock")
    deadline = time.monotonic() + 120
    while not re.search(rf"-> .* {process.pid} ", Path("/proc/locks").read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interrupt_leaves_nothing(program: Program, source: str, tmp_path: Path) -> None:
    """Ctrl-C while a load waits for its blob: exit code 130, and the store as it was."""
    program.run("load", source, "--name", "good:1")
    before = tree_digest(program.root)
    slow = Layout(tmp_path / "slow")
    sample_layout(slow.folder, compression="zstd")
    hold = (
        "import time\nfrom winlayers.store import open_store\n"
        f"with open_store({str(program.root)!r}).images.lock():\n"
        "    print('held', flush=True)\n    time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        loading = subprocess.Popen(
            [*PROGRAM, "--root", program.root, "load", slow.name], stderr=subprocess.PIPE, text=True
        )
        wait_until_it_waits_for_a_lock(loading)
        loading.send_signal(signal.SIGINT)
        holder.terminate()
        _, errors = loading.communicate(timeout=120)
    finally:
        holder.kill()
        holder.communicate()
    assert loading.returncode == 130
    assert "Traceback" not in errors
    assert tree_digest(program.root) == before


def test_every_command_has_help_with_examples() -> None:
    from winlayers.cli.main import COMMANDS, cli

    for name in COMMANDS:
        command = cli.get_command(None, name)  # type: ignore[arg-type]  # the context is not looked at
        assert command is not None
        assert command.help
        if name != "layer":
            assert f"winlayers {name}" in (command.epilog or "")
    done = subprocess.run([*PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_help_and_images_import_nothing_slow(program: Program, source: str) -> None:
    program.run("load", source)
    for arguments in (["--help"], ["images"]):
        code = (
            "import sys; from winlayers.cli.main import run; "
            f"run(['--root', {str(program.root)!r}, *{arguments!r}]); "
            "slow = ('isal', 'zstandard', 'sqlite3', 'mfusepy', 'asyncio', 'urllib3', 'winlayers.layers',"
            " 'winlayers.graphdriver', 'winlayers.tar'); "
            "print([m for m in sys.modules if m in slow or m.startswith(tuple(f'{s}.' for s in slow))])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"


def test_the_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from winlayers.store import default_root

    monkeypatch.setenv("WINLAYERS_ROOT", "/somewhere")
    assert default_root() == "/somewhere"
    monkeypatch.delenv("WINLAYERS_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_root() == str(tmp_path / "winlayers")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == "/var/lib/winlayers"
