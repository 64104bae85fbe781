"""Copying out: files and trees to the host, tars that lose nothing."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from tests.inspection.layers import DIRECTORY, File, Link, layer_tar, write_image
from winlayers.errors import PathNotFoundError
from winlayers.inspection import Tree, open_image
from winlayers.inspection.copying import copy_out, write_tar
from winlayers.tar import TarReader
from winlayers.tar.layertar import entries_from_tar
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.filetime import unix_nanoseconds
from winlayers.win32.reparse import SymbolicLink


def test_a_file(tree: Tree, tmp_path: Path) -> None:
    told: list[str] = []
    assert copy_out(tree, tree.find("/app/app.config.json"), tmp_path, told.append) == 1
    assert copy_out(tree, tree.find("/app/app.config.json"), tmp_path / "renamed", told.append) == 1
    assert (tmp_path / "app.config.json").read_bytes() == b'{"listen": 8080}\n'
    assert (tmp_path / "renamed").read_bytes() == b'{"listen": 8080}\n'
    assert told == []


def test_again_over_itself(tree: Tree, tmp_path: Path) -> None:
    for _ in range(2):
        copy_out(tree, tree.find("/Windows"), tmp_path, lambda line: None)
    assert (tmp_path / "Windows" / "win.ini").read_bytes().startswith(b"; for")


def test_a_tree(tree: Tree, tmp_path: Path) -> None:
    told: list[str] = []
    count = copy_out(tree, tree.root(), tmp_path / "out", told.append)
    files = [e for e in tree.walk(tree.root()) if e.metadata.reparse is None]
    assert count == sum(1 for _ in tree.walk(tree.root())) + 1
    for entry in files:
        path = tmp_path / "out" / entry.shown.lstrip("/")
        assert path.is_dir() == entry.is_directory
        if not entry.is_directory:
            assert path.read_bytes() == tree.read(entry)
        if entry.metadata.write_time:
            assert os.stat(path).st_mtime_ns == unix_nanoseconds(entry.metadata.write_time)
    out = tmp_path / "out"
    assert os.readlink(out / "Documents and Settings") == "Users"
    assert os.readlink(out / "Users" / "All Users.lnk") == "../ProgramData"
    cmd = out / "Windows" / "System32" / "cmd.exe"
    assert os.stat(cmd).st_nlink == 3
    assert told == ["2 alternate data streams not copied; copy to - for a tar with everything"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_read_only_files(tmp_path: Path) -> None:
    attributes = FileAttributes.READONLY | FileAttributes.ARCHIVE
    name = write_image(
        tmp_path / "layout", "x", [layer_tar([("Files", DIRECTORY), ("Files/r", File(b"r", attributes))])]
    )
    with open_image(name) as tree:
        copy_out(tree, tree.find("/r"), tmp_path / "r", lambda line: None)
        copy_out(tree, tree.find("/r"), tmp_path / "r", lambda line: None)
    assert os.stat(tmp_path / "r").st_mode & 0o222 == 0


def test_hostile_trees_stay_inside(tmp_path: Path) -> None:
    """A link, and a file that a careless copy would write through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    entries: list[tuple[str, File | Link | None]] = [
        ("Files", DIRECTORY),
        ("Files/link", File(None, reparse=SymbolicLink.to("..\\..\\..\\outside").to_bytes())),
        ("Files/link/evil.txt", File(b"evil")),
        ("Files/abs", File(None, reparse=SymbolicLink.to("C:\\..\\..\\outside").to_bytes())),
        ("Files/net", File(b"", reparse=SymbolicLink.to("\\\\server\\share").to_bytes())),
    ]
    name = write_image(tmp_path / "layout", "x", [layer_tar(entries)])
    told: list[str] = []
    with open_image(name) as tree:
        copy_out(tree, tree.root(), tmp_path / "out", told.append)
    assert list(outside.iterdir()) == []
    for path in (tmp_path / "out").rglob("*"):
        if path.is_symlink():
            assert not os.path.isabs(os.readlink(path))
            assert Path(os.path.normpath(path.parent / os.readlink(path))).is_relative_to(tmp_path / "out")
    assert any("net" in line for line in told)


def test_links_on_the_host_are_not_written_through(tree: Tree, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    out = tmp_path / "out"
    (out / "app").mkdir(parents=True)
    (out / "app" / "app.exe").symlink_to(precious)
    copy_out(tree, tree.find("/app"), out, lambda line: None)
    assert precious.read_text() == "precious"
    assert (out / "app" / "app.exe").read_bytes()[:2] == b"MZ"
    (out / "Windows").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "Fonts").mkdir()
    (tmp_path / "System32").symlink_to(tmp_path / "Fonts", target_is_directory=True)
    with pytest.raises(PathNotFoundError, match="no folder"):
        copy_out(tree, tree.find("/Windows"), out, lambda line: None)
    assert list((tmp_path / "Fonts").iterdir()) == []


def test_a_copied_link_is_not_written_through_by_the_next_copy(tree: Tree, tmp_path: Path) -> None:
    """The destination holds a link of the name that the copy gets; but what the user names may be a link."""
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "app").symlink_to("../elsewhere", target_is_directory=True)
    with pytest.raises(PathNotFoundError, match="no folder"):
        copy_out(tree, tree.find("/app"), out, lambda line: None)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (tmp_path / "link").symlink_to("elsewhere", target_is_directory=True)
    copy_out(tree, tree.find("/app"), tmp_path / "link", lambda line: None)
    assert (tmp_path / "elsewhere" / "app" / "app.exe").is_file()


def test_links_that_lead_out_of_what_is_copied_are_told(tmp_path: Path) -> None:
    entries: list[tuple[str, File | Link | None]] = [
        ("Files", DIRECTORY),
        ("Files/a", DIRECTORY),
        ("Files/a/in", File(None, reparse=SymbolicLink.to("..\\a\\..\\a\\b").to_bytes())),
        ("Files/a/out", File(None, reparse=SymbolicLink.to("C:\\elsewhere").to_bytes())),
        ("Files/a/up", File(None, reparse=SymbolicLink.to("..").to_bytes())),
    ]
    told: list[str] = []
    with open_image(write_image(tmp_path / "layout", "x", [layer_tar(entries)])) as tree:
        copy_out(tree, tree.find("/a"), tmp_path / "copy", told.append)
        assert told == ["/a/out, and 1 more: links that lead out of what was copied"]
        told.clear()
        copy_out(tree, tree.root(), tmp_path / "whole", told.append)
        copy_out(tree, tree.find("/a/out", follow=False), tmp_path / "one", told.append)
    assert told == []


def test_a_folder_in_the_way(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "app" / "app.exe").mkdir(parents=True)
    with pytest.raises(PathNotFoundError, match="is a folder"):
        copy_out(tree, tree.find("/app"), tmp_path, lambda line: None)


def test_a_tar_has_everything(tree: Tree) -> None:
    out = io.BytesIO()
    told: list[str] = []
    count = write_tar(tree, tree.find("/Users"), out, told.append)
    assert told == []
    out.seek(0)
    found = {}
    reader = TarReader(out)
    for entry in entries_from_tar(reader):
        streams = {s.name: b"".join(bytes(c) for c in s.chunks) for s in entry.streams}
        found[entry.path] = (entry.metadata, streams)
    assert len(found) == count
    notes = tree.find("/Users/Public/notes.txt")
    assert found["Users/Public/notes.txt"] == (
        notes.metadata,
        {
            "": b"downloaded\r\n",
            "Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n",
            "summary": b"a second stream",
        },
    )
    link = tree.find("/Users/All Users.lnk", follow=False)
    assert found["Users/All Users.lnk"][0] == link.metadata


def test_other_tools_read_the_tar(tree: Tree) -> None:
    out = io.BytesIO()
    write_tar(tree, tree.find("/Windows"), out, lambda line: None)
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        members = {member.name.rstrip("/"): member for member in tar}
        file = tar.extractfile("Windows/System32/cmd.exe")
        assert file is not None
        assert file.read() == tree.read(tree.find("/Windows/System32/cmd.exe"))
    assert sum(member.islnk() for member in members.values()) >= 3
