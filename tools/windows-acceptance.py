"""Check on a Windows host what can't be checked anywhere else, and print a report in Markdown.

    python tools\\windows-acceptance.py [--home FOLDER] [--base LAYER.tar[.gz]] [--refs FOLDER] > report.md

For a person with Windows Server 2016 or later (or Windows 10 or 11), its feature "Containers", NTFS, and an
elevated prompt; winlayers must be importable (``pip install .``).  Nothing outside of the home folder is
changed, and that is removed at the end, with its layers.  Checks that need a base layer are skipped without
``--base``: give the first layer of an image that matches the host's build (from ``docker save``, or a blob of
an OCI layout).  With one it takes some minutes and about three times the layer's size on the disk.

Paste the report into an issue.  What each check is about is in ``docs/windows.md``.  The exit code is 0 if no
check failed, 1 if one did, 2 if they can't be made here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast

from winlayers import WinlayersError, __version__
from winlayers.errors import UnsupportedError
from winlayers.graphdriver import CreateOptions
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.native import compute, errors, ffi, files, host, paths, restore, vmcompute
from winlayers.layers.native.content import FileContent
from winlayers.layers.native.privileges import WRITE, privileges
from winlayers.layers.native.safefile import FILE_CREATE, FILE_DIRECTORY_FILE, FILE_OPEN, Root
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import DriverInfo, EntryKind
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.reparse import SymbolicLink
from winlayers.win32.security import sddl_to_bytes

SECURITY = "O:BAG:SYD:P(A;;FA;;;BA)(A;;FA;;;SY)(A;;FR;;;WD)"
VM = "7e57ab1e-0000-4000-8000-000000000001"
"""The id of a virtual machine that there need not be."""
TIMES = (133_444_736_001_234_567, 133_444_736_001_234_568, 133_444_736_001_234_569, 133_444_736_001_234_570)


class Skipped(Exception):
    """A check that can't be made here; the message says why."""


def expect(condition: object, message: str) -> None:
    """Fail the check with *message* unless *condition* holds."""
    if not condition:
        raise AssertionError(message)


@dataclasses.dataclass
class Bench:
    """What the checks work with."""

    home: Path
    base_tar: Path | None
    refs: str | None

    @property
    def root(self) -> str:
        """The folder for loose files."""
        folder = self.home / "files"
        folder.mkdir(exist_ok=True)
        return str(folder)

    @property
    def layers(self) -> Path:
        """The home of layers."""
        return self.home / "layers"

    def service(self, **options: bool) -> NativeLayerService:
        """A service on the layers' home."""
        self.layers.mkdir(exist_ok=True)
        try:
            return NativeLayerService(DriverInfo(str(self.layers)), **options)
        except UnsupportedError as error:
            raise Skipped(f"needs the feature Containers: {error}") from error

    def driver(self) -> WindowsGraphDriver:
        """A graph driver on the layers' home, whose scratch layers are as large as HCS makes them."""
        return WindowsGraphDriver(str(self.layers), options=["size=0", "service=hcs"])

    def base(self) -> NativeLayerService:
        """The service, with the base layer imported as ``base``."""
        if self.base_tar is None:
            raise Skipped("needs --base")
        service = self.service()
        if not service.exists("base"):
            with self.open_base() as source:
                service.import_tar("base", [], source)
        return service

    def open_base(self) -> BinaryIO:
        """The base layer's tar, uncompressed."""
        if self.base_tar is None:
            raise Skipped("needs --base")
        with self.base_tar.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast(BinaryIO, gzip.open(self.base_tar)) if packed else self.base_tar.open("rb")

    @property
    def chain(self) -> list[str]:
        """The chain of a layer on the base."""
        return [str(self.layers / "base")]


def outcome(call: Callable[[], None]) -> str:
    """What came of a call that may well be refused."""
    try:
        call()
    except WinlayersError as error:
        return str(error)
    return "done"


Check = Callable[[Bench], str]
CHECKS: list[tuple[str, Check]] = []


def check(title: str) -> Callable[[Check], Check]:
    """Register a check under its title; what it returns goes into the report."""

    def register(function: Check) -> Check:
        CHECKS.append((title, function))
        return function

    return register


# -- Win32 ------------------------------------------------------------------------------------------


def full_metadata() -> FileMetadata:
    """Metadata of every kind that a plain file has."""
    return FileMetadata(
        FileAttributes.ARCHIVE | FileAttributes.HIDDEN,
        *TIMES,
        security=sddl_to_bytes(SECURITY),
        eas=(ExtendedAttribute("ONE", b"1"), ExtendedAttribute("TWO", bytes(300))),
    )


def write_file(root: Root, name: str, metadata: FileMetadata, *streams: tuple[str, bytes]) -> None:
    """Restore a file with all that it has."""
    options = FILE_DIRECTORY_FILE if metadata.is_directory else 0
    with root.open_relative(name, files.RESTORE, files.SHARE_READ, FILE_CREATE, options) as file:
        file.set_basic_info(metadata)
        data = [DataStream(stream, len(body), [body]) for stream, body in streams]
        restore.restore(file, metadata, data, security=True, path=name)


def read_file(root: Root, name: str) -> tuple[FileMetadata, list[tuple[str, bytes]]]:
    """Read it back."""
    with root.open_relative(name, files.READ_SECURITY, files.SHARE_READ, FILE_OPEN, 0x200000) as file:
        content = FileContent(file, file.basic_info(), security=True, path=name)
        streams = [(part.name, b"".join(part.chunks)) for part in content.streams()]
        content.close()
        return content.metadata, streams


@check("Host")
def _host(bench: Bench) -> str:
    missing = [name for name in ffi.VMCOMPUTE if not ffi.has_function(ffi.vmcompute(), name)]
    return (
        f"Windows {host.os_version()} ({platform.win32_edition() if sys.platform == 'win32' else ''}), "
        f"{host.file_system(bench.root)}; vmcompute.dll lacks {', '.join(missing) or 'nothing'}; "
        f"TP4: {host.is_tp4()}; streaming calls: {vmcompute.has_streaming()}"
    )


@check("Privileges on the thread open what nobody may open, and no longer once given back")
def _privileges(bench: Bench) -> str:
    closed = FileMetadata(FileAttributes.ARCHIVE, security=sddl_to_bytes("O:SYG:SYD:P"))
    with privileges(*WRITE), Root.open(bench.root) as root:
        write_file(root, "closed", closed, ("", b"closed"))
        expect(read_file(root, "closed")[1] == [("", b"closed")], "the content differs")
    try:
        Path(bench.root, "closed").read_bytes()
    except PermissionError:
        return "a file without any access"
    raise AssertionError("the file can be read without the privileges, too")


@check("A plain copy keeps attributes, times and descriptor, and sees what it can't keep")
def _plain_copy(bench: Bench) -> str:
    wanted = FileMetadata(FileAttributes.ARCHIVE | FileAttributes.HIDDEN, *TIMES, sddl_to_bytes(SECURITY))
    with privileges(*WRITE), Root.open(bench.root) as root:
        write_file(root, "from", wanted, ("", b"boot"))
        write_file(root, "more", wanted, ("", b"boot"), ("alt", b"alternate"))
        share = files.SHARE_READ
        with (
            root.open_relative("from", files.READ_SECURITY, share, FILE_OPEN) as source,
            root.open_relative("to", files.RESTORE, share, FILE_CREATE) as target,
        ):
            expect(not source.has_alternate_streams(), "streams are seen where there are none")
            target.set_security(source.security())
            target.set_basic_info(source.basic_info())
        with root.open_relative("more", files.READ_SECURITY, share, FILE_OPEN) as source:
            expect(source.has_alternate_streams(), "an alternate stream is not seen")
        ours, theirs = (read_file(root, name)[0] for name in ("to", "from"))
    expect(ours == theirs, f"{ours} instead of {theirs}")
    return "byte for byte"


@check("BackupWrite and BackupRead keep descriptor, attributes, EAs, streams and data")
def _backup(bench: Bench) -> str:
    wanted = full_metadata()
    body = os.urandom(200_000)
    with privileges(*WRITE), Root.open(bench.root) as root:
        write_file(root, "all", wanted, ("", body), ("alt", b"alternate"))
        found, streams = read_file(root, "all")
    expect(streams == [("", body), ("alt", b"alternate")], f"streams: {[(n, len(b)) for n, b in streams]}")
    expect(found.attributes == wanted.attributes, f"attributes: {found.attributes!r}")
    expect(found.eas == wanted.eas, f"extended attributes: {found.eas!r}")
    expect(found.security is not None, "no descriptor")
    same = found.security == wanted.security
    return f"descriptor {'byte for byte' if same else 'changed: ' + (found.security or b'').hex()}"


@check("All four times are kept to 100 ns")
def _times(bench: Bench) -> str:
    with privileges(*WRITE), Root.open(bench.root) as root:
        write_file(root, "times", full_metadata(), ("", b"data"))
        found = root.stat("times")
    expect(found is not None, "the file is gone")
    assert found is not None
    times = (found.creation_time, found.access_time, found.write_time, found.change_time)
    expect(times == TIMES, f"{[ours - theirs for ours, theirs in zip(times, TIMES, strict=True)]} ticks off")
    return "creation, access, write and change time"


@check("A sparse file reads as its plain content")
def _sparse(bench: Bench) -> str:
    with privileges(*WRITE), Root.open(bench.root) as root:
        access = files.GENERIC_READ | files.GENERIC_WRITE
        with root.open_relative("sparse", access, files.SHARE_READ, FILE_CREATE) as file:
            file.control(0x000900C4, b"", 0)  # FSCTL_SET_SPARSE
            file.seek(10 << 20)
            file.write(b"end")
        _, streams = read_file(root, "sparse")
    expect(streams == [("", bytes(10 << 20) + b"end")], "the content differs")
    return "10 MiB of hole and 3 bytes"


@check("Reparse points are made, read and removed; nothing is opened or removed through one")
def _reparse(bench: Bench) -> str:
    with privileges(*WRITE), Root.open(bench.root) as root:
        root.mkdir_all("target\\below")
        link = SymbolicLink.to("target").to_bytes()
        metadata = FileMetadata(FileAttributes.DIRECTORY | FileAttributes.REPARSE_POINT, reparse=link)
        write_file(root, "link", metadata)
        entry = root.look("link")
        assert entry is not None
        expect(not entry.descends, "a link is taken for a directory")
        with root.open_relative("link", files.GENERIC_READ, files.SHARE_READ, FILE_OPEN, 0x200000) as file:
            expect(file.reparse_buffer() == link, "the buffer differs")
        for path in ("link\\below", "link"):
            try:
                root.ensure_not_reparse_point(path)
            except errors.ReparsePointError:
                continue
            raise AssertionError(f"{path} was opened through the link")
        root.remove_all("link")
        expect(root.look("target\\below") is not None, "removing the link removed its target")
    return "a relative directory link"


@check("The 1025th hard link becomes a copy")
def _links(bench: Bench) -> str:
    with privileges(*WRITE), Root.open(bench.root) as root:
        root.mkdir("links")
        write_file(root, "links\\0", FileMetadata(FileAttributes.ARCHIVE), ("", b"data"))
        for number in range(1, 1030):
            restore.link_or_copy(root, "links\\0", root, f"links\\{number}")
        with root.open_relative("links\\0", files.GENERIC_READ, files.SHARE_READ, FILE_OPEN) as file:
            count = file.link_count()
        expect(count == 1024, f"the file has {count} links: the limit is another")
        expect(read_file(root, "links\\1029")[1] == [("", b"data")], "the copy differs")
    return f"{count} links"


@check("Read-only files, names of devices and names ending in a dot are removed")
def _removal(bench: Bench) -> str:
    with privileges(*WRITE), Root.open(bench.root) as root:
        root.mkdir("odd")
        for name in ("CON", "dot.", "blank ", "\ud800"):
            write_file(root, f"odd\\{name}", FileMetadata(FileAttributes.READONLY), ("", b""))
        root.remove_all("odd")
        expect(root.look("odd") is None, "something is left")
    return "with a lone surrogate"


@check("ReFS is told and refused")
def _refs(bench: Bench) -> str:
    if bench.refs is None:
        raise Skipped("needs --refs")
    try:
        host.refuse_refs(bench.refs)
    except WinlayersError as error:
        return str(error)
    raise AssertionError(f"{bench.refs} is {host.file_system(bench.refs)}")


# -- HCS --------------------------------------------------------------------------------------------


@check("A layer is made, told of, asked to be unprepared, and destroyed")
def _create(bench: Bench) -> str:
    service = bench.service()
    service.create("empty", "")
    try:
        expect(service.exists("empty"), "the layer is not there")
        path = service.mount_path("empty")
        told = outcome(lambda: service.unprepare("empty"))
        made = sorted(item.name for item in (bench.layers / "empty").iterdir())
    finally:
        service.destroy("empty")
    expect(not service.exists("empty"), "the layer is still there")
    same = "its folder" if path.lower() == str(bench.layers / "empty").lower() else path
    return f"made of {', '.join(made) or 'nothing'}; mount path: {same}; UnprepareLayer: {told}"


@check("GUIDs, shared base images and compute systems are told")
def _questions(bench: Bench) -> str:
    service = bench.service()
    guid = service.name_to_guid("winlayers")
    expect(guid == service.name_to_guid("winlayers"), "the GUID of a name changes")
    expect(not service.exists("no such layer"), "a layer that is not there exists")
    try:
        images = service.shared_base_images()
    except WinlayersError as error:
        images = str(error)
    systems = compute.enumerate_compute_systems()
    templates = sum(bool(system.is_runtime_template) for system in systems)
    return f"{guid}; images: {images}; {len(systems)} compute systems, {templates} of them template VMs"


@check("A base layer without hives gets ones that ProcessBaseImage takes")
def _hives(bench: Bench) -> str:
    service = bench.service()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("Files")
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    archive.seek(0)
    try:
        service.import_tar("hives", [], archive)
        return made_hives(bench, "hives")
    finally:
        service.destroy("hives")


def made_hives(bench: Bench, layer_id: str) -> str:
    """The names of the hives that ProcessBaseImage made."""
    folder = bench.layers / layer_id / "Hives"
    expect(folder.is_dir(), "ProcessBaseImage made no Hives")
    return ", ".join(sorted(path.name for path in folder.iterdir()))


@check("A base layer is imported in a child process")
def _import_base(bench: Bench) -> str:
    started = time.monotonic()
    bench.base()
    seconds = time.monotonic() - started
    made = sorted(path.name for path in (bench.layers / "base").iterdir())
    return f"{seconds:.0f} s; {', '.join(made)}; Hives: {made_hives(bench, 'base')}"


def sha256(file: IO[bytes]) -> str:
    """The digest of what *file* holds."""
    digest = hashlib.sha256()
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def digests(stream: BinaryIO | object) -> Iterator[tuple[str, str]]:
    """Name and digest of each file of a tar, links resolved to what they name."""
    with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", errors="surrogatepass") as tar:
        for member in tar:
            if member.isreg():
                data = tar.extractfile(member)
                assert data is not None
                yield member.name, sha256(data)
            elif member.islnk() or member.issym():
                yield member.name, f"-> {member.linkname}"


@check("A base layer's export has the files that were imported")
def _export_base(bench: Bench) -> str:
    service = bench.base()
    with bench.open_base() as source:
        theirs = dict(digests(source))
    with contextlib.closing(service.export_tar("base", [])) as stream:
        ours = dict(digests(stream))
    differing = [name for name, digest in theirs.items() if ours.get(name) != digest]
    added = sorted(ours.keys() - theirs.keys())
    return (
        f"{len(theirs)} files; {len(differing)} differ ({', '.join(differing[:8])}); "
        f"{len(added)} new ({', '.join(added[:8])})"
    )


@check("The boot files are read as they came")
def _boot(bench: Bench) -> str:
    service = bench.base()
    name = "UtilityVM/Files/EFI/Microsoft/Boot/BCD"
    with bench.open_base() as source:
        wanted = dict(digests(source)).get(name)
    if wanted is None:
        raise Skipped("the base layer has no utility VM")
    with service.open_file("base", name) as file:
        found = sha256(file)
    expect(found == wanted, "the original was not kept")
    now = hashlib.sha256((bench.layers / "base" / name).read_bytes()).hexdigest()
    return "the import changed it" if now != wanted else "the import left it as it was"


def delta_tar() -> io.BytesIO:
    """A layer with an addition, a deletion, a stream, and a hard link into its parent."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("Files", "Files/winlayers", "Hives"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for name, data in (
            ("Files/winlayers/MiXed.txt", b"mixed"),
            ("Files/winlayers/new.txt", b"new"),
            ("Files/winlayers/new.txt:stream", b"alternate"),
            ("Files/.wh.License.txt", b""),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo("Files/winlayers/linked.exe")
        member.type, member.linkname = tarfile.LNKTYPE, "Files/Windows/System32/cmd.exe"
        tar.addfile(member)
    archive.seek(0)
    return archive


@check("A layer is imported on the base and exported again")
def _delta(bench: Bench) -> str:
    service = bench.base()
    try:
        size = service.import_tar("delta", bench.chain, delta_tar())
        with service.open_reader("delta", bench.chain) as reader:
            found = [(entry, sum(part.size for part in streams)) for entry, streams in reader]
    finally:
        service.destroy("delta")
    rows = [
        f"{entry.path} {entry.kind.value} {total}" + (f" -> {entry.link_target}" if entry.link_target else "")
        for entry, total in found
        if "winlayers" in entry.path or entry.kind is EntryKind.WHITEOUT
    ]
    return f"{size} bytes, {len(found)} entries: {'; '.join(rows)}"


BOOT_FILE = "UtilityVM/Files/EFI/Microsoft/Boot/BCD"


@check("A layer with a utility VM leaves its parent's boot files as they are")
def _child_vm(bench: Bench) -> str:
    service = bench.base()
    parent = bench.layers / "base" / BOOT_FILE
    if not parent.exists():
        raise Skipped("the base layer has no utility VM")
    before = parent.read_bytes()
    try:
        with service.open_writer("vm", bench.chain) as writer:
            for name in ("Files", "Hives", "UtilityVM", "UtilityVM/Files"):
                writer.add(name, FileMetadata(FileAttributes.DIRECTORY))
            body = DataStream("", 3, [b"new"])
            writer.add("UtilityVM/Files/winlayers.txt", FileMetadata(FileAttributes.ARCHIVE), [body])
        child = (bench.layers / "vm" / BOOT_FILE).read_bytes()
    finally:
        service.destroy("vm")
    expect(parent.read_bytes() == before, "importing the child changed its parent")
    return f"the child's is {'changed' if child != before else 'the same'}"


@check("A scratch layer is copied, and its disk opened to a virtual machine")
def _copy(bench: Bench) -> str:
    service = bench.base()
    service.create_scratch("one", bench.chain)
    try:
        told = [
            outcome(lambda: service.copy("one", "two", bench.chain)),
            outcome(lambda: service.grant_vm_access(VM, str(bench.layers / "one" / "sandbox.vhdx"))),
        ]
    finally:
        for layer_id in ("two", "one"):
            service.destroy(layer_id)
    return f"CopyLayer: {told[0]}; GrantVmAccess: {told[1]}"


@check("A scratch layer is created, expanded, mounted, written, exported and removed")
def _scratch(bench: Bench) -> str:
    service = bench.base()
    driver = bench.driver()
    driver.create_read_write("scratch", "base", CreateOptions({"size": "40GB"}))
    try:
        view = driver.get("scratch")
        try:
            Path(view, "written.txt").write_bytes(b"in the container")
            (Path(view) / "License.txt").unlink(missing_ok=True)
            # A volume's path names its root folder only with a backslash at the end.
            size = shutil.disk_usage(view.rstrip("\\") + "\\").total
            with contextlib.closing(driver.diff("scratch")) as stream:
                exported = dict(digests(stream))
            changed = [f"{change.kind.value} {change.path}" for change in driver.changes("scratch")]
            expect(Path(view, "written.txt").exists(), "the view did not come back after it was read")
        finally:
            driver.put("scratch")
        expect("Files/written.txt" in exported, f"not exported; {len(exported)} entries")
        with contextlib.closing(service.export_inactive("scratch", bench.chain)) as stream:
            again = dict(digests(stream))
        expect("Files/written.txt" in again, "not exported once it is unmounted")
        expect(39 << 30 < size <= 40 << 30, f"the volume has {size} bytes")
    finally:
        driver.remove("scratch")
    expect(not service.exists("scratch"), "the layer is still there")
    return f"mounted at {view}; {size} bytes; {len(changed)} changes: {', '.join(changed[:12])}"


@check("A scratch layer whose disk is still attached is removed")
def _attached(bench: Bench) -> str:
    service = bench.base()
    driver = bench.driver()
    service.create_scratch("attached", bench.chain)
    # As after a crash: activated by a process that ends without deactivating.
    code = (
        "from winlayers.layers.native.service import NativeLayerService\n"
        "from winlayers.layers.service import DriverInfo\n"
        f"NativeLayerService(DriverInfo({str(bench.layers)!r})).activate('attached')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    driver.remove("attached")
    expect(not service.exists("attached"), "the layer is still there")
    driver.cleanup()
    left = [path.name for path in bench.layers.iterdir() if path.name.endswith("-removing")]
    return f"left behind: {', '.join(left) or 'nothing'}"


@check("The base layer is removed")
def _remove_base(bench: Bench) -> str:
    service = bench.base()
    bench.driver().remove("base")
    expect(not service.exists("base"), "the layer is still there")
    return ""


# -- the report -------------------------------------------------------------------------------------


FAILURES = (
    WinlayersError,
    OSError,
    EOFError,
    AssertionError,
    ValueError,
    tarfile.TarError,
    zlib.error,
    subprocess.SubprocessError,
)
"""What a check can end with, be it for the tar that was given or for a child process."""


def run(bench: Bench) -> Iterator[tuple[str, str, str]]:
    """Title, result and detail of each check; an error ends its own check only."""
    for number, (title, function) in enumerate(CHECKS, 1):
        print(f"[{number}/{len(CHECKS)}] {title}", file=sys.stderr, flush=True)
        try:
            yield title, "passed", function(bench)
        except Skipped as reason:
            yield title, "skipped", str(reason)
        except FAILURES as error:
            yield title, "**FAILED**", what_failed(error)


def what_failed(error: BaseException) -> str:
    """The error and where it was raised; before it the one after which it came, if a clean-up failed, too."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    before = None if error.__suppress_context__ else error.__context__
    return text if before is None else f"{what_failed(before)}; then {text}"


def main(arguments: Sequence[str]) -> int:
    """Print the report; 1 if a check failed, 2 if this is no Windows."""
    parser = argparse.ArgumentParser(description="Check winlayers on a Windows host; prints Markdown.")
    default = Path(os.environ.get("SYSTEMDRIVE", "C:") + "\\winlayers-acceptance")
    parser.add_argument("--home", type=Path, default=default, help="a folder on NTFS, made and removed")
    parser.add_argument("--base", type=Path, help="a base layer's tar, plain or gzip")
    parser.add_argument("--refs", help="a folder on a ReFS volume")
    options = parser.parse_args(arguments)
    reason = unfit(options.home) if os.name == "nt" else "This needs Windows."
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    if options.base is not None and not options.base.is_file():
        parser.error(f"there is no file {options.base}")
    home = Path(paths.long_path(str(options.home)).removeprefix("\\\\?\\"))
    bench = Bench(home, options.base, options.refs)
    home.mkdir()
    try:
        return report(bench)
    finally:
        clean_up(bench)


def unfit(home: Path) -> str | None:
    """Why the checks can't be made here; None: they can."""
    try:
        with privileges(*WRITE):
            pass
        kind = host.file_system(str(home))
    except WinlayersError as error:
        return str(error)
    if kind != "NTFS":
        return f"{home} is on {kind}: name a folder on NTFS with --home"
    if not home.absolute().parent.is_dir():
        return f"{home.absolute().parent} is no folder: --home must lie in one that is there"
    if home.exists():
        return f"{home} is there already: name a folder with --home that can be made and removed"
    return None


def clean_up(bench: Bench) -> None:
    """Remove what failed checks left, then the home; say so where something can't be removed."""
    try:
        if bench.layers.is_dir():
            for path in sorted(bench.layers.iterdir(), key=lambda path: path.name == "base"):
                release(bench.service(), path.name)
        with privileges(*WRITE), Root.open(str(bench.home.parent)) as parent:
            parent.remove_all(bench.home.name)
    except (WinlayersError, OSError, Skipped) as error:
        print(f"{bench.home} could not be removed, do so after a restart: {error}", file=sys.stderr)


def release(service: NativeLayerService, layer_id: str) -> None:
    """Take one layer down, whatever its state; what is not so fails, and is tried for nothing."""
    for step in (service.unprepare, service.deactivate, service.destroy):
        try:
            step(layer_id)
        except WinlayersError:
            continue


def report(bench: Bench) -> int:
    """Make the checks and print what they gave."""
    failed = 0
    print(f"# winlayers {__version__} on {platform.platform()}, Python {platform.python_version()}\n")
    print("| Check | Result | Detail |\n|---|---|---|")
    for title, result, detail in run(bench):
        failed += result == "**FAILED**"
        text = " ".join(detail.split()).replace("|", "\\|")
        print(f"| {title} | {result} | {text.encode('ascii', 'backslashreplace').decode()} |", flush=True)
    print(f"\n{failed} of {len(CHECKS)} checks failed.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
