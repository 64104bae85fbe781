"""The shipped suite where stores lie, with every kind of mount: ext4, XFS, btrfs, tmpfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import missing, require, require_root
from winlayers.layers.portable.mounts import mountinfo, select, syscalls
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo, LayerService
from winlayers.testing import LayerServiceSuite

KINDS = [mounter.kind for mounter in select.mounters()]
_SIZES = {"ext4": 256 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}
_OPTIONS = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"], "btrfs": ["-q", "-f"]}


@contextlib.contextmanager
def mounted(kind: str, folder: Path, *, size: int | None = None) -> Iterator[Path]:
    """A fresh file system of that kind, of *size* bytes, at a folder below *folder*."""
    require_root()
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    target = folder / "mounted"
    target.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size or 256 << 20}", "tmpfs", str(target)]
    else:
        search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        mkfs = shutil.which(f"mkfs.{kind}", path=search)
        require(mkfs is not None, f"mkfs.{kind} is not installed")
        image = folder / f"{kind}.img"
        with open(image, "wb") as file:
            file.truncate(size or _SIZES[kind])
        subprocess.run([str(mkfs), *_OPTIONS[kind], str(image)], check=True, capture_output=True, timeout=120)
        command = ["mount", "-o", "loop", "-t", kind, str(image), str(target)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if made.returncode:
        missing(f"{kind} can't be mounted here ({'known' if kind in known else 'unknown'}): {made.stderr}")
    try:
        yield target
    finally:
        for mount in reversed(mountinfo.mounts()):
            if mount.target == str(target) or mount.target.startswith(f"{target}/"):
                syscalls.unmount(mount.target, syscalls.UMOUNT_DETACH)


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on each kind of file system in turn."""
    folder = tmp_path_factory.mktemp(request.param).resolve()
    with mounted(request.param, folder) as target:
        yield target


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of mount in turn."""
    why = select.by_kind(request.param).unavailable()
    require(why is None, f"layers can't be mounted by {request.param}: {why}")
    return str(request.param)


@pytest.mark.root
class TestOnEveryFileSystem(LayerServiceSuite):
    @pytest.fixture
    def service(self, place: Path, kind: str) -> Iterator[LayerService]:
        self.view_is_case_blind = kind == "fuse"
        home = place / "home"
        service = PortableLayerService(DriverInfo(str(home)), mount=kind)
        service.check_home()
        yield service
        for layer_id in service.store.ids():
            service.deactivate(layer_id)
        shutil.rmtree(home)
