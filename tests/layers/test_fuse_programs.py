"""Programs that people run in a mounted container, each of which leans on calls that others do without."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.layers.fusemounts import Drive, drive
from tests.support import optional_tool, require_tool

__all__ = ["drive"]
pytestmark = pytest.mark.root


@pytest.fixture
def root(drive: Drive) -> Iterator[Path]:
    yield drive.mount()
    drive.remount()  # no program has left anything that keeps the mount busy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of what archivers must mind."""
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "program").write_text("#!/bin/sh\nexit 7\n")
    (folder / "program").chmod(0o755)
    os.link(folder / "program", folder / "sub" / "linked")
    os.symlink("../program", folder / "sub" / "symbolic")
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"data" * 1000)
    os.setxattr(folder / "sparse", "user.note", b"a stream, inside")
    os.utime(folder / "sparse", ns=(1_600_000_000_000_000_100,) * 2)
    return folder


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
    )
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, said
    return said


def check_copy(source: Path, copy: Path) -> None:
    run("diff", "-r", source, copy)
    assert (copy / "program").stat().st_ino == (copy / "sub" / "linked").stat().st_ino
    assert os.readlink(copy / "sub" / "symbolic") == "../program"
    assert os.getxattr(copy / "sparse", "user.note") == b"a stream, inside"
    assert (copy / "sparse").stat().st_mtime_ns == 1_600_000_000_000_000_100
    assert subprocess.run([copy / "program"], check=False, timeout=60).returncode == 7


def test_cp(root: Path, source: Path) -> None:
    require_tool("cp")
    run("cp", "-a", source, root / "copy")
    check_copy(source, root / "copy")
    run("cp", "-a", root / "copy", root / "again")
    check_copy(source, root / "again")


def test_tar(root: Path, source: Path, tmp_path: Path) -> None:
    require_tool("tar")
    keep = ("--xattrs", "--xattrs-include=user.*")
    run("tar", *keep, "-S", "-cf", tmp_path / "tar", "-C", source, ".")
    (root / "copy").mkdir()
    run("tar", *keep, "-xpf", tmp_path / "tar", "-C", root / "copy")
    check_copy(source, root / "copy")
    run("tar", *keep, "-S", "-cf", tmp_path / "again", "-C", root / "copy", ".")
    run("tar", "--compare", "-f", tmp_path / "again", "-C", root / "copy")


def test_rsync(root: Path, source: Path) -> None:
    optional_tool("rsync", "what it does is tried call by call elsewhere")
    for options in (["--inplace", "--no-whole-file"], ["--preallocate"], ["--sparse"]):
        run("rsync", "-aHX", *options, f"{source}/", f"{root}/copy/")
        check_copy(source, root / "copy")
        with (source / "program").open("a") as file:
            file.write("# longer\n")


def test_git(root: Path, source: Path) -> None:
    require_tool("git")

    def git(folder: str, *arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=n@example.com", "-c", "safe.directory=*")
        # Nothing may go on in the background, and keep the drive from being unmounted.
        quiet = ("-c", "gc.auto=0", "-c", "maintenance.auto=false")
        return run("git", *identity, *quiet, *arguments, cwd=root / folder)

    run("cp", "-a", source, root / "work")
    git("work", "init", "-q")
    git("work", "add", "-A")
    git("work", "commit", "-q", "-m", "one")
    git("", "clone", "-q", "work", "clone")
    git("clone", "gc", "-q")
    git("clone", "fsck")
    (root / "clone" / "program").write_text("other")
    assert git("clone", "status", "--porcelain").split() == ["M", "program"]
    git("clone", "checkout", "-q", "--", ".")
    for folder in ("work", "clone"):
        assert git(folder, "status", "--porcelain") == ""
    assert "100755" in git("clone", "ls-files", "-s", "program")


def test_sqlite_with_a_write_ahead_log(root: Path) -> None:
    path = root / "data.db"

    def connected() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=60, isolation_level=None)

    def add(number: int) -> None:
        with connected() as own:
            for _ in range(20):
                own.execute("INSERT INTO t VALUES (?, ?)", (number, "x" * 1000))
        own.close()

    db = connected()
    assert db.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    db.execute("CREATE TABLE t(a, b)")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, range(3)))
    assert db.execute("SELECT count(*) FROM t").fetchone() == (60,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_virtual_environment(root: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", root / "env")
    script = root / "env" / "bin" / "script"
    script.write_text(f"#!{root}/env/bin/python\nimport sys\nprint(sys.prefix)\n")
    script.chmod(0o755)
    assert run(script).strip() == str(root / "env")


def test_locks(root: Path) -> None:
    program = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'r+')\n"
        "for lock in (fcntl.flock, fcntl.lockf):\n"
        "    try: lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    except BlockingIOError: print('held')\n"
    )
    with (root / "Readme.txt").open("r+") as file:
        for lock in (fcntl.flock, fcntl.lockf):
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert run(sys.executable, "-c", program, root / "Readme.txt").split() == ["held", "held"]
        for lock in (fcntl.flock, fcntl.lockf):
            lock(file, fcntl.LOCK_UN)
        assert run(sys.executable, "-c", program, root / "Readme.txt") == ""


def test_temporary_files(root: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        os.open(root, os.O_TMPFILE | os.O_RDWR)
    with tempfile.TemporaryFile(dir=root) as file:  # makes do without
        file.write(b"x" * 100_000)
        file.seek(0)
        assert len(file.read()) == 100_000


def test_past_the_cache(root: Path, tmp_path: Path) -> None:
    require_tool("dd")
    (tmp_path / "data").write_bytes(os.urandom(300_000))
    run("dd", f"if={tmp_path}/data", f"of={root}/direct", "oflag=direct", "bs=4096")
    run("dd", f"if={root}/direct", f"of={tmp_path}/back", "iflag=direct", "bs=65536")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "data").read_bytes()
