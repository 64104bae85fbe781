"""Work under hidden names is nobody's leftover while it lasts, and is one once its maker is gone."""

from __future__ import annotations

import errno
import functools
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import require
from winlayers import durable
from winlayers.images.layout import OciLayout
from winlayers.layers import DriverInfo
from winlayers.layers.portable import check as checking
from winlayers.layers.portable import merge
from winlayers.layers.portable.digests import file_digest, seal
from winlayers.layers.portable.mounts.contract import MountRequest
from winlayers.layers.portable.service import PortableLayerService
from winlayers.testing.tars import Member, make_tar, windows_records

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be removed there")

TAR = make_tar(
    Member("Files/", pax=windows_records(0x10)), Member("Files/a", b"a", pax=windows_records(0x20))
)


class Sweeper:
    """Sweeps folders as a process in another process name space does, to which no process here is there.

    Attributes:
        seen: how many hidden names it has come by.
    """

    def __init__(self) -> None:
        self.seen = 0

    def sweep(self, *folders: str | os.PathLike[str]) -> None:
        """Sweep; there is nothing to be taken."""
        for folder in [os.fspath(folder) for folder in folders]:
            self.seen += sum(name.startswith(durable.TEMPORARY_PREFIX) for name in os.listdir(folder))
            assert durable.sweep(folder) == []

    def before(self, call: Callable[..., object], *folders: str | os.PathLike[str]) -> Callable[..., object]:
        """*call*, with a sweep before it."""

        @functools.wraps(call)
        def wrapped(*args: object, **options: object) -> object:
            self.sweep(*(folder for folder in folders if os.path.isdir(folder)))
            return call(*args, **options)

        return wrapped


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweeper]:
    """One that must have come by something."""
    monkeypatch.setattr(durable, "_owner_of", lambda name: False)
    sweeper = Sweeper()
    yield sweeper
    assert sweeper.seen


@pytest.fixture
def service(tmp_path: Path) -> PortableLayerService:
    """A store with one layer, ``base``."""
    service = PortableLayerService(DriverInfo(os.fspath(tmp_path / "home")), mount="extract")
    service.import_tar("base", [], io.BytesIO(TAR))
    return service


def test_files_that_replace_others(tmp_path: Path, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", sweeper.before(os.replace, tmp_path))
    durable.write_bytes(os.fspath(tmp_path / "file"), b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_blobs(tmp_path: Path, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = OciLayout.create(tmp_path / "layout")
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    monkeypatch.setattr(os, "replace", sweeper.before(os.replace, blobs))
    with layout.writer() as writer:
        writer.write(b"con")
        sweeper.sweep(blobs)
        writer.write(b"tent")
        writer.commit(f"sha256:{'0' * 64}")
    assert (blobs / ("0" * 64)).read_bytes() == b"content"
    with layout.writer() as writer:
        writer.write(b"abandoned")
    assert os.listdir(blobs) == ["0" * 64]


def test_views(service: PortableLayerService, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = service.store.folder("base")
    monkeypatch.setattr(merge, "seal", sweeper.before(seal, folder))
    with service.views.open("base") as view:
        assert view.resolve("Files/a") is not None
    assert not [name for name in os.listdir(folder) if name.startswith(durable.TEMPORARY_PREFIX)]


def test_restored_tars(
    service: PortableLayerService, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(service.store.folder("base"))
    (folder / "layer.tar").unlink()

    def restore(layer_id: str, digest: str, target: str) -> bool:
        Path(target).write_bytes(TAR)
        sweeper.sweep(folder)
        return True

    monkeypatch.setattr(checking, "file_digest", sweeper.before(file_digest, folder))
    (finding,) = service.check(repair=True, restore=restore)
    assert finding.mended
    assert (folder / "layer.tar").read_bytes()[: len(TAR)] == TAR
    assert list(service.check()) == []


def test_what_could_not_be_removed_is_a_leftover_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "remove_tree", fail)
        with pytest.raises(OSError, match="busy"), durable.hidden_folder(os.fspath(tmp_path)) as hidden:
            pass
    monkeypatch.setattr(durable, "_owner_of", lambda name: False)
    assert durable.sweep(os.fspath(tmp_path)) == [os.path.basename(hidden)]


@pytest.mark.parametrize("writable", [True, False])
def test_extracted_trees(
    service: PortableLayerService,
    sweeper: Sweeper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writable: bool,
) -> None:
    from winlayers.layers.portable.mounts import extract

    state, target = tmp_path / "state", tmp_path / "target"
    state.mkdir()
    target.mkdir()
    folder = service.store.folder("base")
    settle = sweeper.before(extract._settle, state, Path(folder, "extract"))
    monkeypatch.setattr(extract, "_settle", settle)
    mounter = extract.ExtractMounter()
    with service.views.open("base") as view:
        request = MountRequest(view, folder, os.fspath(target), os.fspath(state) if writable else None)
        record = mounter.mount(request)
    assert (target / "a").read_bytes() == b"a"
    mounter.unmount(record)
    assert not [*state.glob(".tmp-*"), *Path(folder, "extract").glob(".tmp-*")]


def test_a_process_that_nobody_has_asked_after_has_ended(tmp_path: Path) -> None:
    require(os.path.exists("/proc/self/stat"), "needs /proc")
    script = "import sys, winlayers.durable as d; print(d.owner(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        leftover = tmp_path / f"{durable.TEMPORARY_PREFIX}{owner}-file"
        leftover.touch()
        assert durable.owner_lives(owner)
        assert not durable.is_leftover(os.fspath(leftover))
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays what is called a zombie
        assert durable.is_alive(process.pid)
        assert not durable.owner_lives(owner)
        assert durable.sweep(os.fspath(tmp_path)) == [leftover.name]
