"""What of the native service needs no Windows: paths, errors, what the build decides; on fake libraries."""

from __future__ import annotations

import contextlib
import ctypes
import struct
from typing import Any

import pytest

from winlayers.errors import (
    HcsError,
    InvalidNameError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    StoreError,
    UnsupportedError,
)
from winlayers.layers.native import (
    childimport,
    compute,
    content,
    errors,
    ffi,
    files,
    host,
    paths,
    safefile,
    vmcompute,
)
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import DriverInfo, Flavour
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.backupstream import BackupStreamWriter, StreamHeader, StreamId
from winlayers.win32.metadata import FileMetadata


class Fake:
    """A library with some functions; others are as absent as they are on older builds."""

    def __init__(self, **functions: Any) -> None:
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        raise UnsupportedError(f"this build of Windows has no {name}")


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts fakes in place of libraries."""

    def put(**libraries: Any) -> None:
        for name, library in libraries.items():
            monkeypatch.setattr(ffi, name, lambda library=library: library)

    return put


# -- structures and libraries -----------------------------------------------------------------------


def test_structures_have_the_sizes_of_64_bit_windows() -> None:
    sizes = {
        ffi.Guid: 16,
        ffi.FileBasicInfo: 40,
        ffi.FileIdInfo: 24,
        ffi.FileAttributeTagInfo: 8,
        ffi.IoStatusBlock: 16,
        ffi.UnicodeString: 16,
        ffi.ObjectAttributes: 48,
        ffi.LuidAndAttributes: 12,
        ffi.DriverInfoStruct: 16,
        ffi.LayerDescriptor: 32,
        ffi.VirtualStorageType: 20,
        ffi.OpenVirtualDiskParameters: 28,
        ffi.OsVersionInfo: 276,
    }
    assert {cls: ctypes.sizeof(cls) for cls in sizes} == sizes
    assert ffi.LayerDescriptor.flags.offset == 16
    assert ffi.LayerDescriptor.path.offset == 24


def test_every_function_of_the_protocols_has_a_signature() -> None:
    for protocol, signatures in (
        (ffi.Kernel32, ffi.KERNEL32),
        (ffi.Ntdll, ffi.NTDLL),
        (ffi.Advapi32, ffi.ADVAPI32),
        (ffi.Virtdisk, ffi.VIRTDISK),
        (ffi.Ole32, ffi.OLE32),
        (ffi.VmCompute, ffi.VMCOMPUTE),
    ):
        declared = {name for name in vars(protocol) if not name.startswith("_")}
        assert declared <= set(signatures)
        assert set(signatures) - declared <= {"HNSCall"}
        for name in declared:
            parameters = vars(protocol)[name].__code__.co_argcount - 1
            assert parameters == len(signatures[name][1]), name


@pytest.mark.skipif("sys.platform == 'win32'", reason="Windows has these libraries")
def test_elsewhere_the_service_says_what_it_needs() -> None:
    with pytest.raises(UnsupportedError, match=r"vmcompute\.dll needs Windows"):
        NativeLayerService(DriverInfo("/home"))
    assert ffi.last_error() == 0


def test_streaming_calls_must_be_there(use: Any) -> None:
    use(vmcompute=Fake())
    with pytest.raises(UnsupportedError, match="streaming"):
        NativeLayerService(DriverInfo("/home"), streaming_calls=True)
    use(vmcompute=Fake(ImportLayerBegin=1, ExportLayerBegin=1))
    assert vmcompute.has_streaming()


# -- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hresult", "code"),
    [
        (0x80070005, 5),
        (-2147024891, 5),
        (0x8007001F, 31),
        (0xC0370103, 0xC0370103),
        (0x80004005, 0x80004005),
        (0x80370110, 0x80370110),
        (0, 0),
    ],
)
def test_win32_codes_in_hresults(hresult: int, code: int) -> None:
    assert errors.win32_from_hresult(hresult) == code


def test_success_is_no_error() -> None:
    for hresult in (0, 1, 0x7FFFFFFF):
        errors.check_hresult("PrepareLayer", hresult)
    errors.check_ntstatus("NtCreateFile", 0)
    errors.check_win32("OpenVirtualDisk", 0)


@pytest.mark.parametrize(
    ("code", "classes"),
    [
        (2, (LayerNotFoundError, LookupError)),
        (3, (LayerNotFoundError,)),
        (5, (PermissionError, OSError)),
        (32, (LayerInUseError,)),
        (50, (UnsupportedError,)),
        (80, (LayerExistsError,)),
        (170, (LayerInUseError,)),
        (183, (LayerExistsError,)),
        (1300, (PermissionError,)),
        (1314, (PermissionError,)),
        (4395, (errors.ReparsePointError,)),
        (31, ()),
    ],
)
def test_codes_become_named_errors(code: int, classes: tuple[type[Exception], ...]) -> None:
    with pytest.raises(HcsError) as caught:
        errors.check_hresult("DestroyLayer", 0x80070000 | code, layer="C:\\lay\\x")
    assert all(isinstance(caught.value, cls) for cls in classes)
    assert caught.value.code == 0x80070000 | code
    assert errors.win32_code(caught.value) == code
    assert str(caught.value).startswith("layer C:\\lay\\x: DestroyLayer: ")


def test_ntstatus_is_mapped_by_windows(use: Any) -> None:
    use(ntdll=Fake(RtlNtStatusToDosError=lambda status: {0xC0000034: 2, 0xC0000022: 5}[status]))
    with pytest.raises(errors.HcsNotFoundError) as caught:
        errors.check_ntstatus("NtCreateFile", 0xC0000034, path="x")
    assert (caught.value.code, errors.win32_code(caught.value)) == (0xC0000034, 2)
    with pytest.raises(errors.HcsAccessDeniedError, match="elevated"):
        errors.check_ntstatus("NtCreateFile", 0xC0000022)


# -- paths ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("Files/a", "Files\\a"),
        ("Files\\\\a\\.\\b\\", "Files\\a\\b"),
        (".", "."),
        ("", "."),
        ("a..b", "a..b"),
        ("...", "..."),
    ],
)
def test_relative_paths_are_cleaned(path: str, clean: str) -> None:
    assert paths.clean_relative(path) == clean


@pytest.mark.parametrize(
    "path", ["..", "a/..", "a\\..\\b", "/a", "\\a", "\\\\server\\x", "C:\\a", "a:b", "a\0", "x" * 40000]
)
def test_paths_out_of_a_root_are_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        paths.clean_relative(path)


def test_paths_of_entries() -> None:
    assert paths.entry_path("Files/a/b") == "Files\\a\\b"
    assert paths.entry_path("Files/a:s", stream=True) == "Files\\a:s"
    for path in ("", "a//b", "a/./b", "../a", "/a", "a/", "a\\b", "a:s", "a\0"):
        with pytest.raises(InvalidNameError):
            paths.entry_path(path)
    for path in ("a:s:$DATA", "a:", "a:s/b", ":s"):
        with pytest.raises(InvalidNameError):
            paths.entry_path(path, stream=True)


def test_long_paths() -> None:
    assert paths.long_path("C:\\a\\.\\b\\..\\c") == "\\\\?\\C:\\a\\c"
    assert paths.long_path("\\\\server\\share\\a") == "\\\\?\\UNC\\server\\share\\a"
    for path in ("\\\\?\\C:\\a\\..", "\\\\.\\PhysicalDrive0", "\\\\?\\Volume{x}\\"):
        assert paths.long_path(path) == path


def test_prefixes_end_at_a_separator() -> None:
    assert paths.is_below("Files\\a", "Files")
    assert not paths.is_below("Files", "Files")
    assert not paths.is_below("Files\\", "Files")
    assert not paths.is_below("Filesystem\\a", "Files")


# -- what the build decides -------------------------------------------------------------------------


def version(build: int) -> Fake:
    """ntdll of that build."""

    def get(info: Any) -> int:
        info._obj.major, info._obj.minor, info._obj.build = 10, 0, build
        return 0

    return Fake(RtlGetVersion=get)


@pytest.mark.parametrize(
    ("build", "has_hns", "tp4"),
    [
        (7601, False, False),
        (10586, False, True),
        (10586, True, False),
        (14393, True, False),
        (20348, False, False),
    ],
)
def test_tp4_is_told_by_hnscall_and_build(use: Any, build: int, has_hns: bool, tp4: bool) -> None:
    use(ntdll=version(build), vmcompute=Fake(**({"HNSCall": 1} if has_hns else {})))
    assert host.is_tp4() is tp4
    service = NativeLayerService(DriverInfo("/home"))
    assert service.streaming is not tp4
    transfer = dict(service.status())["Layer transfer"]
    assert transfer == ("whole folders (TP4)" if tp4 else "transport format")


@pytest.mark.parametrize(("build", "tries"), [(14393, 501), (16299, 1), (20348, 1)])
def test_enumeration_is_retried_below_16299_only(use: Any, build: int, tries: int) -> None:
    calls = []

    def enumerate_systems(query: str, systems: Any, result: Any) -> int:
        calls.append(query)
        return 0xC0370105

    use(ntdll=version(build), vmcompute=Fake(HcsEnumerateComputeSystems=enumerate_systems))
    slept: list[float] = []
    if tries == 1:
        with pytest.raises(HcsError):
            compute.enumerate_with_retries(slept.append)
    else:
        assert compute.enumerate_with_retries(slept.append) == []
    assert len(calls) == tries
    assert slept == [0.01] * (tries - 1)


@pytest.mark.parametrize(("name", "refused"), [("ReFS", True), ("NTFS", False), ("refs", True)])
def test_refs_is_refused(use: Any, name: str, refused: bool) -> None:
    def volume(root: str, *arguments: Any) -> int:
        assert root == "D:\\"
        arguments[5].value = name
        return 1

    def volume_path(path: str, buffer: Any, size: int) -> int:
        buffer.value = "D:\\"
        return 1

    use(
        vmcompute=Fake(),
        kernel32=Fake(GetVolumePathNameW=volume_path, GetVolumeInformationW=volume),
    )
    service = NativeLayerService(DriverInfo("D:\\layers"))
    with pytest.raises(StoreError, match="ReFS") if refused else contextlib.nullcontext():
        service.check_home()


# -- calls ------------------------------------------------------------------------------------------


def test_mount_path_that_can_not_be(use: Any) -> None:
    def claim(info: Any, layer: str, length: Any, buffer: Any) -> int:
        length._obj.value = 2**40
        return 0

    use(vmcompute=Fake(GetLayerMountPath=claim))
    with pytest.raises(Exception, match="claims a path"):
        vmcompute.get_layer_mount_path(Flavour.FILTER, "C:\\x")


def test_null_characters_never_reach_a_call(use: Any) -> None:
    use(vmcompute=Fake(ActivateLayer=lambda *a: pytest.fail("called")))
    with pytest.raises(InvalidNameError):
        vmcompute.activate_layer(Flavour.FILTER, "C:\\a\0b")


class _Tree(safefile.Root):
    """Directories that are nowhere; what is in *held* can't be removed."""

    def __init__(self, *paths: str, held: str = "") -> None:
        self.left = set(paths)
        self._held = held

    def stat(self, path: str) -> FileMetadata | None:
        return FileMetadata(FileAttributes.DIRECTORY) if path in self.left else None

    def list(self, path: str) -> list[str]:
        return [name.rpartition("\\")[2] for name in self.left if name.rpartition("\\")[0] == path]

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        if path == self._held or self.list(path):
            raise HcsError(f"{path} is held")
        self.left.discard(path)


def test_trees_of_any_depth_are_removed() -> None:
    tree = _Tree(*("d" + "\\d" * depth for depth in range(1200)))
    tree.remove_all("d")
    assert tree.left == set()


def test_all_but_what_is_held_is_removed() -> None:
    tree = _Tree("a", "a\\b", "a\\b\\c", "a\\b\\d", "a\\e", "f", held="a\\b\\c")
    with pytest.raises(HcsError, match=r"^a\\b\\c is held$"):
        tree.remove_all("a")
    assert tree.left == {"a", "a\\b", "a\\b\\c", "f"}


EAS = struct.pack("<IBBH", 0, 0, 3, 5) + b"ONE\0value"


class _Source:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int) -> bytes:
        part, self.data = self.data[:size], self.data[size:]
        return part


def streams(*parts: tuple[int, str, bytes]) -> _Source:
    """A backup stream."""
    data = bytearray()

    class Sink:
        def write(self, piece: bytes | memoryview) -> None:
            data.extend(piece)

    writer = BackupStreamWriter(Sink())
    for number, name, body in parts:
        writer.write_header(StreamHeader(number, len(body), name=name))
        writer.write(body)
    writer.finish()
    return _Source(bytes(data))


def test_files_are_read_in_one_pass() -> None:
    source = streams(
        (StreamId.SECURITY_DATA, "", b"sd"),
        (StreamId.OBJECT_ID, "", b"left out"),
        (StreamId.DATA, "", b"data"),
        (StreamId.ALTERNATE_DATA, ":s:$DATA", b"more"),
    )
    metadata, found = content.read_once(source, FileMetadata(FileAttributes.ARCHIVE), "a")
    assert (metadata.security, metadata.attributes) == (b"sd", FileAttributes.ARCHIVE)
    assert [(part.name, part.size, b"".join(part.chunks)) for part in found] == [
        *(("", 4, b"data"), ("s", 4, b"more"))
    ]


@pytest.mark.parametrize("late", [StreamId.EA_DATA, StreamId.SECURITY_DATA, StreamId.REPARSE_DATA])
def test_metadata_behind_the_data_is_refused_in_one_pass(late: StreamId) -> None:
    source = streams((StreamId.DATA, "", b"data"), (late, "", b"x"))
    _, found = content.read_once(source, FileMetadata(), "a")
    with pytest.raises(Exception, match=f"id {int(late)} follows the data"):
        list(found)


class _Placed(files.WinFile):
    """A file whose data a backup stream has from the file's position on, which reading it moves."""

    def __init__(self) -> None:
        self._handle = None
        self.path = "a"
        self.position = 0

    def ea_size(self) -> int:
        return 1

    def seek(self, offset: int) -> None:
        self.position = offset

    def backup_reader(self, *, security: bool) -> files.BackupReader:
        parts = streams((StreamId.DATA, "", b"data"[self.position :]), (StreamId.EA_DATA, "", EAS))
        self.position = 4
        reader = files.BackupReader(self, security=security)
        reader.read = parts.read  # type: ignore[method-assign]  # instead of what Windows gives
        return reader


def test_files_that_are_read_twice_are_read_from_their_start_each_time() -> None:
    found = content.FileContent(_Placed(), FileMetadata(FileAttributes.ARCHIVE), security=False)
    with contextlib.closing(found):
        assert [b"".join(part.chunks) for part in found.streams()] == [b"data"]
    assert [attribute.name for attribute in found.metadata.eas] == ["ONE"]


# -- the child's answers ----------------------------------------------------------------------------


def result(code: int, output: str, messages: str) -> int:
    """What the parent makes of it."""
    return childimport.child_result("C:\\x", code, output, messages)


def test_size_of_a_child() -> None:
    assert result(0, "123", "a warning") == 123


@pytest.mark.parametrize(
    ("code", "out", "err", "message"),
    [
        (0, "", "", "no message, exit code 0"),
        (0, "1 2", "", "no message"),
        (3221225477, "", "", "exit code 3221225477"),
        (1, "12", "Traceback:\nMemoryError", "MemoryError"),
        (1, "", "SystemExit: no class of ours", "SystemExit"),
        (1, "", "sys: not a class", "sys"),
    ],
)
def test_children_that_fail_otherwise(code: int, out: str, err: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        result(code, out, err)
    assert type(caught.value).__name__ == "LayerError"


def test_children_name_the_class() -> None:
    with pytest.raises(LayerInUseError) as caught:
        result(1, "", "noise\nHcsInUseError: x: BackupWrite: Sharing violation (error 32) (in use)")
    assert isinstance(caught.value, HcsError)
    assert caught.value.code == 32
    with pytest.raises(HcsError) as other:
        result(1, "", "HcsError: x: ImportLayer: error 0xc0370106")
    assert other.value.code == 0xC0370106
