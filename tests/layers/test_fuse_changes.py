"""What a FUSE mount's scratch layer says that it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.layers.fusemounts import Drive, content, drive, odd_drive
from tests.layers.mountviews import DESCRIPTOR, FOLDER
from winlayers.layers.portable.mounts.contract import UpperKind
from winlayers.win32.attributes import FileAttributes

__all__ = ["drive", "odd_drive"]
pytestmark = pytest.mark.root

DLL = "Windows/System32/kernel.dll"


def paths(drive: Drive) -> set[str]:
    return set(drive.changes())


def test_nothing_done_is_nothing_changed(drive: Drive) -> None:
    assert paths(drive) == set()
    root = drive.mount()
    assert (root / DLL).read_bytes()
    assert list(root.rglob("*"))
    with (root / "Readme.txt").open("ab"):
        pass
    assert paths(drive) == set()
    drive.unmount()
    assert paths(drive) == set()


def test_added(drive: Drive) -> None:
    root = drive.mount()
    (root / "Windows" / "made").mkdir()
    (root / "Windows" / "made" / "new.txt").write_bytes(b"new")
    changes = drive.changes()
    assert list(changes) == ["Windows", "Windows/made", "Windows/made/new.txt"]
    assert not changes["Windows"].metadata_changed
    assert changes["Windows"].write_time > FOLDER.write_time
    made, new = changes["Windows/made"], changes["Windows/made/new.txt"]
    assert (made.kind, made.opaque, made.replaced, made.origin) == (UpperKind.DIRECTORY, False, False, None)
    assert (new.kind, new.data_changed, new.size, content(new)) == (UpperKind.FILE, True, 3, b"new")
    assert new.overrides is not None
    assert new.overrides.attributes == FileAttributes.ARCHIVE
    assert new.creation_time == new.overrides.creation_time > 0


def test_data_changed(drive: Drive) -> None:
    root = drive.mount()
    with (root / "Windows" / "win.ini").open("ab") as file:
        file.write(b"more")
    changes = drive.changes()
    assert set(changes) == {"Windows", "Windows/win.ini"}
    entry = changes["Windows/win.ini"]
    assert (entry.data_changed, entry.origin, entry.replaced) == (True, None, False)
    assert content(entry) == b"[fonts]more"
    assert entry.overrides is None


def test_every_name_of_a_linked_file_is_told(drive: Drive) -> None:
    root = drive.mount()
    with (root / "kernel.dll").open("r+b") as file:
        file.write(b"XX")
    changes = drive.changes()
    assert set(changes) == {"kernel.dll", "Windows", "Windows/System32", DLL}
    assert changes["kernel.dll"].identity == changes[DLL].identity is not None
    assert content(changes[DLL]) == b"XX" + b"MZ" * 99_999


def test_metadata_only(drive: Drive) -> None:
    root = drive.mount()
    os.utime(root / "Readme.txt", ns=(0, 0))
    os.setxattr(root / "Windows", "user.ntfs_attrib", (0x12).to_bytes(4, "little"))
    os.chmod(root / "Windows" / "win.ini", 0o444)
    changes = drive.changes()
    assert set(changes) == {"Readme.txt", "Windows", "Windows/win.ini"}
    assert not any(entry.data_changed for entry in changes.values())
    assert all(entry.metadata_changed for entry in changes.values())
    assert changes["Readme.txt"].overrides is None
    assert changes["Windows"].overridden == {"attributes"}
    assert changes["Windows/win.ini"].overrides is not None
    assert changes["Windows/win.ini"].overrides.attributes & FileAttributes.READONLY


def test_deleted(drive: Drive) -> None:
    root = drive.mount()
    (root / "README.TXT").unlink()
    (root / "Windows" / "System32" / "kernel.dll").unlink()
    (root / "Windows" / "System32").rmdir()
    (root / "gone").touch()
    (root / "gone").unlink()
    changes = drive.changes()
    assert {path: entry.kind for path, entry in changes.items()} == {
        "Readme.txt": UpperKind.WHITEOUT,
        "Windows": UpperKind.DIRECTORY,
        "Windows/System32": UpperKind.WHITEOUT,
    }


def test_made_again(drive: Drive) -> None:
    root = drive.mount()
    (root / "Readme.txt").unlink()
    (root / "README.txt").write_bytes(b"another")
    (root / "Windows" / "win.ini").unlink()
    (root / "Windows" / "win.ini").mkdir()
    changes = drive.changes()
    assert set(changes) == {"README.txt", "Windows", "Windows/win.ini"}
    assert changes["README.txt"].replaced
    assert changes["README.txt"].origin is None
    assert changes["Windows/win.ini"].kind is UpperKind.DIRECTORY
    assert changes["Windows/win.ini"].replaced
    assert not changes["Windows/win.ini"].opaque


def test_directory_made_again_hides_what_was_in_it(drive: Drive) -> None:
    root = drive.mount()
    for path in sorted((root / "Windows").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (root / "Windows").rmdir()
    (root / "Windows").mkdir()
    (root / "Windows" / "win.ini").write_bytes(b"new")
    changes = drive.changes()
    assert set(changes) == {"Windows", "Windows/win.ini"}
    assert changes["Windows"].opaque
    assert changes["Windows"].replaced
    assert changes["Windows/win.ini"].replaced


def test_moved_directory_is_told_whole(drive: Drive) -> None:
    root = drive.mount()
    (root / "Windows").rename(root / "W")
    (root / "W" / "System32").rename(root / "S")
    (root / "W" / "new").touch()
    changes = drive.changes()
    assert {path: entry.origin for path, entry in changes.items()} == {
        "S": "Windows/System32",
        "S/kernel.dll": DLL,
        "W": "Windows",
        "W/new": None,
        "W/win.ini": "Windows/win.ini",
        "Windows": None,
        "kernel.dll": None,  # stays one file with what moved
    }
    assert changes["Windows"].kind is UpperKind.WHITEOUT
    assert changes["kernel.dll"].identity == changes["S/kernel.dll"].identity is not None
    assert not any(entry.data_changed for path, entry in changes.items() if path != "W/new")


def test_moved_over_another(drive: Drive) -> None:
    root = drive.mount()
    (root / "Windows" / "win.ini").rename(root / "readme.TXT")
    changes = drive.changes()
    assert {path: (entry.kind, entry.origin, entry.replaced) for path, entry in changes.items()} == {
        "Windows": (UpperKind.DIRECTORY, None, False),
        "Windows/win.ini": (UpperKind.WHITEOUT, None, False),
        "readme.TXT": (UpperKind.FILE, "Windows/win.ini", True),
    }


def test_hard_link_of_a_file_below(drive: Drive) -> None:
    root = drive.mount()
    os.link(root / "Readme.txt", root / "Second.txt")
    changes = drive.changes()
    assert {path: entry.origin for path, entry in changes.items()} == {
        "Readme.txt": None,
        "Second.txt": "Readme.txt",
    }
    assert changes["Readme.txt"].identity == changes["Second.txt"].identity is not None


def test_links_of_the_layers_that_move(odd_drive: Drive) -> None:
    root = odd_drive.mount()
    (root / "to-file").rename(root / "Many" / "to-file")
    os.utime(root / "junction", ns=(0, 0), follow_symlinks=False)
    changes = odd_drive.changes()
    assert changes["Many/to-file"].kind is UpperKind.SYMLINK
    assert changes["Many/to-file"].origin == "to-file"
    assert (changes["junction"].kind, changes["junction"].data_changed) == (UpperKind.SYMLINK, False)
    assert changes["to-file"].kind is UpperKind.WHITEOUT


def test_odd_names_come_back_as_they_are(odd_drive: Drive) -> None:
    root = odd_drive.mount()
    for name in os.listdir(root):
        if (root / name).is_file() and not (root / name).is_symlink():
            os.utime(root / name, ns=(1, 1))
    (root / "new%{D800}").touch()
    changes = odd_drive.changes()
    assert {"lone\ud800", "語" * 255, "%{D800}", "aux", "blank ", "new\ud800"} <= set(changes)


def test_streams_that_are_not_shown_are_kept(odd_drive: Drive) -> None:
    root = odd_drive.mount()
    os.setxattr(root / "big-stream", "user.small", b"changed")
    entry = odd_drive.changes()["big-stream"]
    assert entry.streams == (("big", bytes(70_000)), ("small", b"changed"), ("n" * 255, b"long name"))


def test_told_while_it_is_written(drive: Drive) -> None:
    root = drive.mount()
    with (root / "kernel.dll").open("r+b") as file:
        file.write(b"first")
        file.flush()
        os.fsync(file.fileno())
        entry = drive.changes()[DLL]
        file.seek(100_000)
        file.write(b"second")
        file.flush()
        assert content(entry)[:5] == b"first"
    assert content(drive.changes()[DLL])[100_000:100_006] == b"second"


def test_directory_whose_content_came_and_went(drive: Drive) -> None:
    root = drive.mount()
    (root / "Windows" / "x").touch()
    (root / "Windows" / "x").unlink()
    changes = drive.changes()
    assert set(changes) == {"Windows"}
    assert changes["Windows"].metadata_changed  # its times are


def test_descriptor_of_the_time_of_making(drive: Drive) -> None:
    root = drive.mount()
    (root / "Windows" / "before").touch()
    os.removexattr(root / "Windows", "user.ntfs_acl")
    (root / "Windows" / "after").touch()
    changes = drive.changes()
    before, after = changes["Windows/before"].overrides, changes["Windows/after"].overrides
    assert before is not None
    assert after is not None
    assert before.security is not None
    assert before.security != DESCRIPTOR
    assert after.security is None
    assert "security" in changes["Windows/after"].overridden


def test_no_state_at_all(drive: Drive, tmp_path: Path) -> None:
    assert list(drive.mounter.changes(drive.view, str(tmp_path / "nowhere"))) == []
