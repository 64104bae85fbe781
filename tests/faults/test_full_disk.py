"""A disk that fills up at any point: one clear error, nothing half done left, all that was there before."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.operations import (
    OPERATIONS,
    Operation,
    chain,
    check,
    hidden_below,
    mounted_use,
    open_service,
)
from tests.faults.recovery import assert_recovers, outcome, require_mount, start
from tests.layers.test_filesystems import mounted
from winlayers.cli.main import run
from winlayers.errors import StoreError, WinlayersError
from winlayers.layers import DriverInfo
from winlayers.layers.portable.erofs import image
from winlayers.layers.portable.erofs.image import ensure_image
from winlayers.layers.portable.service import PortableLayerService
from winlayers.store import open_store
from winlayers.testing.sample_image import write_sample_image
from winlayers.testing.tars import Member, make_tar

_STEP = 12 << 10
_MOST_ROOM = 1200 << 10
pytestmark = pytest.mark.root


@pytest.mark.parametrize("missing", ["room", "a folder"])
def test_check_blames_no_file_for_what_temporary_files_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    service = PortableLayerService(DriverInfo(os.fspath(tmp_path / "home")))
    service.import_tar("base", [], io.BytesIO(make_tar(Member("Files/"), Member("Files/a", b"a"))))
    with service.views.open("base") as view:
        made = ensure_image(view, service.store.folder("base"), writable=False)
    assert list(service.check(repair=True)) == []
    if missing == "room":

        def write(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(image, "_write", write)
    else:
        monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path / "missing"))
    with pytest.raises(StoreError, match=r"no temporary file can be written .*TMPDIR"):
        list(service.check(repair=True))
    assert os.path.exists(made)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with little room."""
    # Not ext4, which keeps some room for itself that statvfs calls free.
    with mounted("tmpfs", tmp_path_factory.mktemp("small").resolve(), size=16 << 20) as target:
        yield target


def leave(folder: Path, room: int) -> None:
    """Fill the file system until only *room* bytes are free."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, free_in(folder) - room - (256 << 10)))
            file.seek(0, os.SEEK_END)
            while free_in(folder) > room:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def free_in(folder: Path) -> int:
    """Bytes that root can still write."""
    free = os.statvfs(folder)
    return free.f_bfree * free.f_frsize


def refusal(operation: Operation, service: PortableLayerService, folder: Path) -> str | None:
    """Do the operation, then make room again; what it was refused with, if it was."""
    try:
        operation.run(service)
    except WinlayersError as error:
        return str(error)
    finally:
        (folder / "filler").unlink()
    return None


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_disk_is_full_at_any_point(operation: Operation, small: Path, tmp_path: Path) -> None:
    if operation.mount == "fuse":
        pytest.skip("a process of its own writes there")
    require_mount(operation)
    after = outcome(operation, str(tmp_path / "outcome"))
    refused = 0
    for room in range(0, _MOST_ROOM, _STEP):
        home = Path(tempfile.mkdtemp(dir=small), "home")
        before = start(operation, str(home))
        service = operation.open(str(home))
        os.sync()
        leave(small, room)
        said = refusal(operation, service, small)
        if said is not None:
            refused += 1
            assert "\n" not in said
            left = hidden_below(str(home))
            assert not left, (said, left)
        assert_recovers(operation, str(home), before, after)
        if service.exists("scratch"):
            service.deactivate("scratch")
        shutil.rmtree(home.parent)
        if said is None and room > _STEP:
            break
    else:
        pytest.fail("it needs more room than there is")
    needs_none = operation.name.startswith(("destroy", "remove", "repair"))
    assert refused or needs_none, "there was room from the beginning"


def test_a_view_that_is_full(small: Path) -> None:
    """What is written through a mount meets ENOSPC as anywhere; the layer stays whole."""
    home = str(small / "view")
    service = open_service(home, "erofs")
    require_mount(Operation("", lambda _: None, lambda _: None, mount="erofs"))
    service.import_tar("base", [], io.BytesIO(make_tar(Member("Files/"), Member("Files/keep.txt", b"kept"))))
    service.import_tar("delta", chain(service, "base"), io.BytesIO(make_tar(Member("Files/"))))
    service.create_scratch("scratch", chain(service, "delta", "base"))
    service.activate("scratch")
    service.prepare("scratch", chain(service, "delta", "base"))
    leave(small, 64 << 10)
    with pytest.raises(OSError, match="No space left"):
        Path(service.mount_path("scratch"), "big").write_bytes(bytes(1 << 20))
    (small / "filler").unlink()
    service.deactivate("scratch")
    assert check(service) == []
    mounted_use(service)
    assert check(service) == []
    shutil.rmtree(home)


def test_the_command_says_it_in_one_line(small: Path, tmp_path: Path) -> None:
    write_sample_image(tmp_path / "layout")
    root = small / "root"
    command = [sys.executable, "-m", "winlayers", "--root", str(root)]
    leave(small, 200 << 10)
    load = [*command, "load", f"oci:{tmp_path / 'layout'}"]
    done = subprocess.run(load, capture_output=True, text=True, timeout=60)
    (small / "filler").unlink()
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("winlayers: ")]
    assert len(said) == 1
    assert "No space left" in said[0] or "full" in said[0]
    assert "Traceback" not in done.stderr
    subprocess.run([*command, "check"], check=True, capture_output=True, timeout=60)
    subprocess.run(load, check=True, capture_output=True, timeout=60)
    shutil.rmtree(root)


def test_looking_in_goes_on_without_the_store(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sample_image(tmp_path / "layout")
    look = ["ls", "-R", f"oci:{tmp_path / 'layout'}"]
    assert run(["--root", os.fspath(tmp_path / "root"), "-q", *look]) == 0
    expected = capfd.readouterr().out
    warned = 0
    for room in range(0, _MOST_ROOM, 24 << 10):
        root = small / "root"
        open_store(root)
        leave(small, room)
        assert run(["--root", os.fspath(root), *look]) == 0
        output = capfd.readouterr()
        assert output.out == expected
        warned += (looking := "looking without a store" in output.err)
        shutil.rmtree(root)
        (small / "filler").unlink()
        if not looking and room:
            break
    assert warned > 1


def test_a_container_is_unmounted(small: Path, tmp_path: Path) -> None:
    """What takes no room must not want any."""
    write_sample_image(tmp_path / "layout")
    store = open_store(small / "root", driver_options=["mount=extract"])
    store.load(f"oci:{tmp_path / 'layout'}", name="app:1")
    store.create("app:1", name="box")
    Path(store.mount("box"), "new").write_text("new")
    leave(small, 0)
    store.unmount("box")
    assert store.containers.mount_path(store.container("box")) is None
    assert not (store.root / "layers" / store.container("box").id / "mount.json").exists()
    assert {change.path for change in store.changes("box")} == {"Files/new"}
    (small / "filler").unlink()
    assert Path(store.mount("box"), "new").read_text() == "new"
    store.unmount("box")
    shutil.rmtree(store.root)


def test_what_an_operation_needs_can_t_be_noted(small: Path, tmp_path: Path) -> None:
    write_sample_image(tmp_path / "layout")
    store = open_store(small / "root")
    store.load(f"oci:{tmp_path / 'layout'}", name="app:1")
    leave(small, 0)
    with pytest.raises(StoreError, match=r"refs: the store can't be written: No space left"):
        store.save("app:1", f"oci:{tmp_path / 'saved'}:1")
    (small / "filler").unlink()
    assert list((store.root / "leases").iterdir()) == []
    shutil.rmtree(store.root)
