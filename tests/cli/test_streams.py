"""Standard streams that have gone, are full or were never there: exit codes and one line that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import PROGRAM
from tests.images.support import sample_layout
from tests.support import require
from winlayers.store import open_store


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an image ``app:1``, of some hundred files."""
    folder = tmp_path_factory.mktemp("streams")
    open_store(folder / "store").load(sample_layout(folder / "layout"), name="app:1")
    return folder / "store"


def shell(root: Path, line: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``winlayers`` is the program on the store; *output*: where it writes to."""
    require(sys.platform != "win32", "a POSIX shell")
    function = f'winlayers() {{ "{sys.executable}" -m {PROGRAM[-1]} --root "{root}" "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", function + line],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    ["find app:1", "images --json", "layers app:1", "layer export $(winlayers -q layers app:1 | head -1)"],
)
def test_a_reader_that_has_gone_is_exit_code_141(root: Path, command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as output:
        done = shell(root, f"winlayers {command}", output.fileno())
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "command", ["images", "find app:1", "cat app:1:/app/app.exe", "cp app:1:/ -", "save app:1 oci-archive:-"]
)
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_line(root: Path, command: str, where: str) -> None:
    require(os.path.exists("/dev/full"), "/dev/full")
    done = shell(root, f"winlayers -q {command} {where}")
    reason = "No space left on device" if "full" in where else "Bad file descriptor"
    assert done.stderr == f"winlayers: standard output: {reason}\n"
    assert done.returncode == 1


def test_help_that_cannot_be_written(root: Path) -> None:
    done = shell(root, "winlayers --help >&-")
    assert (done.returncode, done.stderr) == (1, "winlayers: Bad file descriptor\n")


def test_closed_streams_are_no_traceback(root: Path) -> None:
    assert shell(root, "winlayers tag app:1 app:2 >&- 2>&- <&-").returncode == 0
    assert shell(root, "winlayers layers nosuch 2>&-").returncode == 1
    done = shell(root, "winlayers load - <&-")
    assert (done.returncode, done.stderr) == (
        1,
        "winlayers: can't read standard input: Bad file descriptor\n",
    )
    done = shell(root, "winlayers load - </dev/null")
    assert (done.returncode, done.stderr) == (1, "winlayers: standard input is empty\n")


@pytest.mark.parametrize("command", ["layer export {layer} -o", "report app:1 -o", "diff app:1 app:1 --html"])
def test_a_file_that_cannot_be_written_is_named(root: Path, command: str) -> None:
    layer = open_store(root).layers("app:1")[0].id
    missing = root / "nosuch" / "file"
    done = shell(root, f"winlayers {command.format(layer=layer)} {missing}")
    assert (done.returncode, done.stderr) == (1, f"winlayers: {missing}: No such file or directory\n")
    require(os.path.exists("/dev/full"), "/dev/full")
    done = shell(root, f"winlayers {command.format(layer=layer)} /dev/full")
    assert (done.returncode, done.stderr) == (1, "winlayers: /dev/full: No space left on device\n")
