"""The portable service with FUSE mounts: the shipped suite, a real image, the same answers as EROFS."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.layers.fusemounts import require_fuse
from tests.layers.mountviews import assert_mounted, real_view
from tests.support import require
from winlayers.layers.portable.mounts.erofs import ErofsMounter
from winlayers.layers.portable.mounts.fusefs import processes
from winlayers.layers.portable.mounts.fusefs.attributes import ROOM
from winlayers.layers.portable.mounts.fusefs.mounter import FuseMounter
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.view import View, ViewInode
from winlayers.layers.service import ChangeKind, DriverInfo, LayerService
from winlayers.testing import LayerServiceSuite
from winlayers.win32.attributes import FileAttributes

pytestmark = pytest.mark.root


class TestSuite(LayerServiceSuite):
    can_mount = os.geteuid() == 0 and FuseMounter().unavailable() is None
    view_is_case_blind = True

    @pytest.fixture
    def service(self, tmp_path: Path) -> LayerService:
        service = PortableLayerService(DriverInfo(str(tmp_path / "home")), mount="fuse")
        service.check_home()
        return service


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The home of a store with the sample image, and the chain of its layers."""
    require_fuse()
    home = tmp_path_factory.mktemp("image") / "home"
    with real_view(home) as view:
        names = [layer.name for layer in view.layers]
    return home, [str(home / name) for name in reversed(names)]


def mounted(home: Path, chain: list[str], kind: str, layer_id: str) -> tuple[PortableLayerService, Path]:
    service = PortableLayerService(DriverInfo(str(home)), mount=kind)
    service.create_scratch(layer_id, chain)
    service.activate(layer_id)
    service.prepare(layer_id, chain)
    return service, Path(service.mount_path(layer_id))


def unmounted(service: PortableLayerService, layer_id: str) -> None:
    service.unprepare(layer_id)
    service.deactivate(layer_id)


def test_real_image_is_shown_whole(image: tuple[Path, list[str]]) -> None:
    home, chain = image
    service, root = mounted(home, chain, "fuse", "shown")
    try:
        with service.views.open(os.path.basename(chain[0])) as view:
            assert assert_mounted(view, str(root), room=ROOM) > 700
    finally:
        unmounted(service, "shown")
        service.destroy("shown")


def install(root: Path) -> None:
    """What an installer does: files made, changed, moved, removed, linked."""
    windows = root / "Windows"
    app = root / "App"
    app.mkdir()
    for number in range(20):
        (app / f"module {number}.py").write_bytes(b"print(%d)\n" % number * number)
        os.utime(app / f"module {number}.py", ns=(10**18, 10**18 + number * 100))
    os.link(app / "module 3.py", app / "linked.py")
    os.symlink("module 4.py", app / "current.py")
    victims = sorted(p for p in windows.rglob("*") if p.is_file() and not p.is_symlink())
    singles = [p for p in victims if p.stat().st_nlink == 1]
    with singles[0].open("ab") as file:
        file.write(b"appended")
    singles[1].unlink()
    singles[2].rename(app / "moved from Windows")
    singles[3].unlink()
    singles[3].write_bytes(b"made again")
    os.setxattr(singles[4], "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    os.chmod(singles[5], 0o444)
    os.utime(singles[5], ns=(10**18, 10**18))
    folders = sorted(p for p in windows.iterdir() if p.is_dir() and not p.is_symlink())
    folders[0].rename(root / "renamed folder")
    (windows / "fresh").mkdir()
    os.setxattr(windows / "fresh", "user.ntfs_attrib", (0x12).to_bytes(4, "little"))
    (windows / "fresh" / "file").write_bytes(b"inherits")


def told(view: View) -> dict[str, tuple[object, ...]]:
    """What a view says of every file, but for times that the clock gave."""

    def about(inode: ViewInode) -> tuple[object, ...]:
        m = inode.metadata
        when = m.write_time if not inode.is_directory and m.write_time < 131_000_000_000_000_000 else 0
        streams = tuple(sorted((s.name, view.read(s.extent)) for s in inode.streams))
        attributes = m.attributes & ~FileAttributes.ARCHIVE
        return (
            inode.is_directory,
            attributes,
            m.security,
            m.reparse,
            m.eas,
            when,
            view.read(inode.extent),
            streams,
        )

    return {path: about(inode) for path, _, inode in view.walk()}


def test_same_layer_as_from_erofs_and_overlay(image: tuple[Path, list[str]]) -> None:
    why = ErofsMounter().unavailable()
    require(why is None, str(why))
    home, chain = image
    found = {}
    for kind in ("erofs", "fuse"):
        service, root = mounted(home, chain, kind, f"{kind}-scratch")
        try:
            install(root)
        finally:
            unmounted(service, f"{kind}-scratch")
        tar = service.export_tar(f"{kind}-scratch", chain).read()
        changes = {
            change.path: change.kind
            for change in service.changes(f"{kind}-scratch", chain)
            if not (change.is_directory and change.kind is ChangeKind.MODIFY)
        }
        service.import_tar(f"{kind}-next", chain, io.BytesIO(tar))
        with service.views.open(f"{kind}-next") as view:
            found[kind] = (told(view), changes)
        for layer_id in (f"{kind}-scratch", f"{kind}-next"):
            service.destroy(layer_id)
    assert found["fuse"][0].keys() == found["erofs"][0].keys()
    for path, facts in found["fuse"][0].items():
        assert facts == found["erofs"][0][path], path
    assert found["fuse"][1] == found["erofs"][1]
    assert len(found["fuse"][1]) > 25


def files_below(root: Path) -> list[bytes]:
    command = ["find", ".", "-type", "f", "-size", "-64k"]
    return sorted(subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.split(b"\n"))


def test_commit_and_mount_what_was_committed(image: tuple[Path, list[str]]) -> None:
    home, chain = image
    service, root = mounted(home, chain, "fuse", "first")
    try:
        install(root)
        before = files_below(root)
        changes = list(service.changes("first", chain))  # while it is mounted
        tar = service.export_tar("first", chain).read()
    finally:
        unmounted(service, "first")
    assert list(service.changes("first", chain)) == changes
    assert service.export_tar("first", chain).read() == tar
    service.import_tar("committed", chain, io.BytesIO(tar))
    again, root = mounted(home, [service.layer_path("committed"), *chain], "fuse", "second")
    try:
        after = files_below(root)
        assert after == before
        assert (root / "APP" / "LINKED.PY").read_bytes() == b"print(3)\n" * 3
        assert (root / "App" / "module 3.py").stat().st_nlink == 2
        assert os.readlink(root / "App" / "current.py") == "module 4.py"
        assert list(again.changes("second", [service.layer_path("committed"), *chain])) == []
    finally:
        unmounted(again, "second")


def test_crash_is_found_and_mended(image: tuple[Path, list[str]]) -> None:
    home, chain = image
    service, root = mounted(home, chain, "fuse", "crashed")
    (root / "made").write_bytes(b"made before the crash")
    record = service.mounts.stale("crashed")
    assert record is None
    use = service.mounts._read("crashed")
    assert use is not None
    assert use.mount is not None
    details = use.mount.details
    os.kill(int(details["pid"]), signal.SIGKILL)
    assert processes.wait_for_end(int(details["pid"]), details["start"], 60)
    other = PortableLayerService(DriverInfo(str(home)), mount="fuse")
    assert other.mounts.stale("crashed") is not None
    assert not other.is_prepared("crashed")
    other.activate("crashed")
    other.prepare("crashed", chain)
    try:
        assert (Path(other.mount_path("crashed")) / "made").read_bytes() == b"made before the crash"
    finally:
        unmounted(other, "crashed")
    other.destroy("crashed")
