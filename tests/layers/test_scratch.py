"""From a mounted scratch layer to a committed one: the new layer shows what the mount showed."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.tars import SDDL, base_tar
from tests.support import require
from winlayers.layers import ChangeKind, DriverInfo
from winlayers.layers.portable.mounts import select
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import View, ViewInode
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata
from winlayers.win32.reparse import MountPoint, parse_reparse
from winlayers.win32.security import SecurityDescriptor, bytes_to_sddl, sddl_to_bytes

DIRECTORY = FileMetadata(FileAttributes.DIRECTORY, 10, 20, 30, 40, sddl_to_bytes(SDDL))
HIDDEN = FileMetadata(FileAttributes.HIDDEN, 1317, 1318, 1319, 1320, sddl_to_bytes("O:SYG:SYD:P(A;;FA;;;SY)"))


class Box:
    """A scratch layer on a small chain, mounted by one kind."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.service = PortableLayerService(DriverInfo(str(folder)), mount=kind)
        self.service.check_home()
        tar = base_tar().directory("Files/dir", DIRECTORY).directory("Files/dir/sub", DIRECTORY)
        tar.file("Files/dir/a.txt", b"a" * 5000, HIDDEN, [("Zone.Identifier", b"[ZoneTransfer]")])
        tar.file("Files/dir/b.txt", b"b").file("Files/dir/sub/c.txt", b"c").file("Files/single", b"s")
        tar.link("Files/linked", "Files/single").file("Files/Ünï \u65e5", b"u").file("Files/empty")
        junction = FileMetadata(
            FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT,
            reparse=MountPoint.to("C:\\dir").to_bytes(),
        )
        tar.directory("Files/junction", junction)
        self.service.import_tar("base", [], io.BytesIO(tar.bytes()))
        self.chain = [self.service.layer_path("base")]
        self.service.create_scratch("box", self.chain)
        self.drive = self.mount()

    def mount(self) -> Path:
        self.service.activate("box")
        self.service.prepare("box", self.chain)
        return Path(self.service.mount_path("box"))

    def unmount(self) -> None:
        self.service.unprepare("box")
        self.service.deactivate("box")

    def changes(self) -> dict[str, str]:
        return {c.path.removeprefix("Files/"): c.kind.value for c in self.service.changes("box", self.chain)}

    def committed(self) -> View:
        """The view of the chain with the scratch layer's tar on top."""
        stream = self.service.export_tar("box", self.chain)
        try:
            self.service.import_tar("done", self.chain, stream)
        finally:
            stream.close()
        return self.service.views.open("done")


@pytest.fixture(params=["erofs", "fuse", "extract"])
def box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Box]:
    kinds = {mounter.kind: mounter for mounter in select.mounters()}
    require(request.param in kinds, f"there is no {request.param} mount kind")
    reason = kinds[request.param].unavailable()
    require(reason is None, f"{request.param} mounts: {reason}")
    made = Box(tmp_path / "home", request.param)
    try:
        yield made
    finally:
        made.unmount()


def snapshot(drive: Path) -> dict[str, bytes | str | None]:
    """What POSIX shows: data, targets of links, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for root, folders, files in os.walk(drive):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            mode = os.lstat(path).st_mode
            key = os.path.relpath(path, drive)
            if stat.S_ISLNK(mode):
                found[key] = os.readlink(path)
            else:
                found[key] = None if stat.S_ISDIR(mode) else Path(path).read_bytes()
    return found


def view_snapshot(view: View) -> dict[str, bytes | None]:
    drive = view.drive
    assert drive is not None
    return {
        path: None if inode.is_directory else view.read(inode.extent)
        for path, _, inode in view.walk(drive.id)
        if inode.metadata.reparse is None
    }


def inode_of(view: View, path: str) -> ViewInode:
    drive = view.drive
    assert drive is not None
    node = view.resolve(path, drive.id)
    assert node is not None, path
    return view.inode(node.inode)


def test_untouched(box: Box) -> None:
    assert box.changes() == {}
    box.unmount()
    assert box.changes() == {}


def test_everything_at_once(box: Box) -> None:
    drive = box.drive
    (drive / "new").mkdir()
    (drive / "new" / "file").write_bytes(b"new" * 1000)
    with open(drive / "dir" / "a.txt", "ab") as file:
        file.write(b"tail")
    (drive / "dir" / "b.txt").unlink()
    os.rename(drive / "dir" / "sub", drive / "moved")
    os.rename(drive / "single", drive / "renamed")
    (drive / "empty").unlink()
    (drive / "empty").mkdir()
    (drive / "empty" / "inside").write_bytes(b"in")
    os.symlink("dir/a.txt", drive / "link")
    os.link(drive / "new" / "file", drive / "new" / "hard")
    shown = snapshot(drive)
    live = box.changes()
    box.unmount()
    assert box.changes() == live
    assert {p: k for p, k in live.items() if k != "C"} == {
        "new": "A",
        "new/file": "A",
        "new/hard": "A",
        "dir/b.txt": "D",
        "dir/sub": "D",
        "moved": "A",
        "moved/c.txt": "A",
        "single": "D",
        "renamed": "A",
        "empty/inside": "A",
        "link": "A",
    }
    assert {"dir", "dir/a.txt", "empty"} <= {p for p, k in live.items() if k == "C"}
    with box.committed() as view:
        expected = {p: d for p, d in shown.items() if p not in ("link", "junction")}
        assert view_snapshot(view) == expected
        link = parse_reparse(inode_of(view, "link").metadata.reparse or b"")
        assert link.target == "dir\\a.txt"  # type: ignore[union-attr]  # a symbolic link has one
        assert inode_of(view, "new/file").id == inode_of(view, "new/hard").id


def test_a_changed_file_keeps_what_was_not_changed(box: Box) -> None:
    with open(box.drive / "dir" / "a.txt", "r+b") as file:
        file.write(b"X")
    box.unmount()
    with box.committed() as view:
        inode = inode_of(view, "dir/a.txt")
        assert view.read(inode.extent) == b"X" + b"a" * 4999
        assert inode.metadata.security == HIDDEN.security
        assert inode.metadata.creation_time == HIDDEN.creation_time
        assert inode.metadata.attributes & FileAttributes.HIDDEN
        assert inode.metadata.write_time > HIDDEN.write_time
        assert [(s.name, view.read(s.extent)) for s in inode.streams] == [
            ("Zone.Identifier", b"[ZoneTransfer]")
        ]


def test_a_new_file_inherits_its_descriptor(box: Box) -> None:
    (box.drive / "dir" / "new.txt").write_bytes(b"x")
    (box.drive / "dir" / "newdir").mkdir()
    (box.drive / "dir" / "newdir" / "deep.txt").write_bytes(b"y")
    box.unmount()
    with box.committed() as view:
        for path, expected in (
            ("dir/new.txt", "(A;;FA;;;BA)(A;;FA;;;SY)"),
            ("dir/newdir/deep.txt", "(A;;FA;;;BA)(A;;FA;;;SY)"),
        ):
            security = inode_of(view, path).metadata.security
            assert security is not None
            SecurityDescriptor.from_bytes(security)
            text = bytes_to_sddl(security).replace("ID", "")
            assert expected in text, text


def test_metadata_alone(box: Box) -> None:
    os.utime(box.drive / "dir" / "b.txt", ns=(1_600_000_000_123_456_700, 1_500_000_000_765_432_100))
    box.unmount()
    changes = list(box.service.changes("box", box.chain))
    assert [c.path for c in changes if c.metadata_only and not c.is_directory] == ["Files/dir/b.txt"]
    assert next(c for c in changes if c.path == "Files/dir/b.txt").kind is ChangeKind.MODIFY
    with box.committed() as view:
        inode = inode_of(view, "dir/b.txt")
        assert view.read(inode.extent) == b"b"
        assert inode.metadata.write_time == 116444736000000000 + 15_000_000_007_654_321


def test_deleted_and_made_again(box: Box) -> None:
    for name in ("a.txt", "b.txt", "sub/c.txt"):
        (box.drive / "dir" / name).unlink()
    (box.drive / "dir" / "sub").rmdir()
    (box.drive / "dir").rmdir()
    (box.drive / "dir").mkdir()
    (box.drive / "dir" / "b.txt").write_bytes(b"again")
    box.unmount()
    with box.committed() as view:
        merged = view_snapshot(view)
        assert [p for p in merged if p.startswith("dir")] == ["dir", "dir/b.txt"]
        assert merged["dir/b.txt"] == b"again"


def test_the_mount_goes_on_after_it_was_taken_down(box: Box) -> None:
    (box.drive / "one").write_bytes(b"1")
    box.unmount()
    drive = box.mount()
    assert (drive / "one").read_bytes() == b"1"
    (drive / "two").write_bytes(b"2")
    (drive / "one").unlink()
    box.unmount()
    assert {p: k for p, k in box.changes().items() if k != "C"} == {"two": "A"}


def test_the_tar_is_one_that_others_read(box: Box) -> None:
    (box.drive / "new.txt").write_bytes(b"n")
    (box.drive / "dir" / "b.txt").unlink()
    box.unmount()
    stream = box.service.export_tar("box", box.chain)
    with tarfile.open(fileobj=io.BytesIO(stream.read())) as tar:
        names = tar.getnames()
    stream.close()
    assert names[:2] == ["Files", "Hives"]
    assert {"Files/new.txt", "Files/dir/.wh.b.txt"} <= set(names)


def test_looking_changes_nothing(box: Box) -> None:
    (box.drive / "new.txt").write_bytes(b"n")
    (box.drive / "dir" / "b.txt").unlink()
    with open(box.drive / "dir" / "a.txt", "ab") as file:
        file.write(b"more")
    box.unmount()

    def export() -> bytes:
        stream = box.service.export_tar("box", box.chain)
        try:
            return stream.read()
        finally:
            stream.close()

    first = export()
    assert box.changes()
    assert export() == first
    with box.committed() as view:
        untouched = inode_of(view, "dir").metadata
        assert untouched.access_time == DIRECTORY.access_time
        assert untouched.security == DIRECTORY.security
