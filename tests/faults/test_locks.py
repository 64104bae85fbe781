"""Locks whose file goes with them keep everyone else out like any other."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from winlayers.durable import FileLock

_ADD = """
import sys
from winlayers.durable import FileLock
path, rounds = sys.argv[1], int(sys.argv[2])
for _ in range(rounds):
    with FileLock(path + ".lock", transient=True):
        value = int(open(path).read())
        open(path, "w").write(str(value + 1))
"""


def test_transient_locks_between_processes_and_threads(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    path.write_text("0")
    command = [sys.executable, "-c", _ADD, str(path), "300"]
    processes = [subprocess.Popen(command) for _ in range(3)]

    def add() -> None:
        for _ in range(300):
            with FileLock(f"{path}.lock", transient=True):
                path.write_text(str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert path.read_text() == "1800"
    assert [p.name for p in tmp_path.iterdir()] == ["counter"]


def test_a_transient_lock_is_held_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with FileLock(path, transient=True):
        assert not FileLock(path, transient=True, timeout=0).acquire()
    with pytest.raises(AssertionError):
        FileLock(path, shared=True, transient=True)
