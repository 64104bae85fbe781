"""The parts of the FUSE kind that can be tried without mounting anything."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers.mountviews import ViewBuilder
from winlayers.layers.portable.mounts.fusefs import processes
from winlayers.layers.portable.mounts.fusefs.changes import record_changes
from winlayers.layers.portable.mounts.fusefs.cowfile import BLOCK, DataFiles, MergedFile, lent_bytes
from winlayers.layers.portable.mounts.fusefs.lower import Lower, Owner
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.record import Record
from winlayers.layers.portable.mounts.fusefs.space import Space
from winlayers.layers.portable.mounts.fusefs.tree import Tree

LAYER = bytes(range(1, 252)) * 1200  # 301,200 bytes: four blocks and a piece

PLACES = st.one_of(
    st.integers(0, len(LAYER) + 2 * BLOCK),
    st.builds(lambda n, d: max(0, n * BLOCK + d), st.integers(0, 6), st.integers(-2, 2)),
    st.builds(lambda d: len(LAYER) + d, st.integers(-2, 2)),
)
STEP = st.one_of(
    st.tuples(st.just("write"), PLACES, st.integers(0, 2 * BLOCK + 5)),
    st.tuples(st.just("truncate"), PLACES, st.just(0)),
)


@pytest.fixture(scope="module")
def lower() -> Iterator[Lower]:
    with tempfile.TemporaryDirectory() as folder:
        b = ViewBuilder(Path(folder) / "home")
        b.file("Files/file", LAYER)
        with b.finish() as view:
            made = Lower(view, Owner(0, 0))
            yield made
            made.close()


def test_a_record_in_the_making_says_that_nothing_changed(
    lower: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            look()
            return super().execute(sql, *args)  # type: ignore[arg-type]

    def look() -> None:
        nonlocal looks
        looks += 1
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", connect)
            assert list(record_changes(lower.view, str(tmp_path))) == []

    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *args, **options: connect(*args, factory=Watched, **options)
    )
    record = Record(str(tmp_path), lower, "boot")
    record.close()
    look()
    assert looks > 10
    assert os.listdir(tmp_path) == ["record.db"]


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEP, max_size=12), look=PLACES, size=st.integers(0, 3 * BLOCK))
def test_data_is_what_was_written_over_what_was_there(
    lower: Lower, steps: list[tuple[str, int, int]], look: int, size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = Record(folder, lower, "boot")
        data = DataFiles(folder, lower, record)
        data.sweep(record)
        tree = Tree(lower, record, data)
        space = Space(folder, None, 0)
        operations = Operations(tree, record, data, space)
        found = tree.find(1, b"FILE")
        assert found is not None
        expected = bytearray(LAYER)
        for number, (step, place, length) in enumerate(steps):
            if step == "write":
                piece = bytes([number + 1]) * length
                operations.write(found.id, place, memoryview(piece))
                if piece:
                    expected.extend(bytes(max(0, place - len(expected))))
                    expected[place : place + length] = piece
            else:
                operations.truncate(found.id, place)
                del expected[place:]
                expected.extend(bytes(place - len(expected)))
        inode = tree.upper(found.id)
        assert inode.size == len(expected)
        assert inode.lent == lent_bytes(inode)
        assert data.read(inode, 0, len(expected) + 1) == expected
        assert data.read(inode, look, size) == expected[look : look + size]
        operations.note()
        record.commit()
        data.close()
        record.close()
        again = Record(folder, lower, "boot", read_only=True)
        again.abandon()
        stored = again.inodes.get(found.id)
        if stored is None:
            assert expected == LAYER
            return
        extent = lower.extent(found.id)
        with MergedFile(lower.view, extent, stored, data.path(stored.file)) as file:
            assert file.read() == expected


def test_processes_are_told_apart() -> None:
    start = processes.start_time(os.getpid())
    assert start is not None
    assert processes.is_alive(os.getpid(), start)
    assert not processes.is_alive(os.getpid(), "1")
    assert not processes.wait_for_end(os.getpid(), start, 0.05)
    child = os.fork()
    if not child:
        os._exit(0)
    began = processes.start_time(child) or ""
    assert processes.wait_for_end(child, began, 10)  # also while nobody has collected it
    os.waitpid(child, 0)
    assert processes.start_time(child) is None


def test_a_process_lives_until_its_last_thread_ends() -> None:
    """A kill ends threads one by one; the files and locks go with the last."""
    code = (
        "import ctypes, platform, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)  # exit this thread\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        began = processes.start_time(child.pid) or ""
        deadline = time.monotonic() + 60
        while (state := Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z":
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        assert processes.is_alive(child.pid, began)
        assert not processes.wait_for_end(child.pid, began, 0.05)
        child.stdin.close()
        assert processes.wait_for_end(child.pid, began, 60)
