"""The parts of the FUSE kind that can be tried without mounting anything."""

from __future__ import annotations

import errno
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
from winlayers import durable
from winlayers.layers.portable.mounts import syscalls
from winlayers.layers.portable.mounts.fusefs import processes, ranges
from winlayers.layers.portable.mounts.fusefs.changes import record_changes
from winlayers.layers.portable.mounts.fusefs.cowfile import BLOCK, DataFiles, MergedFile, lent_bytes
from winlayers.layers.portable.mounts.fusefs.lower import Lower, Owner
from winlayers.layers.portable.mounts.fusefs.operations import Operations
from winlayers.layers.portable.mounts.fusefs.record import Kind, Record
from winlayers.layers.portable.mounts.fusefs.space import Space, cost_of
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
    st.tuples(st.sampled_from(["punch", "zero", "reserve"]), PLACES, st.integers(1, 3 * BLOCK + 5)),
)


MODES = {
    "punch": syscalls.FALLOC_PUNCH_HOLE | syscalls.FALLOC_KEEP_SIZE,
    "zero": syscalls.FALLOC_ZERO_RANGE,
    "reserve": 0,
}


def seek(tree: Tree, number: int, offset: int, *, data: bool) -> int | None:
    return ranges.seek(tree, number, offset, data=data).offset


def check_holes(tree: Tree, number: int, expected: bytes) -> None:
    """Going from data to hole and on, as ``cp`` does, misses nothing but zeros, and comes to the end."""
    offset, end = 0, len(expected)
    while offset < end:
        begin = seek(tree, number, offset, data=True)
        assert not any(expected[offset:begin])
        if begin is None:
            return
        hole = seek(tree, number, begin, data=False)
        assert hole is not None
        assert begin < hole <= end
        offset = hole
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        seek(tree, number, end, data=True)


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
            elif step == "truncate":
                operations.truncate(found.id, place)
                del expected[place:]
                expected.extend(bytes(place - len(expected)))
            else:
                end = place + length if step != "punch" else min(place + length, len(expected))
                for _ in ranges.allocate(operations, found.id, MODES[step], place, length):
                    pass
                expected.extend(bytes(max(0, end - len(expected))))
                if step != "reserve":
                    expected[place:end] = bytes(max(0, end - place))
        inode = operations.raise_inode(found.id)
        assert operations.space.used == cost_of(inode)
        check_holes(tree, found.id, bytes(expected))
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


def test_what_was_never_noted_does_not_come_back(lower: Lower, tmp_path: Path) -> None:
    record = Record(str(tmp_path), lower, "boot")
    data = DataFiles(str(tmp_path), lower, record)
    data.sweep(record)
    operations = Operations(Tree(lower, record, data), record, data, Space(str(tmp_path), None, 0))
    grown, written = (operations.make(1, name, Kind.FILE) for name in (b"grown", b"written"))
    for inode in (grown, written):
        operations.write(inode.id, 0, memoryview(b"noted"))
        with open(data.path(inode.file), "ab") as file:
            file.write(b"of a write that was cut off")
    operations.truncate(grown.id, 100)
    operations.write(written.id, 50, memoryview(b"!"))
    assert data.read(grown, 0, 100) == b"noted" + bytes(95)
    assert data.read(written, 0, 100) == b"noted" + bytes(45) + b"!"
    data.close()
    record.close()


def test_a_hole_is_only_told_when_no_mapping_has_news_for_it() -> None:
    """Pages that only the kernel has turn to data as they are written back."""
    hidden = {3, 7, 8}
    data = {0, 1}
    asked: list[tuple[int, int]] = []

    def find() -> ranges.Place:
        hole = next((page for page in range(10) if page not in data), 10)
        return ranges.Place(hole, hole, next((page for page in range(hole, 10) if page in data), 10))

    def write_back(start: int, size: int) -> None:
        asked.append((start, size))
        data.update(hidden.intersection(range(start, start + size)))

    hidden.add(2)
    assert ranges.seek_surely(find, 0, write_back) == 4
    assert asked == [(2, 8)]
    data |= set(range(10))
    assert ranges.seek_surely(find, 0, write_back) == 10


def test_processes_are_told_apart() -> None:
    start = durable.start_time(os.getpid())
    assert start
    assert processes.is_alive(os.getpid(), start)
    assert not processes.is_alive(os.getpid(), "1")
    assert not processes.wait_for_end(os.getpid(), start, 0.05)
    child = os.fork()
    if not child:
        os._exit(0)
    began = durable.start_time(child)
    assert processes.wait_for_end(child, began, 60)  # also while nobody has collected it
    os.waitpid(child, 0)
    assert durable.start_time(child) == ""


def test_a_process_lives_until_its_last_thread_ends() -> None:
    """A kill ends threads one by one; the files and locks go with the last."""
    code = (
        "import ctypes, platform, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)  # exit this thread\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        began = durable.start_time(child.pid)
        deadline = time.monotonic() + 60
        while (state := Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "Z":
            assert time.monotonic() < deadline, state
            time.sleep(0.01)
        assert processes.is_alive(child.pid, began)
        assert not processes.wait_for_end(child.pid, began, 0.05)
        child.stdin.close()
        assert processes.wait_for_end(child.pid, began, 60)
