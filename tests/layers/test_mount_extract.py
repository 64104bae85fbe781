"""Extracted views: compared, shared, changed, taken away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.mountviews import assert_mounted, odd_view
from winlayers.layers.portable import xattrs
from winlayers.layers.portable.mounts.contract import MountRequest
from winlayers.layers.portable.mounts.extract import ExtractMounter
from winlayers.layers.portable.view import View


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    with odd_view(tmp_path / "home") as view:
        yield view


def test_a_writable_tree_shows_all_that_the_view_holds(tmp_path: Path, view: View) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "state").mkdir()
    request = MountRequest(view, os.path.dirname(view.path), str(tmp_path / "mnt"), str(tmp_path / "state"))
    mounter = ExtractMounter()
    record = mounter.mount(request)
    assert mounter.is_alive(record)
    assert_mounted(view, record.target, room=xattrs.WRITABLE_ROOM, link_attributes=False, oldest=-(2**31))
    assert list(mounter.changes(view, str(tmp_path / "state"))) == []
    mounter.unmount(record)
    assert os.listdir(tmp_path / "mnt") == []
    assert not mounter.is_alive(record)
    assert list(mounter.changes(view, str(tmp_path / "state"))) == []
