"""Views mounted with FUSE for tests, and taken down again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.mountviews import ViewBuilder, odd_view
from tests.support import require, require_root
from winlayers.layers.portable.mounts.contract import MountRecord, MountRequest, UpperEntry, UpperKind
from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter
from winlayers.layers.portable.view import View


class Drive:
    """One view, that can be mounted at one place."""

    def __init__(self, folder: Path, view: View) -> None:
        self.view = view
        self.root = folder / "mnt"
        self.state = folder / "state"
        self.mounter = FuseMounter()
        self.record: MountRecord | None = None
        self.root.mkdir()
        self.state.mkdir()

    def mount(self, *, writable: bool = True, size: int | None = None) -> Path:
        state = str(self.state) if writable else None
        request = MountRequest(self.view, os.path.dirname(self.view.path), str(self.root), state, size)
        self.record = self.mounter.mount(request)
        return self.root

    def unmount(self) -> None:
        if self.record is not None:
            self.mounter.unmount(self.record)
            self.record = None

    def remount(self, **options: int | None) -> Path:
        self.unmount()
        return self.mount(size=options.get("size"))

    @property
    def pid(self) -> int:
        assert self.record is not None
        return int(self.record.details["pid"])

    def changes(self) -> dict[str, UpperEntry]:
        entries = list(self.mounter.changes(self.view, str(self.state)))
        assert len({entry.path for entry in entries}) == len(entries)
        seen = {""}
        for entry in entries:
            assert entry.path.rpartition("/")[0] in seen, "a parent comes after its child"
            if entry.kind is UpperKind.DIRECTORY:
                seen.add(entry.path)
        return {entry.path: entry for entry in entries}


def content(entry: UpperEntry) -> bytes:
    """The changed data of an entry."""
    assert entry.open is not None
    with entry.open() as file:
        return file.read()


def require_fuse() -> None:
    """Go on only where FUSE can be mounted."""
    require_root()
    why = FuseMounter().unavailable()
    require(why is None, str(why))


def small_view(home: Path) -> View:
    """A view of a few plain files."""
    b = ViewBuilder(home)
    b.directory("Files/Windows")
    b.directory("Files/Windows/System32")
    b.file("Files/Windows/System32/kernel.dll", b"MZ" * 100_000, streams={"Zone.Identifier": b"[Zone]"})
    b.link("Files/kernel.dll", "Files/Windows/System32/kernel.dll")
    b.file("Files/Windows/win.ini", b"[fonts]")
    b.file("Files/Readme.txt", b"read me")
    return b.finish()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    """A drive of a few files; not mounted yet."""
    require_fuse()
    made = Drive(tmp_path, small_view(tmp_path / "home"))
    yield made
    made.unmount()
    made.view.close()


@pytest.fixture
def odd_drive(tmp_path: Path) -> Iterator[Drive]:
    """A drive of all that is odd; not mounted yet."""
    require_fuse()
    made = Drive(tmp_path, odd_view(tmp_path / "home"))
    yield made
    made.unmount()
    made.view.close()
