"""Calls compared, one by one, with those that hcsshim was recorded making."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.support import require_vectors
from tests.windows.wine.standin import Call, StandIn, comparable
from winlayers.errors import HcsError
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import DriverInfo
from winlayers.testing.content import read_all
from winlayers.win32.backupstream import BackupStreamReader, StreamId

SCRATCH = "C:\\lay\\scratch"
CHAIN = ["C:\\lay\\p1", "C:\\lay\\base"]
MOUNT = [
    *("ActivateLayer", "NameToGuid", "NameToGuid", "PrepareLayer"),
    *("GetLayerMountPath", "GetLayerMountPath"),
]
"""The calls of a mount, which the recorded one has, too."""


def recorded(name: str) -> list[Call]:
    """A recorded trace."""
    text = (require_vectors("hcs-traces") / f"{name}.jsonl").read_text(encoding="utf-8")
    return comparable([json.loads(line) for line in text.splitlines()])


def recorded_tree(name: str) -> dict[str, str]:
    """The digests of a folder that hcsshim wrote."""
    text = (require_vectors("hcs-traces") / f"{name}.sha1").read_text(encoding="utf-8")
    lines = (line.split(None, 1) for line in text.splitlines())
    return {path.removeprefix("./"): digest for digest, path in lines}


def tree(folder: Path) -> dict[str, str]:
    """The digests of all files below *folder*."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def recorded_tar(name: str) -> io.BytesIO:
    """A tar of the recordings."""
    return io.BytesIO((require_vectors("hcs-traces") / f"{name}.tar").read_bytes())


@pytest.fixture
def layers(home: Path) -> Path:
    """The parents of the recorded scenarios."""
    (home / "p1" / "Files").mkdir(parents=True)
    (home / "p1" / "Files" / "a.txt").write_bytes(b"hello\n")
    (home / "base" / "Files").mkdir(parents=True)
    return home


@pytest.fixture
def driver(layers: Path, standin: StandIn) -> WindowsGraphDriver:
    """The graph driver on the native service, over a scratch layer."""
    (layers / "scratch").mkdir()
    (layers / "scratch" / "layerchain.json").write_text(json.dumps(CHAIN), encoding="utf-8")
    return WindowsGraphDriver(
        str(layers),
        service_factory=lambda info, options: NativeLayerService(info, import_inline=True),
    )


@pytest.fixture(params=[True, False], ids=["inline", "child process"])
def importer(request: pytest.FixtureRequest, layers: Path, standin: StandIn) -> NativeLayerService:
    """The service, once for each way of importing."""
    return NativeLayerService(DriverInfo(str(layers)), import_inline=request.param)


# -- life and views ---------------------------------------------------------------------------------


def test_create(service: NativeLayerService, layers: Path, standin: StandIn) -> None:
    service.create_scratch("scratch", CHAIN)
    assert comparable(standin.calls()) == recorded("create")


def test_mount(driver: WindowsGraphDriver, standin: StandIn) -> None:
    assert driver.get("scratch") == SCRATCH
    calls = standin.calls()
    assert [call["fn"] for call in calls] == MOUNT
    assert comparable(calls) == recorded("mount")


def test_mount_of_a_volume(driver: WindowsGraphDriver, standin: StandIn) -> None:
    volume = "\\\\?\\Volume{11111111-2222-3333-4444-555555555555}\\"
    standin.set("MOUNT_PATH", volume)
    assert driver.get("scratch") == volume
    assert comparable(standin.calls()) == recorded("mount_volume")


def test_mount_without_a_path(driver: WindowsGraphDriver, standin: StandIn) -> None:
    standin.set("MOUNT_PATH", "-")
    assert driver.get("scratch") == SCRATCH
    assert [call["fn"] for call in standin.calls()].count("GetLayerMountPath") == 1


def test_mount_whose_prepare_fails(driver: WindowsGraphDriver, standin: StandIn) -> None:
    standin.fail("PrepareLayer=0x80070005")
    with pytest.raises(HcsError) as caught:
        driver.get("scratch")
    assert caught.value.code == 0x80070005
    assert caught.value.function == "PrepareLayer"
    assert comparable(standin.calls()) == recorded("mount_prepare_fails")


@pytest.mark.parametrize(
    ("rule", "made", "cleanup"),
    [
        ("ActivateLayer", 1, []),
        ("NameToGuid#1", 2, ["DeactivateLayer"]),
        ("NameToGuid#2", 3, ["DeactivateLayer"]),
        ("PrepareLayer", 4, ["DeactivateLayer"]),
        ("GetLayerMountPath#1", 5, ["UnprepareLayer", "DeactivateLayer"]),
        ("GetLayerMountPath#2", 6, ["UnprepareLayer", "DeactivateLayer"]),
    ],
)
def test_mount_with_each_call_failing(
    driver: WindowsGraphDriver, standin: StandIn, rule: str, made: int, cleanup: list[str]
) -> None:
    standin.fail(f"{rule}=0x80070020")
    with pytest.raises(HcsError):
        driver.get("scratch")
    assert standin.names() == MOUNT[:made] + cleanup
    # Nothing is counted, so the next mount makes all the calls.
    standin.fail()
    assert driver.get("scratch") == SCRATCH
    assert standin.names() == MOUNT


def test_failing_cleanup_does_not_hide_the_first_error(driver: WindowsGraphDriver, standin: StandIn) -> None:
    standin.fail("GetLayerMountPath=0x8007001f", "UnprepareLayer=0x80070005", "DeactivateLayer=0x80070006")
    with pytest.raises(HcsError) as caught:
        driver.get("scratch")
    assert caught.value.function == "GetLayerMountPath"
    assert standin.names()[-2:] == ["UnprepareLayer", "DeactivateLayer"]


def test_unmount(driver: WindowsGraphDriver, standin: StandIn) -> None:
    driver.get("scratch")
    driver.get("scratch")
    standin.calls()
    driver.put("scratch")
    assert standin.names() == []
    driver.put("scratch")
    assert comparable(standin.calls()) == recorded("unmount")


def test_remove(service: NativeLayerService, layers: Path, standin: StandIn) -> None:
    (layers / "scratch").mkdir()
    service.destroy("scratch")
    assert comparable(standin.calls()) == recorded("remove")
    assert not (layers / "scratch").exists()


def test_driver_removes_by_a_hidden_name(driver: WindowsGraphDriver, standin: StandIn) -> None:
    driver.remove("scratch")
    calls = standin.calls()
    assert [call["fn"] for call in calls] == ["HcsEnumerateComputeSystems", "DestroyLayer"]
    assert calls[0]["query"] == "{}"
    assert calls[1]["id"] == f"{SCRATCH}-removing"


# -- content ----------------------------------------------------------------------------------------


def test_import_of_a_base_layer_emulated(
    importer: NativeLayerService, layers: Path, standin: StandIn
) -> None:
    assert importer.import_tar("base1", [], recorded_tar("base")) == 62
    assert comparable(standin.calls()) == recorded("import_base")
    assert tree(layers / "base1") == recorded_tree("tree_base1")
    assert os.path.samefile(layers / "base1" / "Files" / "a.txt", layers / "base1" / "Files" / "b.txt")


def test_import_of_a_delta_emulated(importer: NativeLayerService, layers: Path, standin: StandIn) -> None:
    assert importer.import_tar("l2", [CHAIN[0]], recorded_tar("delta")) == 110
    assert comparable(standin.calls()) == recorded("import_delta")
    assert tree(layers / "l2") == recorded_tree("tree_l2")
    assert os.path.samefile(layers / "l2" / "Files" / "plink.txt", layers / "p1" / "Files" / "a.txt")


def make_parent_vm(layers: Path) -> Path:
    """The parent's utility VM of the recorded scenario."""
    files = layers / "p1" / "UtilityVM" / "Files"
    (files / "EFI" / "Microsoft" / "Boot").mkdir(parents=True)
    (files / "EFI" / "Microsoft" / "Boot" / "BCD").write_bytes(b"the parent's")
    (files / "keep.txt").write_bytes(b"kept")
    (files / "old.txt").write_bytes(b"old")
    return files


def test_import_of_a_utility_vm_emulated(
    importer: NativeLayerService, layers: Path, standin: StandIn
) -> None:
    files = make_parent_vm(layers)
    assert importer.import_tar("l4", [CHAIN[0]], recorded_tar("uvm")) == 11
    assert comparable(standin.calls()) == recorded("import_uvm")
    expected = recorded_tree("tree_l4")
    # What the recorded parent's file held is not recorded; ours is linked like it.
    expected["UtilityVM/Files/keep.txt"] = hashlib.sha1(b"kept").hexdigest()
    assert tree(layers / "l4") == expected
    own = layers / "l4" / "UtilityVM" / "Files"
    assert os.path.samefile(own / "keep.txt", files / "keep.txt")
    assert os.path.samefile(own / "x2.txt", own / "x.txt")
    assert (files / "EFI" / "Microsoft" / "Boot" / "BCD").read_bytes() == b"the parent's"


def test_boot_files_are_not_shared_with_the_parent_emulated(
    service: NativeLayerService, layers: Path, standin: StandIn
) -> None:
    files = make_parent_vm(layers)
    with service.open_writer("l5", [CHAIN[0]]) as writer:
        writer.remove("UtilityVM/Files/old.txt")
    boot = Path("EFI", "Microsoft", "Boot", "BCD")
    own = layers / "l5" / "UtilityVM" / "Files"
    assert (own / boot).read_bytes() == b"the parent's"
    assert not os.path.samefile(own / boot, files / boot)
    assert not (own / "old.txt").exists()
    assert (files / "old.txt").exists()
    assert standin.names()[-2:] == ["ImportLayer", "ProcessUtilityImage"]


def test_boot_files_made_copies_leave_their_directory_its_times_emulated(
    service: NativeLayerService, layers: Path, standin: StandIn
) -> None:
    boot = Path("UtilityVM", "Files", "EFI", "Microsoft", "Boot")
    make_parent_vm(layers)
    os.utime(layers / "p1" / boot / "BCD", (1_500_000_000, 1_500_000_000))
    os.utime(layers / "p1" / boot, (1_600_000_000, 1_600_000_000))
    with service.open_writer("l5", [CHAIN[0]]) as writer:
        writer.remove("UtilityVM/Files/old.txt")
    assert (layers / "l5" / boot).stat().st_mtime == 1_600_000_000
    assert (layers / "l5" / boot / "BCD").stat().st_mtime == 1_500_000_000


def entries(tar: bytes) -> list[tuple[object, ...]]:
    """What two exports of a tar must share: names, kinds, sizes, links, data and vendor records, no times."""
    found: list[tuple[object, ...]] = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            data = archive.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            records = {key: value for key, value in member.pax_headers.items() if key.startswith("MSWIN")}
            found.append((member.name, member.type, member.size, member.linkname, data, records))
    return found


def test_export_of_a_delta_emulated(importer: NativeLayerService, layers: Path, standin: StandIn) -> None:
    importer.import_tar("l2", [CHAIN[0]], recorded_tar("delta"))
    # Links into parents are no transport files, and HCS leaves them out of an export.
    (layers / "l2" / "Files" / "plink.txt").unlink()
    standin.calls()
    standin.set("TOMBSTONES", "gone.txt|dir\\old")
    tar = read_all(importer.export_inactive("l2", [CHAIN[0]]))
    assert comparable(standin.calls()) == recorded("export_delta")
    ours, theirs = entries(tar), entries(recorded_tar("export_delta").getvalue())
    # The recorded copy made two files of a hard link; both are compared as what they hold.
    assert [entry[0] for entry in ours] == [entry[0] for entry in theirs]
    assert ours == theirs


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("ActivateLayer", ["ActivateLayer"]),
        ("PrepareLayer", ["ActivateLayer", "NameToGuid", "PrepareLayer", "DeactivateLayer"]),
        (
            "UnprepareLayer",
            ["ActivateLayer", "NameToGuid", "PrepareLayer", "UnprepareLayer", "DeactivateLayer"],
        ),
        (
            "ExportLayer",
            [
                *("ActivateLayer", "NameToGuid", "PrepareLayer", "UnprepareLayer"),
                *("NameToGuid", "ExportLayer", "DeactivateLayer"),
            ],
        ),
    ],
)
def test_export_with_each_call_failing(
    service: NativeLayerService, layers: Path, standin: StandIn, rule: str, expected: list[str]
) -> None:
    (layers / "l2" / "Files").mkdir(parents=True)
    standin.fail(f"{rule}=0x80070005")
    with pytest.raises(HcsError):
        service.export_inactive("l2", [CHAIN[0]])
    assert standin.names() == expected


@pytest.mark.parametrize("rule", ["NameToGuid", "ImportLayer"])
def test_import_that_windows_refuses_leaves_nothing(
    service: NativeLayerService, layers: Path, standin: StandIn, rule: str
) -> None:
    standin.fail(f"{rule}=0x80070070")
    with pytest.raises(HcsError) as caught:
        service.import_tar("l2", [CHAIN[0]], recorded_tar("delta"))
    assert caught.value.code == 0x80070070
    assert not (layers / "l2").exists()


def test_backup_streams_of_the_transport_files(service: NativeLayerService, layers: Path) -> None:
    service.import_tar("l2", [CHAIN[0]], recorded_tar("delta"))
    data = (layers / "l2" / "Files" / "ea.bin").read_bytes()
    ids = [header.id for header in BackupStreamReader(io.BytesIO(data[4:]))]
    assert ids == [StreamId.SECURITY_DATA, StreamId.EA_DATA, StreamId.DATA]
