"""Which kind of mount is picked, and why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import require, require_tool
from winlayers.errors import MountError, UnsupportedError
from winlayers.layers.portable.mounts import mountinfo, select
from winlayers.layers.portable.mounts.contract import Mounter, MountRecord, MountRequest, UpperEntry
from winlayers.layers.portable.view import View


class _Kind(Mounter):
    """A kind of which only the choice counts."""

    def __init__(self, kind: str, why: str | None, enforces_size: bool) -> None:
        self.kind = kind
        self.enforces_size = enforces_size
        self._why = why

    def unavailable(self) -> str | None:
        return self._why

    def mount(self, request: MountRequest) -> MountRecord:
        raise UnsupportedError("only the choice counts")

    def unmount(self, record: MountRecord) -> None:
        raise UnsupportedError("only the choice counts")

    def is_alive(self, record: MountRecord) -> bool:
        return False

    def changes(self, view: View, state_dir: str) -> Iterator[UpperEntry]:
        return iter(())


def _offer(monkeypatch: pytest.MonkeyPatch, *kinds: _Kind) -> None:
    monkeypatch.setattr(select, "mounters", lambda: list(kinds))


def test_the_first_that_can_be_used_is_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, _Kind("a", None, False), _Kind("b", None, True))
    assert select.pick()[0].kind == "a"


def test_the_reason_says_what_can_t_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, _Kind("a", "needs root", True), _Kind("b", None, True))
    mounter, why = select.pick("auto")
    assert mounter.kind == "b"
    assert why == "no a: needs root"


def test_a_size_prefers_kinds_that_enforce_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, _Kind("a", None, False), _Kind("b", None, True))
    mounter, why = select.pick(need_size=True)
    assert (mounter.kind, why) == ("b", "a can't enforce a size here")
    _offer(monkeypatch, _Kind("a", "no", True), _Kind("b", None, False), _Kind("c", None, False))
    assert select.pick(need_size=True)[0].kind == "b"


def test_one_that_was_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, _Kind("a", "needs root", True), _Kind("b", None, False))
    assert select.pick("b") == (select.by_kind("b"), "asked for")
    with pytest.raises(MountError, match="'a' can't be used here: needs root"):
        select.pick("a")
    with pytest.raises(MountError, match=r"no kind of mount 'c' \(known are auto, a, b\)"):
        select.pick("c")


def test_nothing_to_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, _Kind("a", "needs root", True), _Kind("b", "needs /dev/fuse", True))
    with pytest.raises(MountError, match="no a: needs root; no b: needs /dev/fuse"):
        select.pick()


def test_the_kinds_that_there_are() -> None:
    kinds = [mounter.kind for mounter in select.mounters()]
    assert kinds[0] == "erofs"
    assert kinds[-1] == "extract"
    assert len(set(kinds)) == len(kinds)
    assert select.pick()[0].unavailable() is None


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="needs Linux")
def test_a_user_who_is_root_in_a_name_space_alone_can_still_extract() -> None:
    command = [require_tool("unshare"), "-Urm", sys.executable, "-c", _IN_NAME_SPACE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    require("unshare failed" not in done.stderr, "user name spaces are not allowed here")
    assert done.stdout.splitlines() == ["EROFS can't be mounted in a user name space", "None"], done.stderr


_IN_NAME_SPACE = """
from winlayers.layers.portable.mounts import select
print(select.by_kind("erofs").unavailable())
print(select.by_kind("extract").unavailable())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/mountinfo"), reason="needs Linux")
def test_mounts_are_read() -> None:
    root = mountinfo.mounts_at("/")
    assert root
    assert mountinfo.find("/", root[-1].id) == root[-1]
    assert mountinfo.find("/", 0) is None
    assert len(mountinfo.boot_id()) == 36
    fd = os.open("/", os.O_RDONLY)
    try:
        assert mountinfo.id_of_descriptor(fd) == root[-1].id
    finally:
        os.close(fd)
