"""The native service beyond the recorded scenarios."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.windows.wine.standin import StandIn
from winlayers.durable import remove_tree
from winlayers.errors import (
    HcsError,
    InvalidNameError,
    LayerContentError,
    LayerError,
    LayerExistsError,
    LayerNotFoundError,
    TarTruncatedError,
)
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.native import childimport, compute, errors, host
from winlayers.layers.native.service import INLINE_VARIABLE, NativeLayerService
from winlayers.layers.service import DriverInfo, EntryKind, Flavour
from winlayers.testing.content import DIRECTORY, FILE, content, read_all, stream
from winlayers.testing.tars import BASE, Member, make_tar
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.regf import minimal_hive, validate_hive_header
from winlayers.win32.reparse import SymbolicLink

PREPARE = "PrepareLayer"


@pytest.fixture
def parent(home: Path) -> list[str]:
    """A parent layer; the chain of a layer on it."""
    (home / "p1" / "Files" / "dir" / "sub").mkdir(parents=True)
    (home / "p1" / "Files" / "a.txt").write_bytes(b"the parent's")
    (home / "p1" / "Files" / "dir" / "old").write_bytes(b"old")
    (home / "p1" / "Files" / "dir" / "sub" / "older").write_bytes(b"older")
    return [str(home / "p1")]


def call(function: str, **arguments: object) -> dict[str, object]:
    """A line of the log about a call that succeeded."""
    return {"fn": function, **arguments, "hr": "0x00000000"}


# -- each call --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", list(Flavour))
def test_flavour_reaches_every_call(
    home: Path, standin: StandIn, parent: list[str], flavour: Flavour
) -> None:
    service = NativeLayerService(DriverInfo(str(home), flavour), import_inline=True)
    service.create("one", "")
    service.create_scratch("two", parent)
    service.activate("two")
    service.prepare("two", parent)
    service.mount_path("two")
    service.unprepare("two")
    service.deactivate("two")
    service.exists("two")
    service.copy("two", "three", parent)
    service.import_folder("one", str(home / "p1"), parent)
    service.export_folder("one", str(home / "out"), parent)
    service.destroy("two")
    calls = [made for made in standin.calls() if "flavour" in made]
    assert len(calls) == 13
    assert {made["flavour"] for made in calls} == {int(flavour)}
    assert {made["home"] for made in calls} == {""}


def test_arguments_of_the_other_calls(service: NativeLayerService, home: Path, standin: StandIn) -> None:
    service.create("one", "the parent's id")
    service.process_base_layer("C:\\lay\\x")
    service.process_utility_vm("C:\\lay\\x\\UtilityVM")
    service.grant_vm_access("vm", "C:\\lay\\x.vhdx")
    assert service.exists("one")
    assert not service.exists("two")
    assert standin.calls() == [
        call("CreateLayer", flavour=1, home="", id="C:\\lay\\one", parent="the parent's id"),
        call("ProcessBaseImage", path="C:\\lay\\x"),
        call("ProcessUtilityImage", path="C:\\lay\\x\\UtilityVM"),
        call("GrantVmAccess", vm="vm", path="C:\\lay\\x.vhdx"),
        call("LayerExists", flavour=1, home="", id="C:\\lay\\one", exists=1),
        call("LayerExists", flavour=1, home="", id="C:\\lay\\two", exists=0),
    ]


def test_strings_that_hcs_allocates(service: NativeLayerService, standin: StandIn) -> None:
    text = json.dumps({"Images": [{"Name": "caf\u00e9", "Path": "C:\\images"}]}, ensure_ascii=False)
    standin.set("IMAGES", text)
    assert service.shared_base_images() == text
    standin.fail("GetBaseImages=0x80004005")
    with pytest.raises(HcsError, match="GetBaseImages"):
        service.shared_base_images()


def test_guid_of_a_name(service: NativeLayerService, standin: StandIn) -> None:
    guid = service.name_to_guid("p1")
    assert standin.calls()[0]["out"] == str(guid)
    assert service.name_to_guid("p1") == guid != service.name_to_guid("p2")


@pytest.mark.parametrize(
    ("code", "cls", "kept"),
    [
        (0x80070005, errors.HcsAccessDeniedError, 5),
        (0x80070002, LayerNotFoundError, 2),
        (0x80070003, LayerNotFoundError, 3),
        (0x800700B7, LayerExistsError, 183),
        (0x80070020, errors.HcsInUseError, 32),
        (0x80070032, errors.HcsUnsupportedError, 50),
        (0x80004005, HcsError, 0x80004005),
        (0xC0370106, HcsError, 0xC0370106),
    ],
)
def test_hresults_become_named_errors(
    service: NativeLayerService, standin: StandIn, code: int, cls: type[Exception], kept: int
) -> None:
    standin.fail(f"ActivateLayer={code:#x}")
    with pytest.raises(cls) as caught:
        service.activate("one")
    error = caught.value
    assert isinstance(error, HcsError)
    assert (error.function, error.code, errors.win32_code(error)) == ("ActivateLayer", code, kept)
    assert "ActivateLayer" in str(error)
    assert "C:\\lay\\one" in str(error)


def test_one_layer_is_prepared_at_a_time(service: NativeLayerService, home: Path, standin: StandIn) -> None:
    # The stand-in fails when a call comes while another one runs, as Windows does.
    failed: list[Exception] = []

    def prepare() -> None:
        for _ in range(10):
            try:
                service.prepare("one", [])
            except HcsError as error:
                failed.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert standin.names() == [PREPARE] * 60


def test_expanding_grows_disk_and_volume_emulated(
    service: NativeLayerService, parent: list[str], standin: StandIn
) -> None:
    service.create_scratch("one", parent)
    standin.calls()
    size = 1 << 62  # more than any volume here has
    service.expand_scratch("one", size)
    calls = standin.calls()
    assert [made["fn"] for made in calls] == [
        *("ExpandSandboxSize", "OpenVirtualDisk", "AttachVirtualDisk"),
        *("GetLayerMountPath", "GetLayerMountPath", "DeviceIoControl", "DeviceIoControl"),
    ]
    assert calls[0]["size"] == size
    opened = {"path": "C:\\lay\\one\\sandbox.vhdx", "device": 0, "access": 0, "flags": 0, "version": 2}
    assert calls[1] == {"fn": "OpenVirtualDisk", **opened, "code": 0}
    assert calls[2]["flags"] == 0x20
    assert calls[5]["code"] == 0x7405C
    assert (calls[6]["code"], calls[6]["sectors"]) == (0x900F0, size // 512)
    # A partition that the volume fills already is left alone.
    service.expand_scratch("one", 1 << 20)
    assert standin.names().count("DeviceIoControl") == 1


@pytest.mark.parametrize(
    ("rule", "last"),
    [
        ("ExpandSandboxSize=0x80070057", "ExpandSandboxSize"),
        ("OpenVirtualDisk=0x80070005", "OpenVirtualDisk"),
        ("AttachVirtualDisk=0x80070005", "AttachVirtualDisk"),
        ("GetLayerMountPath=0x80070005", "GetLayerMountPath"),
        ("DeviceIoControl#1=0x80070001", "DeviceIoControl"),
    ],
)
def test_expanding_with_each_call_failing_emulated(
    service: NativeLayerService, home: Path, parent: list[str], standin: StandIn, rule: str, last: str
) -> None:
    service.create_scratch("one", parent)
    standin.calls()
    standin.fail(rule)
    with pytest.raises(HcsError) as caught:
        service.expand_scratch("one", 1 << 62)
    assert caught.value.function == last
    assert standin.names()[-1] == last
    # No handle is left open on the disk.
    (home / "one" / "sandbox.vhdx").unlink()


def test_release_detaches_the_disk(service: NativeLayerService, parent: list[str], standin: StandIn) -> None:
    service.create_scratch("one", parent)
    standin.calls()
    service.release(service.layer_path("one"))
    opened, detached = standin.calls()
    assert (opened["fn"], opened["flags"], opened["version"]) == ("OpenVirtualDisk", 0x18, 2)
    assert detached == {"fn": "DetachVirtualDisk", "flags": 0, "provider": 0, "code": 0}
    service.release(service.layer_path("none"))
    assert standin.calls() == []


def test_status_says_what_is_in_use(service: NativeLayerService) -> None:
    status = dict(service.status())
    assert status["Windows version"] == str(host.os_version())
    assert status["Imports"] == "in this process"
    assert status["Layer transfer"] == "transport format"
    assert service.streaming
    service.check_home()


# -- compute systems --------------------------------------------------------------------------------


SYSTEMS = json.dumps(
    [
        {"Id": "template", "IsRuntimeTemplate": True, "RuntimeImagePath": "C:\\lay\\base1\\UtilityVM"},
        {"Id": "other layer", "IsRuntimeTemplate": True, "RuntimeImagePath": "C:\\lay\\base2\\UtilityVM"},
        {"Id": "container", "RuntimeImagePath": "C:\\lay\\base1\\UtilityVM"},
        {"Id": "bare"},
    ]
)

TERMINATION = [
    *("HcsEnumerateComputeSystems", "HcsOpenComputeSystem", "HcsRegisterComputeSystemCallback"),
    *("HcsGetComputeSystemProperties", "HcsTerminateComputeSystem"),
    *("HcsUnregisterComputeSystemCallback", "HcsCloseComputeSystem"),
]


def test_templates_on_a_layer_are_ended(service: NativeLayerService, standin: StandIn) -> None:
    standin.set("SYSTEMS", SYSTEMS)
    service.prepare_removal("base1")
    calls = standin.calls()
    assert [made["fn"] for made in calls] == TERMINATION
    assert calls[0]["query"] == "{}"
    assert calls[1]["id"] == "template"
    assert calls[3]["query"] == "{}"
    assert calls[4]["options"] == ""


@pytest.mark.parametrize("code", [0xC0370110, 0x00000000])
def test_system_that_has_stopped_is_fine(service: NativeLayerService, standin: StandIn, code: int) -> None:
    standin.set("SYSTEMS", SYSTEMS)
    standin.fail(f"HcsTerminateComputeSystem={code:#x}")
    service.prepare_removal("base1")
    assert standin.names() == TERMINATION


@pytest.mark.parametrize("name", TERMINATION[:5])
def test_termination_with_each_call_failing(service: NativeLayerService, standin: StandIn, name: str) -> None:
    standin.set("SYSTEMS", SYSTEMS)
    standin.fail(f"{name}=0x8007001f")
    with pytest.raises(HcsError) as caught:
        service.prepare_removal("base1")
    assert caught.value.function == name
    made = TERMINATION[: TERMINATION.index(name) + 1]
    cleanup = []
    if len(made) > 3:
        cleanup.append("HcsUnregisterComputeSystemCallback")
    if len(made) > 2:
        cleanup.append("HcsCloseComputeSystem")
    assert standin.names() == made + cleanup


def test_wait_for_the_end_has_an_end(
    service: NativeLayerService, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "MAX_EXIT_SECONDS", 0.1)
    standin.set("SYSTEMS", SYSTEMS)
    standin.set("NO_EXIT", "1")
    with pytest.raises(HcsError, match="template has not ended"):
        service.prepare_removal("base1")
    assert standin.names() == TERMINATION


@pytest.mark.parametrize("text", ["", "null", "{}", "[1]", '[{"Name": "x"}]', "["])
def test_odd_answers_of_the_service(service: NativeLayerService, standin: StandIn, text: str) -> None:
    standin.set("SYSTEMS", text or " ")
    if text == "null":
        assert compute.enumerate_compute_systems() == []
        return
    with pytest.raises(HcsError, match="no list of compute systems"):
        compute.enumerate_compute_systems()


def test_enumeration_is_not_retried_on_this_build(service: NativeLayerService, standin: StandIn) -> None:
    standin.fail("HcsEnumerateComputeSystems=0xc0370105")
    with pytest.raises(HcsError):
        service.prepare_removal("base1")
    assert standin.names() == ["HcsEnumerateComputeSystems"]


def test_enumeration_is_retried_below_build_16299(
    service: NativeLayerService, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "os_version", lambda: host.OsVersion(10, 0, 14393))
    slept: list[float] = []
    standin.fail("HcsEnumerateComputeSystems#1=0xc0370105", "HcsEnumerateComputeSystems#2=0x80070005")
    assert compute.enumerate_with_retries(slept.append) == []
    assert slept == [0.01, 0.01]
    standin.fail("HcsEnumerateComputeSystems=0xc0370105")
    slept.clear()
    assert compute.enumerate_with_retries(slept.append) == []
    assert slept == [0.01] * 500
    standin.fail("HcsEnumerateComputeSystems=0x8007001f")
    with pytest.raises(HcsError):
        compute.enumerate_with_retries(slept.append)


# -- imports ----------------------------------------------------------------------------------------


def test_child_process_reports_errors_by_class(home: Path, standin: StandIn) -> None:
    service = NativeLayerService(DriverInfo(str(home)), import_inline=False)
    with pytest.raises(TarTruncatedError):
        service.import_tar("one", [], io.BytesIO(BASE[:700]))
    with pytest.raises(LayerContentError, match="base layer can't delete"):
        service.import_tar("one", [], io.BytesIO(make_tar(Member("Files/"), Member("Files/.wh.x"))))
    with pytest.raises(InvalidNameError):
        service.import_tar("one", [], io.BytesIO(make_tar(Member("Files/../../x", b""))))
    standin.fail("ProcessBaseImage=0x80070070")
    with pytest.raises(HcsError, match="ProcessBaseImage"):
        service.import_tar("one", [], io.BytesIO(BASE))
    assert os.listdir(home) == []


def test_child_process_gives_the_size(home: Path, standin: StandIn) -> None:
    service = NativeLayerService(DriverInfo(str(home)), import_inline=False)
    data = os.urandom(3 << 20)
    tar = make_tar(Member("Files/"), Member("Files/big", data), Member("Files/big:s", b"12345"))
    assert service.import_tar("one", [], io.BytesIO(tar)) == len(data)
    assert (home / "one" / "Files" / "big").read_bytes() == data
    assert dict(service.status())["Imports"] == "in a child process"


def test_broken_source_ends_the_child(home: Path, standin: StandIn) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(4096)
            if not data:
                raise ConnectionResetError("gone")
            return data

    service = NativeLayerService(DriverInfo(str(home)), import_inline=False)
    with pytest.raises(ConnectionResetError):
        service.import_tar("one", [], Broken(BASE))
    assert os.listdir(home) == []
    assert "ProcessBaseImage" not in standin.names()


class TemporaryFolders:
    """The imports' and exports' temporary folders that were not there before."""

    def __init__(self) -> None:
        self._parent = Path(os.environ["TEMP"])
        self._before = set(self._parent.glob("hcs*"))

    def new(self) -> list[Path]:
        return sorted(set(self._parent.glob("hcs*")) - self._before)


def test_child_that_is_ended_leaves_no_temporary_folder(
    home: Path, parent: list[str], standin: StandIn
) -> None:
    folders = TemporaryFolders()

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(4096)
            if not data:
                while not any(os.listdir(folder) for folder in folders.new()):
                    time.sleep(0.01)  # until the child is at work
                raise ConnectionResetError("gone")
            return data

    service = NativeLayerService(DriverInfo(str(home)), import_inline=False)
    tar = make_tar(Member("Files/"), *(Member(f"Files/{number}", bytes(70_000)) for number in range(40)))
    with pytest.raises(ConnectionResetError):
        service.import_tar("one", parent, Broken(tar))
    assert folders.new() == []
    assert os.listdir(home) == ["p1"]


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_write_ends_well_though_its_temporary_folder_is_in_use_emulated(
    service: NativeLayerService, home: Path, parent: list[str], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    folders = TemporaryFolders()
    writer = service.open_writer("one", parent)
    writer.add("Files", DIRECTORY)
    writer.add("Files/b", FILE, [stream("", b"b")])
    (folder,) = folders.new()
    with (folder / "Files" / "b").open("rb"):  # as a virus scanner has it
        getattr(writer, end)()
    assert (home / "one" / "Files" / "b").exists() == (end == "commit")
    assert str(folder) in caplog.text
    assert caplog.text.count("\n") == 1
    remove_tree(str(folder))


def test_reading_ends_well_though_its_temporary_folder_is_in_use_emulated(
    service: NativeLayerService, parent: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    service.create("one", "")
    folders = TemporaryFolders()
    reader = service.open_reader("one", parent)
    (folder,) = folders.new()
    with (folder / "tombstones.txt").open("rb"):
        reader.close()
    assert str(folder) in caplog.text
    reader.close()
    remove_tree(str(folder))


def test_child_that_dies_is_reported(home: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(childimport, "__name__", "winlayers.no_such_module")
    service = NativeLayerService(DriverInfo(str(home)), import_inline=False)
    with pytest.raises(LayerError, match="no_such_module"):
        service.import_tar("one", [], io.BytesIO(BASE * 50))
    assert os.listdir(home) == []


def test_environment_makes_imports_inline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INLINE_VARIABLE, "1")
    assert dict(NativeLayerService(DriverInfo(str(home))).status())["Imports"] == "in this process"
    monkeypatch.delenv(INLINE_VARIABLE)
    assert dict(NativeLayerService(DriverInfo(str(home))).status())["Imports"] == "in a child process"


def test_calls_of_imports_emulated(service: NativeLayerService, parent: list[str], standin: StandIn) -> None:
    hive = Member("Hives/System_Delta", b"regf")
    service.import_tar("base", [], io.BytesIO(make_tar(Member("Files/"), Member("UtilityVM/Files/"))))
    assert [name for name in standin.names() if not name.startswith("Backup")] == [
        *("ProcessBaseImage", "ProcessUtilityImage")
    ]
    (Path(parent[0]) / "UtilityVM" / "Files").mkdir(parents=True)
    tar = make_tar(Member("Files/"), Member("Hives/"), hive, Member("UtilityVM/"), Member("Files/.wh.a.txt"))
    service.import_tar("one", parent, io.BytesIO(tar))
    calls = standin.calls()
    assert [made["fn"] for made in calls] == [
        *("BackupWrite", "BackupRead", "NameToGuid", "ImportLayer", "ProcessUtilityImage")
    ]
    assert calls[0]["security"] is False
    assert calls[1]["path"].endswith("p1\\UtilityVM\\Files")
    assert calls[3]["id"] == "\\\\?\\C:\\lay\\one"
    assert [layer["path"] for layer in calls[3]["layers"]] == parent
    assert calls[4]["path"] == "\\\\?\\C:\\lay\\one\\UtilityVM"


def test_failed_import_keeps_what_was_there(service: NativeLayerService, home: Path) -> None:
    service.create("one", "")
    (home / "one" / "layerchain.json").write_text("[]", encoding="ascii")
    with pytest.raises(TarTruncatedError):
        service.import_tar("one", [], io.BytesIO(BASE[:3000]))
    assert os.listdir(home / "one") == ["layerchain.json"]
    service.import_tar("one", [], io.BytesIO(BASE))


def test_base_link_that_is_named_twice_is_the_last_emulated(service: NativeLayerService, home: Path) -> None:
    with service.open_writer("one", []) as writer:
        writer.add("Files", DIRECTORY)
        for name in ("late", "early"):
            writer.add_link(f"Files/{name}", "Files/b")
        writer.add("Files/early", FILE, [stream("", b"not late")])
        for name in ("a", "b"):
            writer.add(f"Files/{name}", FILE, [stream("", name.encode())])
            writer.add_link("Files/link", f"Files/{name}")
        writer.add_link("Files/file", "Files/a")
        writer.add("Files/file", FILE, [stream("", b"its own")])
    files = home / "one" / "Files"
    assert os.path.samefile(files / "link", files / "b")
    assert os.path.samefile(files / "late", files / "b")
    assert (files / "a").read_bytes() == b"a"
    assert (files / "file").read_bytes() == b"its own"
    assert (files / "early").read_bytes() == b"not late"


def test_missing_hives_are_made(service: NativeLayerService, home: Path) -> None:
    config = "Files/Windows/System32/config"
    tar = make_tar(Member("Files/"), Member(f"{config}/SAM", b"is there"), Member(f"{config}/SYSTEM", b""))
    service.import_tar("one", [], io.BytesIO(tar))
    folder = home / "one" / config
    assert (folder / "SAM").read_bytes() == b"is there"
    for name in ("DEFAULT", "SECURITY", "SOFTWARE", "SYSTEM"):
        data = (folder / name).read_bytes()
        assert data == minimal_hive()
        validate_hive_header(data)


def test_opaque_directory_becomes_deletions_emulated(
    service: NativeLayerService, home: Path, parent: list[str], standin: StandIn
) -> None:
    standin.keep_metadata()
    with service.open_writer("one", parent) as writer:
        writer.add("Files", DIRECTORY)
        writer.add("Files/dir", DIRECTORY)
        writer.hide("Files/dir")
        writer.add("Files/dir/sub", DIRECTORY)
        writer.add("Files/dir/new", FILE, [stream("", b"new")])
    assert sorted(os.listdir(home / "one" / "Files" / "dir")) == ["new", "sub"]
    assert os.listdir(home / "one" / "Files" / "dir" / "sub") == []
    kinds = {path: entry[0] for path, entry in content(service, "one", parent).items()}
    assert kinds["Files/dir/old"] is EntryKind.WHITEOUT
    assert kinds["Files/dir/sub/older"] is EntryKind.WHITEOUT
    with (
        pytest.raises(LayerContentError, match="only a directory in Files"),
        service.open_writer("two", parent) as writer,
    ):
        writer.hide("Hives")


@pytest.mark.parametrize("attributes", ["1040", "1024"], ids=["a directory", "a file"])
def test_files_below_a_link_are_refused(
    service: NativeLayerService, home: Path, parent: list[str], attributes: str
) -> None:
    records = {"MSWINDOWS.mountpoint": "1", "MSWINDOWS.fileattr": attributes}
    tar = make_tar(
        Member("Files/"),
        Member("Files/j", symlink="C:\\Windows", pax=records),
        Member("Files/j/evil", b"x"),
    )
    with pytest.raises(LayerContentError, match="below what is not a directory"):
        service.import_tar("one", parent, io.BytesIO(tar))
    assert not (home / "one").exists()


def test_reparse_point_over_what_has_entries_is_refused(
    service: NativeLayerService, parent: list[str], standin: StandIn
) -> None:
    point = dataclasses.replace(
        DIRECTORY,
        attributes=DIRECTORY.attributes | FileAttributes.REPARSE_POINT,
        reparse=SymbolicLink.to("elsewhere").to_bytes(),
    )
    with service.open_writer("one", parent) as writer:
        writer.add("Files", DIRECTORY)
        writer.add("Files/d/x", FILE, [stream("", b"data")])
        with pytest.raises(LayerContentError, match="entries below it"):
            writer.add("Files/d", point)


@pytest.mark.parametrize("target", ["Files/no", "Files/dir/no", "UtilityVM/Files/no"])
def test_link_to_nothing_stops_before_the_import(
    service: NativeLayerService, home: Path, parent: list[str], standin: StandIn, target: str
) -> None:
    writer = service.open_writer("one", parent)
    writer.add("Files", DIRECTORY)
    writer.add_link("Files/link", target)
    with pytest.raises(LayerContentError, match="hard link"):
        writer.commit()
    assert standin.names() == []
    assert not (home / "one").exists()


@pytest.mark.parametrize(
    ("path", "target"),
    [("Files/l", "Hives/x"), ("Hives/l", "Files/a.txt"), ("l", "Files/a.txt"), ("Files/l", "Files/none")],
)
def test_links_that_can_not_be(
    service: NativeLayerService, home: Path, parent: list[str], path: str, target: str
) -> None:
    with pytest.raises(LayerContentError), service.open_writer("one", parent) as writer:  # noqa: PT012
        writer.add("Files", DIRECTORY)
        writer.add_link(path, target)
    assert not (home / "one").exists()


@pytest.mark.parametrize("path", ["Hives/x", "x", "UtilityVM", "UtilityVM/x"])
def test_deletions_that_can_not_be(service: NativeLayerService, parent: list[str], path: str) -> None:
    with pytest.raises(LayerContentError), service.open_writer("one", parent) as writer:
        writer.remove(path)


def test_utility_vm_must_be_named_first(service: NativeLayerService, parent: list[str]) -> None:
    with (
        pytest.raises(LayerContentError, match="no UtilityVM directory"),
        service.open_writer("one", parent) as writer,
    ):
        writer.add("UtilityVM/Files", DIRECTORY)


def test_utility_vm_deletion_of_nothing_is_an_error(
    service: NativeLayerService, home: Path, parent: list[str]
) -> None:
    (home / "p1" / "UtilityVM" / "Files").mkdir(parents=True)
    with (
        pytest.raises(LayerContentError, match="no parent has"),
        service.open_writer("one", parent) as writer,
    ):
        writer.remove("UtilityVM/Files/none")
    assert not (home / "one").exists()


def test_utility_vm_entry_of_another_kind_replaces(
    service: NativeLayerService, home: Path, parent: list[str]
) -> None:
    (home / "p1" / "UtilityVM" / "Files" / "d" / "below").mkdir(parents=True)
    (home / "p1" / "UtilityVM" / "Files" / "f").write_bytes(b"x")
    with service.open_writer("one", parent) as writer:
        writer.add("UtilityVM", DIRECTORY)
        writer.add("UtilityVM/Files", DIRECTORY)
        writer.add("UtilityVM/Files/f", DIRECTORY)
    assert (home / "one" / "UtilityVM" / "Files" / "f").is_dir()
    assert (home / "one" / "UtilityVM" / "Files" / "d" / "below").is_dir()
    assert (home / "p1" / "UtilityVM" / "Files" / "f").read_bytes() == b"x"


def test_tombstones_file_is_no_content(service: NativeLayerService, home: Path, parent: list[str]) -> None:
    tar = make_tar(Member("Files/"), Member("tombstones.txt", b"\\everything"))
    service.import_tar("one", parent, io.BytesIO(tar))
    assert not (home / "one" / "tombstones.txt").exists()


# -- readers ----------------------------------------------------------------------------------------


def write_transport(folder: Path, tombstones: bytes) -> None:
    """A folder for the stand-in's ExportLayer to copy."""
    (folder / "Files" / "d").mkdir(parents=True)
    for name in ("Files", "Files/d"):
        (folder / f"{name}.$wcidirs$").write_bytes(b"\x10\0\0\0")
    (folder / "Files" / "f").write_bytes(b"\x20\0\0\0")
    (folder / "Files" / "$Recycle.Bin" / "S-1").mkdir(parents=True)
    (folder / "Files" / "d" / "$recycle.bin").mkdir()
    (folder / "Files" / "d" / "$recycle.bin.$wcidirs$").write_bytes(b"\x10\0\0\0")
    (folder / "tombstones.txt").write_bytes(tombstones)


def test_reader_leaves_the_recycle_bin_out(
    service: NativeLayerService, home: Path, parent: list[str], standin: StandIn
) -> None:
    standin.set("TOMBSTONES", "gone|d\\gone|elsewhere\\gone")
    write_transport(home / "one", b"")
    with service.open_reader("one", parent) as reader:
        found = [(entry.path, entry.kind.name) for entry, _ in reader]
    assert found == [
        ("Files", "DIRECTORY"),
        ("Files/gone", "WHITEOUT"),
        ("Files/d", "DIRECTORY"),
        ("Files/d/gone", "WHITEOUT"),
        ("Files/d/$recycle.bin", "DIRECTORY"),
        ("Files/f", "FILE"),
        ("Files/elsewhere/gone", "WHITEOUT"),
    ]


@pytest.mark.parametrize(
    ("options", "made"), [((), True), (("hives=complete",), True), (("hives=as-is",), False)]
)
def test_driver_can_leave_hives_as_they_are_emulated(
    home: Path, standin: StandIn, options: tuple[str, ...], made: bool
) -> None:
    driver = WindowsGraphDriver(str(home), options=["service=hcs", *options])
    driver.apply_diff("one", "", io.BytesIO(make_tar(Member("Files/"), Member("Files/a", b"data"))))
    assert (home / "one" / "Files" / "Windows" / "System32" / "config" / "SAM").exists() is made
    assert standin.names()[-1] == "ProcessBaseImage"


def test_base_reader_reads_links_once_emulated(
    service: NativeLayerService, home: Path, standin: StandIn
) -> None:
    tar = make_tar(Member("Files/"), Member("Files/b", b"data"), Member("Files/a", link="Files/b"))
    NativeLayerService(DriverInfo(str(home)), import_inline=True, complete_hives=False).import_tar(
        "one", [], io.BytesIO(tar)
    )
    found = content(service, "one", [])
    assert found["Files/a"][3] == (("", b"data"),)
    assert found["Files/b"][0] is EntryKind.LINK
    assert found["Files/b"][2] == "Files/a"


def test_base_reader_takes_only_a_whole_utility_vm_emulated(
    service: NativeLayerService, home: Path, standin: StandIn
) -> None:
    (home / "one" / "Files").mkdir(parents=True)
    (home / "one" / "Hives").mkdir()
    (home / "one" / "blank.vhdx").write_bytes(b"")
    (home / "one" / "UtilityVM").mkdir()
    (home / "one" / "UtilityVM" / "SystemTemplate.vhdx").write_bytes(b"")
    assert set(content(service, "one", [])) == {"Files"}
    (home / "one" / "UtilityVM" / "Files").mkdir()
    (home / "one" / "UtilityVM" / "Files" / "x").write_bytes(b"x")
    (home / "one" / "UtilityVM" / "other").mkdir()
    assert set(content(service, "one", [])) == {"Files", "UtilityVM", "UtilityVM/Files", "UtilityVM/Files/x"}


def test_opening_single_files(service: NativeLayerService, home: Path) -> None:
    boot = "UtilityVM/Files/EFI/Microsoft/Boot/BCD"
    (home / "one" / boot).parent.mkdir(parents=True)
    (home / "one" / boot).write_bytes(b"changed by the import")
    (home / "one" / "Files").mkdir()
    (home / "one" / "Files" / "a").write_bytes(b"data" * 50000)
    with service.open_file("one", "Files/a") as file:
        assert file.read() == b"data" * 50000
    with service.open_file("one", boot) as file:
        assert file.read() == b"changed by the import"
    (home / "one" / "bcd.bak").write_bytes(b"as it came")
    with service.open_file("one", boot) as file:
        assert file.read() == b"as it came"
    for path in ("Files/none", "Files", "none/none"):
        with pytest.raises(LayerContentError):
            service.open_file("one", path)
    for path in ("", "../one/Files/a", "/Files/a", "Files\\a", "C:/x", "Files/a:b:c"):
        with pytest.raises((InvalidNameError, LayerContentError)):
            service.open_file("one", path)


def test_boot_file_is_kept_as_it_came_emulated(service: NativeLayerService, home: Path) -> None:
    boot = "UtilityVM/Files/EFI/Microsoft/Boot"
    tar = make_tar(
        Member("Files/"),
        *(Member(f"{boot}/{name}", name.encode()) for name in ("BCD", "BCD.LOG", "BCD.LOG1", "BCD.LOG2")),
        Member(f"{boot}/bootmgfw.efi", b"x"),
    )
    service.import_tar("one", [], io.BytesIO(tar))
    kept = {path.name: path.read_bytes() for path in (home / "one").glob("*.bak")}
    names = ("BCD", "BCD.LOG", "BCD.LOG1", "BCD.LOG2")
    assert kept == {f"{name.lower()}.bak": name.encode() for name in names}


# -- the streaming calls ----------------------------------------------------------------------------


def test_streaming_calls(home: Path, parent: list[str], standin: StandIn) -> None:
    service = NativeLayerService(DriverInfo(str(home)), streaming_calls=True)
    with service.open_writer("one", parent) as writer:
        writer.add("Files", DIRECTORY)
        writer.add("Files/a", FILE, [stream("", b"x" * 100_000), stream("s", b"y")])
        writer.remove("Files/gone")
        with pytest.raises(LayerContentError, match="hard link"):
            writer.add_link("Files/l", "Files/a")
    assert standin.names() == [
        *("NameToGuid", "ImportLayerBegin", "ImportLayerNext", "ImportLayerWrite", "ImportLayerNext"),
        *("ImportLayerWrite", "ImportLayerWrite", "ImportLayerNext", "ImportLayerEnd"),
    ]
    found = content(service, "one", parent)
    assert found["Files/a"][1] == FILE
    assert found["Files/a"][3] == (("", b"x" * 100_000), ("s", b"y"))
    assert found["Files/gone"][0] is EntryKind.WHITEOUT
    names = standin.names()
    assert names[:2] == ["NameToGuid", "ExportLayerBegin"]
    assert names[-2:] == ["ExportLayerNext", "ExportLayerEnd"]
    assert dict(service.status())["Layer transfer"] == "streaming calls"
    tar = read_all(service.export_tar("one", parent))
    assert service.import_tar("two", parent, io.BytesIO(tar)) == 100_000


def test_streaming_import_that_fails_is_ended(home: Path, parent: list[str], standin: StandIn) -> None:
    service = NativeLayerService(DriverInfo(str(home)), streaming_calls=True)
    standin.fail("ImportLayerWrite=0x80070070")
    with pytest.raises(HcsError, match="ImportLayerWrite"):
        service.import_tar("one", parent, io.BytesIO(BASE))
    assert standin.names()[-1] == "ImportLayerEnd"
    assert not (home / "one").exists()


# -- the script for a Windows host ------------------------------------------------------------------


def test_acceptance_script_runs_to_its_end_emulated(home: Path, standin: StandIn) -> None:
    # Under Wine many of its checks must fail; that each of them is made and reported is what is tested.
    standin.keep_metadata()
    tar = home / "base.tar"
    tar.write_bytes(BASE)
    script = REPOSITORY / "tools" / "windows-acceptance.py"
    command = [sys.executable, str(script), "--home", str(home / "acceptance"), "--base", str(tar)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    progress = done.stderr.splitlines()
    assert progress
    assert all(line.startswith("[") for line in progress), done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    results = {row.split(" | ")[0][2:]: row.split(" | ")[1] for row in rows[1:]}
    assert set(results.values()) <= {"passed", "skipped", "**FAILED**"}
    for title in (
        "A layer is made, told of, asked to be unprepared, and destroyed",
        "BackupWrite and BackupRead keep descriptor, attributes, EAs, streams and data",
        "A base layer is imported in a child process",
        "A base layer's export has the files that were imported",
        "The base layer is removed",
    ):
        assert results[title] == "passed", title
    assert results["ReFS is told and refused"] == "skipped"
    assert len(results) == len(progress)
    assert "checks failed" in done.stdout
    assert os.listdir(home) == ["base.tar"]


def test_acceptance_script_reports_a_broken_layer(home: Path, standin: StandIn) -> None:
    tar = home / "base.tar.gz"
    tar.write_bytes(gzip.compress(BASE)[:-100])
    script = REPOSITORY / "tools" / "windows-acceptance.py"
    command = [sys.executable, str(script), "--home", str(home / "acceptance"), "--base", str(tar)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 1, done.stderr
    assert "A base layer is imported in a child process | **FAILED** | EOFError" in done.stdout
    assert "The base layer is removed | **FAILED** | EOFError" in done.stdout
    assert os.listdir(home) == ["base.tar.gz"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--home", "C:\\lay"], "C:\\lay is there already"),
        (["--home", "C:\\lay\\no\\home"], "C:\\lay\\no is no folder"),
        (["--home", "C:\\acceptance", "--base", "C:\\no.tar"], "there is no file"),
    ],
)
def test_acceptance_script_refuses_politely(home: Path, arguments: list[str], told: str) -> None:
    script = REPOSITORY / "tools" / "windows-acceptance.py"
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stdout == ""
    assert home.is_dir()
    assert not Path("C:\\acceptance").exists()
