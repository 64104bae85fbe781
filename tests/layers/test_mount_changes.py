"""What a scratch layer changes: the same story told by every kind of mount."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.layers.mountviews import TIME, odd_view
from tests.support import require
from winlayers.errors import LayerContentError
from winlayers.layers.portable.mounts.contract import Mounter, MountRequest, UpperEntry, UpperKind
from winlayers.layers.portable.mounts.erofs import ErofsMounter
from winlayers.layers.portable.mounts.extract import ExtractMounter
from winlayers.layers.portable.view import View
from winlayers.win32.attributes import FileAttributes


class Scratch:
    """A scratch layer, mounted."""

    def __init__(self, mounter: Mounter, view: View, folder: Path) -> None:
        self.mounter = mounter
        self.view = view
        self.root = folder / "mnt"
        self.state = folder / "state"
        self.root.mkdir()
        self.state.mkdir()
        self.request = MountRequest(view, os.path.dirname(view.path), str(self.root), str(self.state))
        self.record = mounter.mount(self.request)

    def changes(self) -> dict[str, UpperEntry]:
        """The changes by path, the same whether mounted or not; parents come before children."""
        mounted = list(self.mounter.changes(self.view, str(self.state)))
        self.mounter.unmount(self.record)
        unmounted = list(self.mounter.changes(self.view, str(self.state)))
        assert [e.path for e in mounted] == [e.path for e in unmounted]
        self.record = self.mounter.mount(self.request)
        seen: set[str] = set()
        for entry in mounted:
            parent = entry.path.rpartition("/")[0]
            assert parent == "" or parent in seen
            assert entry.path not in seen
            seen.add(entry.path)
        return {entry.path: entry for entry in mounted}


@pytest.fixture(params=[ErofsMounter, ExtractMounter])
def scratch(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scratch]:
    make: Callable[[], Mounter] = request.param
    mounter = make()
    why = mounter.unavailable()
    require(why is None, str(why))
    with odd_view(tmp_path / "home") as view:
        layer = Scratch(mounter, view, tmp_path)
        yield layer
        mounter.unmount(layer.record)
        assert os.listdir(layer.root) == []


def test_nothing_done_is_nothing_changed(scratch: Scratch) -> None:
    for path in scratch.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.read_bytes()
    assert scratch.changes() == {}


def test_a_file_opened_for_writing_and_left_alone_is_not_changed(scratch: Scratch) -> None:
    with open(scratch.root / "block", "r+b"):
        pass
    assert "block" not in scratch.changes()


def test_a_new_file_with_its_directory(scratch: Scratch) -> None:
    (scratch.root / "Windows" / "new.txt").write_bytes(b"hello")
    changes = scratch.changes()
    assert list(changes) == ["Windows", "Windows/new.txt"]
    assert not changes["Windows"].metadata_changed
    new = changes["Windows/new.txt"]
    assert (new.kind, new.data_changed, new.size) == (UpperKind.FILE, True, 5)
    assert new.overrides is None
    assert new.origin is None
    assert not new.replaced
    assert new.creation_time > TIME
    assert new.open is not None
    with new.open() as file:
        assert file.read() == b"hello"


def test_changed_data_keeps_what_was_not_changed(scratch: Scratch) -> None:
    with open(scratch.root / "one", "ab") as file:
        file.write(b"2")
    entry = scratch.changes()["one"]
    assert entry.data_changed
    assert entry.overridden == frozenset()
    assert entry.streams is None
    assert entry.creation_time == TIME
    assert entry.write_time > TIME


def test_metadata_alone(scratch: Scratch) -> None:
    os.utime(scratch.root / "one", ns=(1, 1_600_000_000_123_456_700))
    os.chmod(scratch.root / "block", 0o444)
    os.chmod(scratch.root / "read-only", 0o644)
    changes = scratch.changes()
    assert list(changes) == ["block", "one", "read-only"]
    assert not any(entry.data_changed for entry in changes.values())
    assert all(entry.metadata_changed for entry in changes.values())
    assert changes["one"].overridden == frozenset()
    assert changes["block"].overridden == {"attributes"}
    block = changes["block"].overrides
    assert block is not None
    assert block.attributes == FileAttributes.ARCHIVE | FileAttributes.READONLY
    thawed = changes["read-only"].overrides
    assert thawed is not None
    assert thawed.attributes == FileAttributes(0)


def test_a_directory_s_time_alone(scratch: Scratch) -> None:
    os.utime(scratch.root / "Windows" / "System32", ns=(1, 1_600_000_000_000_000_000))
    entry = scratch.changes()["Windows/System32"]
    assert entry.metadata_changed
    assert entry.kind is UpperKind.DIRECTORY


def test_deleted(scratch: Scratch) -> None:
    os.unlink(scratch.root / "one")
    shutil.rmtree(scratch.root / "Many")
    changes = scratch.changes()
    assert {path: e.kind for path, e in changes.items()} == dict.fromkeys(("Many", "one"), UpperKind.WHITEOUT)


def test_deleted_and_made_again(scratch: Scratch) -> None:
    os.unlink(scratch.root / "block")
    (scratch.root / "block").write_bytes(bytes(range(256)) * 2)
    shutil.rmtree(scratch.root / "Many")
    (scratch.root / "Many").mkdir()
    (scratch.root / "Many" / "file number 3.txt").write_bytes(b"3")
    changes = scratch.changes()
    assert list(changes) == ["Many", "block", "Many/file number 3.txt"] or list(changes) == [
        "Many",
        "Many/file number 3.txt",
        "block",
    ]
    assert changes["block"].replaced
    assert changes["block"].data_changed
    assert changes["block"].creation_time > TIME
    assert changes["Many"].opaque
    assert changes["Many"].replaced
    assert changes["Many/file number 3.txt"].data_changed


def test_a_file_in_the_place_of_a_directory_and_the_reverse(scratch: Scratch) -> None:
    shutil.rmtree(scratch.root / "Many")
    (scratch.root / "Many").write_bytes(b"file")
    os.unlink(scratch.root / "one")
    (scratch.root / "one").mkdir()
    changes = scratch.changes()
    assert (changes["Many"].kind, changes["Many"].replaced) == (UpperKind.FILE, True)
    assert (changes["one"].kind, changes["one"].replaced, changes["one"].opaque) == (
        UpperKind.DIRECTORY,
        True,
        False,
    )


def test_a_renamed_file(scratch: Scratch) -> None:
    os.rename(scratch.root / "one", scratch.root / "Windows" / "uno")
    changes = scratch.changes()
    assert changes["one"].kind is UpperKind.WHITEOUT
    moved = changes["Windows/uno"]
    assert (moved.origin, moved.data_changed, moved.overridden) == ("one", False, frozenset())


def test_a_renamed_file_over_another(scratch: Scratch) -> None:
    os.replace(scratch.root / "one", scratch.root / "block")
    moved = scratch.changes()["block"]
    assert (moved.origin, moved.data_changed, moved.replaced) == ("one", False, True)


def test_a_renamed_directory_is_told_with_all_in_it(scratch: Scratch) -> None:
    os.rename(scratch.root / "Many", scratch.root / "Windows" / "Moved")
    (scratch.root / "Windows" / "Moved" / "file number 7.txt").write_bytes(b"changed")
    os.unlink(scratch.root / "Windows" / "Moved" / "file number 8.txt")
    (scratch.root / "Windows" / "Moved" / "new").write_bytes(b"new")
    changes = scratch.changes()
    assert changes["Many"].kind is UpperKind.WHITEOUT
    assert changes["Windows/Moved"].origin == "Many"
    inside = {path: e for path, e in changes.items() if path.startswith("Windows/Moved/")}
    assert len(inside) == 300
    assert "Windows/Moved/file number 8.txt" not in inside
    assert inside["Windows/Moved/file number 7.txt"].data_changed
    assert inside["Windows/Moved/file number 7.txt"].origin == "Many/file number 7.txt"
    assert inside["Windows/Moved/file number 9.txt"].origin == "Many/file number 9.txt"
    assert not inside["Windows/Moved/file number 9.txt"].data_changed
    assert inside["Windows/Moved/new"].origin is None


def test_a_directory_renamed_in_letter_case_alone(scratch: Scratch) -> None:
    os.rename(scratch.root / "Many", scratch.root / "MANY")
    (scratch.root / "MANY" / "file number 7.txt").write_bytes(b"changed")
    changes = scratch.changes()
    assert set(changes) == {"MANY", "MANY/file number 7.txt"}
    assert not changes["MANY"].opaque
    assert not changes["MANY"].replaced
    assert changes["MANY/file number 7.txt"].origin is None


def test_a_second_directory_that_differs_in_case_hides_nothing(scratch: Scratch) -> None:
    (scratch.root / "WINDOWS").mkdir()
    (scratch.root / "WINDOWS" / "new").write_bytes(b"new")
    changes = scratch.changes()
    assert not changes["WINDOWS"].opaque
    assert not any(e.kind is UpperKind.WHITEOUT for e in changes.values())


def test_hard_links(scratch: Scratch) -> None:
    os.link(scratch.root / "block", scratch.root / "block2")
    (scratch.root / "a").write_bytes(b"linked")
    os.link(scratch.root / "a", scratch.root / "Windows" / "z")
    changes = scratch.changes()
    assert changes["block"].identity == changes["block2"].identity is not None
    assert changes["block2"].origin == "block"
    assert changes["a"].identity == changes["Windows/z"].identity is not None


def test_symbolic_links(scratch: Scratch) -> None:
    os.symlink("Windows/b.dll", scratch.root / "link")
    os.rename(scratch.root / "to-drive", scratch.root / "moved-link")
    changes = scratch.changes()
    assert (changes["link"].kind, changes["link"].posix_target) == (UpperKind.SYMLINK, "Windows/b.dll")
    assert changes["moved-link"].origin == "to-drive"
    assert changes["to-drive"].kind is UpperKind.WHITEOUT


def test_attributes_that_were_set(scratch: Scratch) -> None:
    path = scratch.root / "streams"
    os.setxattr(path, "user.added", b"stream")
    os.removexattr(path, "user.Zone.Identifier")
    os.setxattr(scratch.root / "one", "user.ntfs_attrib", (0x22).to_bytes(4, "little"))
    os.removexattr(scratch.root / "one", "user.ntfs_acl")
    os.setxattr(scratch.root / "Many", "user.ntfs_attrib", (0x12).to_bytes(4, "little"))
    changes = scratch.changes()
    assert changes["streams"].streams == (("ntfs_acl", b"trick"), ("added", b"stream"))
    assert not changes["streams"].data_changed
    one = changes["one"]
    assert one.overridden == {"attributes", "security"}
    assert one.overrides is not None
    assert one.overrides.attributes == FileAttributes.ARCHIVE | FileAttributes.HIDDEN
    assert one.overrides.security is None
    assert changes["Many"].overridden == {"attributes"}


def test_streams_too_large_to_be_shown_stay(scratch: Scratch) -> None:
    os.setxattr(scratch.root / "big-stream", "user.added", b"x")
    streams = dict(scratch.changes()["big-stream"].streams or ())
    assert streams == {"big": bytes(70_000), "small": b"s", "n" * 255: b"long name", "added": b"x"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ntfs_attrib", b"abc"),
        ("ntfs_times", bytes(31)),
        ("ntfs_acl", b"\x01"),
        ("ntfs_ea", b"\x00" * 7),
        ("ntfs_reparse_data", b"\x0c"),
        ("ntfs_unknown", b""),
        ("a:b", b""),
    ],
)
def test_attributes_that_mean_nothing_are_refused_by_path(scratch: Scratch, name: str, value: bytes) -> None:
    os.setxattr(scratch.root / "one", f"user.{name}", value)
    with pytest.raises(LayerContentError, match=r"^one: "):
        list(scratch.mounter.changes(scratch.view, str(scratch.state)))


def test_what_windows_can_t_hold_is_refused_by_path(scratch: Scratch) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(scratch.root / "Windows")
        try:
            server.bind("sock")
        finally:
            os.chdir("/")
    with pytest.raises(LayerContentError, match="Windows/sock"):
        list(scratch.mounter.changes(scratch.view, str(scratch.state)))


def test_odd_names(scratch: Scratch) -> None:
    for name in ("日本語" * 28, "x" * 255, "%{D800}"):
        with open(scratch.root / name.replace("%{D800}", "%{25}{D800}"), "ab") as file:
            file.write(b"!")
    (scratch.root / "%{DC00}").write_bytes(b"surrogate")
    changes = scratch.changes()
    assert set(changes) == {"日本語" * 28, "x" * 255, "%{D800}", "\udc00"}
