"""Win32 and NT, for real under Wine: handles, metadata, relative opens, links, deletion, privileges, host."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from winlayers.errors import HcsError, InvalidNameError, LayerContentError, LayerNotFoundError
from winlayers.layers.native import errors, ffi, files, host, paths, restore, vmcompute
from winlayers.layers.native.privileges import SE_BACKUP, SE_RESTORE, SE_SECURITY, privileges
from winlayers.layers.native.safefile import FILE_CREATE, FILE_DIRECTORY_FILE, FILE_OPEN, Root
from winlayers.layers.native.service import NativeLayerService
from winlayers.testing.tars import Member, make_tar
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import FileMetadata


@pytest.fixture
def root(home: Path) -> Iterator[Root]:
    """A root to open below."""
    with Root.open(str(home)) as opened:
        yield opened


# -- files ------------------------------------------------------------------------------------------


def test_directories_open_for_backup(home: Path) -> None:
    with files.WinFile.open(str(home), files.GENERIC_READ, files.OPEN_EXISTING) as file:
        assert file.basic_info().is_directory
    with pytest.raises(ValueError, match="closed"):
        _ = file.handle
    file.close()


def test_missing_files_are_named(home: Path) -> None:
    path = str(home / "missing")
    with pytest.raises(LayerNotFoundError, match="CreateFileW") as caught:
        files.WinFile.open(path, files.GENERIC_READ, files.OPEN_EXISTING)
    error = caught.value
    assert isinstance(error, HcsError)
    assert (error.function, error.code, error.path) == ("CreateFileW", errors.ERROR_FILE_NOT_FOUND, path)


def test_times_and_attributes_to_100_ns(home: Path) -> None:
    path = home / "a"
    path.write_bytes(b"x")
    wanted = FileMetadata(
        FileAttributes.READONLY | FileAttributes.HIDDEN | FileAttributes.SYSTEM,
        access_time=133_444_736_001_234_567,
        write_time=133_444_736_007_654_321,
    )
    access = files.GENERIC_READ | files.FILE_WRITE_ATTRIBUTES
    with files.WinFile.open(str(path), access, files.OPEN_EXISTING) as file:
        file.set_basic_info(wanted)
        found = file.basic_info()
    assert found.access_time == wanted.access_time
    assert found.write_time == wanted.write_time
    assert found.attributes & 0x7 == wanted.attributes


def test_sizes_links_and_ids(home: Path) -> None:
    path = home / "a"
    path.write_bytes(b"12345")
    os.link(path, home / "b")
    with (
        files.WinFile.open(str(path), files.GENERIC_READ, files.OPEN_EXISTING) as one,
        files.WinFile.open(str(home / "b"), files.GENERIC_READ, files.OPEN_EXISTING) as other,
        files.WinFile.open(str(home), files.GENERIC_READ, files.OPEN_EXISTING) as folder,
    ):
        assert one.size() == 5
        assert one.link_count() == 2
        assert one.file_id() == other.file_id()
        assert one.file_id() != folder.file_id()
        assert one.reparse_tag() == 0
        assert one.ea_size() == 0


def test_data_is_written_and_read(home: Path) -> None:
    data = os.urandom(200_000)
    path = str(home / "a")
    with files.WinFile.open(path, files.GENERIC_READ | files.GENERIC_WRITE, files.CREATE_NEW) as file:
        file.write(data)
        file.seek(0)
        assert file.read(70_000) == data[:70_000]
        file.seek(199_999)
        assert file.read(10) == data[199_999:]
        assert file.read(10) == b""
    with files.RawReader(files.WinFile.open(path, files.GENERIC_READ, files.OPEN_EXISTING)) as raw:
        assert raw.seek(-3, os.SEEK_END) == 199_997
        assert raw.readall() == data[-3:]


def test_files_that_are_no_reparse_points(home: Path) -> None:
    (home / "a").write_bytes(b"")
    with files.WinFile.open(str(home / "a"), files.GENERIC_READ, files.OPEN_EXISTING) as file:
        assert file.reparse_buffer() is None
        with pytest.raises(HcsError, match="DeviceIoControl"):
            file.delete_reparse_point(0xA000000C)


def test_open_files_are_in_use(home: Path) -> None:
    (home / "a").write_bytes(b"")
    access = files.GENERIC_READ | files.GENERIC_WRITE
    with (
        files.WinFile.open(str(home / "a"), access, files.OPEN_EXISTING),
        pytest.raises(errors.HcsInUseError, match="another process has it open"),
    ):
        files.WinFile.open(str(home / "a"), access, files.OPEN_EXISTING)


def test_long_and_unicode_paths(home: Path, root: Root) -> None:
    path = ""
    for number in range(12):
        path += ("\\" if path else "") + f"{number:02}" + "\u00e9\u6f22" * 12
        root.mkdir(path)
    assert len(root.join(path)) > 300
    with root.open_relative(f"{path}\\f", files.GENERIC_WRITE, files.SHARE_READ, FILE_CREATE) as file:
        file.write(b"deep")
    assert Path(f"\\\\?\\{home}\\{path}\\f").read_bytes() == b"deep"
    # Longer than MAX_PATH allows without the prefix.
    root.remove_all(path.split("\\")[0])
    assert os.listdir(home) == []


# -- relative to a root -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["..\\x", "a\\..\\..\\x", "C:\\x", "\\x", "a:stream", "/x", "a\0b"])
def test_paths_stay_below_the_root(root: Root, path: str) -> None:
    with pytest.raises(InvalidNameError):
        root.open_relative(path, files.GENERIC_READ, files.SHARE_READ, FILE_OPEN)


def test_relative_opens_are_case_blind(home: Path, root: Root) -> None:
    root.mkdir("Dir")
    (home / "Dir" / "File").write_bytes(b"x")
    with root.open_relative("dir/./FILE", files.GENERIC_READ, files.SHARE_READ, FILE_OPEN) as file:
        assert file.read(1) == b"x"
    with pytest.raises(errors.HcsExistsError):
        root.mkdir("DIR")
    assert root.stat("none") is None
    assert root.stat("none\\deeper") is None


def test_looking_at_things(home: Path, root: Root) -> None:
    root.mkdir_all("a\\b\\c")
    root.mkdir_all("a\\b\\c")
    (home / "a" / "f").write_bytes(b"")
    found = root.look("a\\b")
    assert found is not None
    assert found.descends
    file = root.look("a\\f")
    assert file is not None
    assert not file.descends
    root.ensure_not_reparse_point("a\\b")
    with pytest.raises(errors.HcsNotFoundError):
        root.ensure_not_reparse_point("a\\none")
    with pytest.raises(LayerContentError, match="not a directory"):
        root.mkdir_all("a\\f\\c")


def test_walk_is_in_the_order_of_go(home: Path, root: Root) -> None:
    for name in ("b", "B2", "a", "\u00e9", "Z"):
        (home / name).mkdir()
        (home / name / "x").write_bytes(b"")
    found = [entry.path for entry in root.walk(".")]
    assert found == [
        *(".", "B2", "B2\\x", "Z", "Z\\x", "a", "a\\x"),
        *("b", "b\\x", "\u00e9", "\u00e9\\x"),
    ]
    kept = [entry.path for entry in root.walk(".", skip=lambda entry: entry.path == "b")]
    assert kept == [path for path in found if not path.startswith("b")]
    with pytest.raises(errors.HcsNotFoundError):
        list(root.walk("none"))


def test_directories_of_many_names_are_listed_whole(home: Path, root: Root) -> None:
    names = {f"{number:04}-{'n' * 100}" for number in range(700)}  # several buffers of 64 KiB
    root.mkdir("d")
    for name in names:
        (home / "d" / name).write_bytes(b"")
    assert root.list("d") == sorted(names)
    root.mkdir("empty")
    assert root.list("empty") == []
    with pytest.raises(HcsError):
        root.list("d\\" + min(names))  # a file
    with pytest.raises(errors.HcsNotFoundError):
        root.list("none")


@pytest.mark.parametrize("name", ["n", "name", "sub\\n"])
def test_hard_links(home: Path, root: Root, name: str) -> None:
    # A link's name of one unit leaves FILE_LINK_INFORMATION shorter than its own minimum.
    root.mkdir("sub")
    (home / "target").write_bytes(b"x")
    root.link("target", name)
    assert os.path.samefile(home / "target", home / name)
    with pytest.raises(errors.HcsExistsError):
        root.link("target", name)
    with pytest.raises(errors.HcsNotFoundError):
        root.link("none", "other")


def test_links_between_roots(home: Path) -> None:
    for name in ("one", "two"):
        (home / name).mkdir()
    (home / "one" / "f").write_bytes(b"x")
    with Root.open(str(home / "one")) as one, Root.open(str(home / "two")) as two:
        two.link("f", "g", target_root=one)
    assert os.path.samefile(home / "one" / "f", home / "two" / "g")


def test_copies_where_no_more_links_fit_emulated(
    home: Path, root: Root, monkeypatch: pytest.MonkeyPatch, standin: object
) -> None:
    ffi.vmcompute()  # brings the emulation of BackupRead and BackupWrite
    (home / "target").write_bytes(b"many names")

    def refuse(self: Root, target: str, path: str, *, target_root: Root | None = None) -> None:
        errors.raise_win32("NtSetInformationFile", errors.ERROR_TOO_MANY_LINKS, raw=0xC0000265)

    monkeypatch.setattr(Root, "link", refuse)
    with privileges(SE_BACKUP, SE_RESTORE, SE_SECURITY):
        restore.link_or_copy(root, "target", root, "copy")
    assert (home / "copy").read_bytes() == b"many names"
    assert not os.path.samefile(home / "target", home / "copy")


def test_removal(home: Path, root: Root) -> None:
    root.mkdir_all("a\\b")
    (home / "a" / "b" / "f").write_bytes(b"")
    (home / "a" / "g").write_bytes(b"")
    (home / "a" / "g").chmod(0o444)  # read-only, as Windows has it
    with pytest.raises(HcsError):
        root.remove("a")  # not empty
    root.remove("a\\g")
    assert not (home / "a" / "g").exists()
    root.remove_all("a")
    assert os.listdir(home) == []
    root.remove_all("a")
    root.remove("a", missing_ok=True)
    with pytest.raises(errors.HcsNotFoundError):
        root.remove("a")


def test_removal_goes_on_past_what_is_in_use(home: Path, root: Root) -> None:
    root.mkdir("a")
    for name in ("1", "2", "3"):
        (home / "a" / name).write_bytes(b"")
    with (
        files.WinFile.open(str(home / "a" / "1"), files.GENERIC_READ, files.OPEN_EXISTING),
        pytest.raises(errors.HcsInUseError),
    ):
        root.remove_all("a")
    assert os.listdir(home / "a") == ["1"]


def test_names_of_devices_can_be_removed(home: Path, root: Root) -> None:
    for name in ("CON", "dot.", "blank "):
        root.open_relative(name, files.GENERIC_WRITE, files.SHARE_READ, FILE_CREATE).close()
    assert set(root.list(".")) == {"CON", "dot.", "blank "}
    for name in ("CON", "dot.", "blank "):
        root.remove(name)
    assert root.list(".") == []


def test_directory_times_are_set_last(home: Path, root: Root) -> None:
    root.mkdir_all("a\\b")
    times = FileMetadata(FileAttributes.DIRECTORY, write_time=133_444_736_001_234_567)
    (home / "a" / "b" / "late").write_bytes(b"")
    restore.reapply_directory_times(
        root, [restore.DirectoryTimes("a", times), restore.DirectoryTimes("a\\b", times)]
    )
    for path in ("a", "a\\b"):
        found = root.stat(path)
        assert found is not None
        assert found.write_time == times.write_time
    with pytest.raises(errors.HcsNotFoundError):
        restore.reapply_directory_times(root, [restore.DirectoryTimes("none", times)])


def test_options_of_creation(root: Root) -> None:
    root.open_relative("d", files.GENERIC_READ, files.SHARE_READ, FILE_CREATE, FILE_DIRECTORY_FILE).close()
    found = root.stat("d")
    assert found is not None
    assert found.is_directory


def test_long_paths() -> None:
    assert paths.long_path("C:\\a\\..\\b") == "\\\\?\\C:\\b"
    assert paths.long_path("\\\\server\\share\\x") == "\\\\?\\UNC\\server\\share\\x"
    assert paths.long_path("\\\\?\\C:\\a\\..\\b") == "\\\\?\\C:\\a\\..\\b"
    assert paths.long_path("relative") == f"\\\\?\\{os.getcwd()}\\relative"


# -- privileges -------------------------------------------------------------------------------------


def thread_has_token() -> bool:
    """Whether this thread impersonates."""
    token = ctypes.c_void_p()
    thread = ffi.kernel32().GetCurrentThread()
    found = ffi.advapi32().OpenThreadToken(thread, 0x8, 1, ctypes.byref(token))
    if found:
        ffi.kernel32().CloseHandle(ffi.Handle(token.value or 0))
    return bool(found)


def enabled() -> set[str]:
    """The privileges that are enabled on this thread's token."""
    names: set[str] = set()
    if sys.platform == "win32":
        pointer = ctypes.c_void_p
        query = ctypes.WinDLL("advapi32").GetTokenInformation
        query.argtypes = [pointer, ctypes.c_int, pointer, ctypes.c_uint32, pointer]
        name_of = ctypes.WinDLL("advapi32").LookupPrivilegeNameW
        name_of.argtypes = [pointer, pointer, pointer, pointer]
        token, room = pointer(), ctypes.c_uint32()
        thread = ffi.kernel32().GetCurrentThread()
        assert ffi.advapi32().OpenThreadToken(thread, 0x8, 1, ctypes.byref(token))
        query(token, 3, None, 0, ctypes.byref(room))  # TokenPrivileges
        buffer = ctypes.create_string_buffer(room.value)
        assert query(token, 3, buffer, room.value, ctypes.byref(room))
        ffi.kernel32().CloseHandle(ffi.Handle(token.value or 0))
        for index in range(int.from_bytes(buffer.raw[:4], "little")):
            entry = buffer.raw[4 + 12 * index : 16 + 12 * index]
            if int.from_bytes(entry[8:], "little") & 2:
                name, size = ctypes.create_unicode_buffer(64), ctypes.c_uint32(64)
                assert name_of(None, entry[:8], name, ctypes.byref(size))
                names.add(name.value)
    return names


def test_privileges_are_the_threads_and_end() -> None:
    assert not thread_has_token()
    seen: list[bool] = []
    with privileges(SE_BACKUP):
        assert thread_has_token()
        assert SE_BACKUP in enabled()
        other = threading.Thread(target=lambda: seen.append(thread_has_token()))
        other.start()
        other.join()
    assert seen == [False]
    assert not thread_has_token()


def test_privileges_nest() -> None:
    with privileges(SE_BACKUP):
        with privileges(SE_BACKUP):
            pass
        assert thread_has_token()
        with privileges(SE_SECURITY, SE_RESTORE):
            assert {SE_BACKUP, SE_SECURITY, SE_RESTORE} <= enabled()
        assert thread_has_token()
        assert SE_BACKUP in enabled()
    assert not thread_has_token()


def test_privileges_end_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), privileges(SE_BACKUP, SE_RESTORE):
        raise ZeroDivisionError
    assert not thread_has_token()


def test_layers_are_read_and_written_with_privileges_emulated(
    service: NativeLayerService, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[str, set[str]]] = []

    def noting(name: str) -> Callable[..., object]:
        function = getattr(vmcompute, name)

        def noted(*arguments: object) -> object:
            held.append(
                (name, enabled() & {SE_BACKUP, SE_RESTORE, SE_SECURITY} if thread_has_token() else set())
            )
            return function(*arguments)

        return noted

    for name in ("import_layer", "export_layer", "process_base_image", "process_utility_image"):
        monkeypatch.setattr(vmcompute, name, noting(name))
    base = make_tar(Member("Files/"), Member("UtilityVM/"), Member("UtilityVM/Files/"))
    service.import_tar("base", [], io.BytesIO(base))
    chain = [service.layer_path("base")]
    service.import_tar("one", chain, io.BytesIO(make_tar(Member("Files/"), Member("UtilityVM/"))))
    for open_layer in (service.open_reader, service.open_listing, service.export_tar):
        open_layer("one", chain).close()
    service.export_folder("one", str(home / "folder"), chain)
    service.import_folder("one", str(home / "folder"), chain)
    service.process_base_layer(chain[0])
    service.process_utility_vm(f"{chain[0]}\\UtilityVM")
    writing, reading = {SE_BACKUP, SE_RESTORE, SE_SECURITY}, {SE_BACKUP}
    assert held == [
        ("process_base_image", writing),
        ("process_utility_image", writing),
        ("import_layer", writing),
        ("process_utility_image", writing),
        *[("export_layer", reading)] * 4,
        ("import_layer", writing),
        ("process_base_image", writing),
        ("process_utility_image", writing),
    ]
    assert not thread_has_token()


def test_unknown_privilege() -> None:
    with pytest.raises(HcsError, match="LookupPrivilegeValueW"), privileges("SeNoSuchPrivilege"):
        pass
    assert not thread_has_token()


# -- the host ---------------------------------------------------------------------------------------


def test_version_of_windows() -> None:
    if sys.platform == "win32":
        version = sys.getwindowsversion()
        assert host.os_version() == host.OsVersion(version.major, version.minor, version.build)
    assert str(host.os_version()).count(".") == 2
    assert not host.is_tp4()


def test_file_system_of_folders_that_are_not_there_yet(home: Path) -> None:
    assert host.file_system(str(home)) == host.file_system(str(home / "none" / "deeper")) != ""
    host.refuse_refs(str(home))


def test_detaching_needs_a_disk(home: Path, standin: object) -> None:
    host.detach_scratch(str(home))


def test_module_imports_need_no_compiled_dependency() -> None:
    code = (
        "import sys; sys.modules['isal'] = sys.modules['zstandard'] = sys.modules['click'] = None\n"
        "import winlayers.layers.native.service, winlayers.layers.native.childimport\n"
        "import winlayers.graphdriver.windows\n"
        "print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "imported"
