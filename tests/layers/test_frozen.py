"""SQLite files that are read without locks."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path

import pytest

from winlayers.layers.portable.frozen import begin_frozen, connect_frozen, structural_damage


@pytest.mark.parametrize("name", ["plain.db", "100%.db", "a#b.db", "%3f.db", "a?b.db", "a?mode=rwc.db"])
def test_any_name_is_opened_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    if sys.platform == "win32" and "?" in name:
        pytest.skip("Windows has no such names")
    path = os.fspath(tmp_path / name)
    with contextlib.closing(sqlite3.connect(path)) as made, made:
        made.execute("CREATE TABLE t(x)")
        made.execute("INSERT INTO t VALUES (7)")
    before = sorted(tmp_path.iterdir())
    with contextlib.closing(connect_frozen(path)) as opened:
        assert opened.execute("SELECT x FROM t").fetchall() == [(7,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            opened.execute("INSERT INTO t VALUES (8)")
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_missing_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        connect_frozen(os.fspath(tmp_path / "missing.db"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_begun_is_one_transaction_and_one_file(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with contextlib.closing(begin_frozen(os.fspath(path), "CREATE TABLE t(x); CREATE TABLE u(x);")) as made:
        assert made.in_transaction
        made.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(2000)])
        assert [p.name for p in tmp_path.iterdir()] == ["new.db"]
        made.execute("COMMIT")
    with contextlib.closing(connect_frozen(os.fspath(path))) as opened:
        assert opened.execute("SELECT count(*) FROM t").fetchone() == (2000,)
        assert structural_damage(opened) is None
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        begin_frozen(os.fspath(path), "CREATE TABLE t(x)")
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + bytes(2048) + whole[6144:])
    with contextlib.closing(connect_frozen(os.fspath(path))) as opened:
        assert structural_damage(opened)
