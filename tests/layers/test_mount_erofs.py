"""EROFS images and overlays: mounted, compared, changed, taken down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.mountviews import assert_mounted, odd_view
from tests.support import require, require_root
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts import mountinfo
from winlayers.layers.portable.mounts.contract import MountRecord, MountRequest
from winlayers.layers.portable.mounts.erofs import ErofsMounter
from winlayers.layers.portable.view import View

pytestmark = pytest.mark.root


class Mounted:
    """Mounts views below a folder, and takes all down at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[tuple[ErofsMounter, MountRecord]] = []

    def mount(
        self, view: View, *, writable: bool = False, size: int | None = None, use_loop: bool = False
    ) -> tuple[str, MountRecord]:
        mounter = ErofsMounter(use_loop=use_loop)
        why = mounter.unavailable()
        require(why is None, str(why))
        target = self.folder / "mnt"
        target.mkdir(exist_ok=True)
        state = self.folder / "state"
        if writable:
            state.mkdir(exist_ok=True)
        request = MountRequest(
            view, os.path.dirname(view.path), str(target), str(state) if writable else None, size
        )
        record = mounter.mount(request)
        self.records.append((mounter, record))
        return str(target), record

    def unmount(self, record: MountRecord) -> None:
        ErofsMounter().unmount(record)

    def close(self) -> None:
        for mounter, record in reversed(self.records):
            mounter.unmount(record)
        assert not mountinfo.mounts_at(str(self.folder / "mnt"))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    require_root()
    mounts = Mounted(tmp_path)
    yield mounts
    mounts.close()


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with odd_view(tmp_path / "home") as view:
        yield view


@pytest.mark.parametrize("use_loop", [False, True])
def test_a_read_only_mount_shows_all_that_the_view_holds(
    mounted: Mounted, view: View, use_loop: bool
) -> None:
    target, record = mounted.mount(view, use_loop=use_loop)
    assert assert_mounted(view, target) == view.count() - 1
    assert not record.writable
    with pytest.raises(OSError, match="Read-only"):
        Path(target, "new").write_bytes(b"")


def test_a_writable_mount_shows_the_same(mounted: Mounted, view: View) -> None:
    target, record = mounted.mount(view, writable=True)
    assert record.writable
    assert_mounted(view, target, room=xattrs.WRITABLE_ROOM)
