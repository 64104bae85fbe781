"""The contracts' own suites on the native service, as far as Wine and the stand-ins go.

What is overridden is what an emulation of HCS can't settle, or what files under Wine can't hold (creation and
change times); each says which.
"""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from tests.windows.wine.standin import StandIn
from winlayers.graphdriver.contract import GraphDriver
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.native.service import NativeLayerService
from winlayers.layers.service import DriverInfo, EntryKind, LayerService
from winlayers.testing.content import DIRECTORY, FILE, content, stream
from winlayers.testing.graph_driver import GraphDriverSuite
from winlayers.testing.layer_service import LayerServiceSuite
from winlayers.testing.tars import OPAQUE, SECURITY
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import ExtendedAttribute, FileMetadata


def make_service(home: Path, standin: StandIn) -> NativeLayerService:
    """The service on an emulation that keeps metadata; hives are not made, for the suites know of none."""
    standin.keep_metadata()
    return NativeLayerService(DriverInfo(str(home)), import_inline=True, complete_hives=False)


def check_equivalent(found: bytes, expected: bytes) -> None:
    """Check that two tars hold the same files, by NTFS's idea of names.

    An export may name parents that the tar left out, has no ``Hives`` of a base layer (source: hcsshim's base
    layer reader), and gives the data of a hard link where the link's target lies in a parent.
    """
    ours, theirs = members(found), members(expected)
    for name, entry in theirs.items():
        if name == "HIVES" or name.startswith("HIVES/"):
            continue
        assert name in ours
        if entry is not None:
            assert ours[name] == entry, name
    for name in ours.keys() - theirs.keys():
        assert any(other.startswith(f"{name}/") for other in theirs), name


def members(tar: bytes) -> dict[str, tuple[bytes, bytes] | None]:
    """Type and data (or target) by name; None: a link to what the tar does not hold."""
    found: dict[str, tuple[bytes, bytes] | None] = {}
    links: list[tuple[str, str]] = []
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogatepass") as archive:
        for member in archive:
            name = member.name.rstrip("/").upper()
            if member.islnk():
                links.append((name, member.linkname.upper()))
                continue
            data = member.linkname.replace("\\", "/").encode()
            if (file := archive.extractfile(member) if member.isreg() else None) is not None:
                data = file.read()
            found[name] = (member.type, data)
    for name, target in links:
        found[name] = found.get(target)
    return found


def storable(metadata: FileMetadata | None) -> FileMetadata:
    """*metadata* without what files under Wine can't hold."""
    assert metadata is not None
    return dataclasses.replace(metadata, creation_time=0, change_time=0, access_time=0)


class TestLayerServiceEmulated(LayerServiceSuite):
    can_mount = False

    @pytest.fixture
    def service(self, home: Path, standin: StandIn) -> LayerService:
        return make_service(home, standin)

    def check_tar(self, found: bytes, expected: bytes) -> None:
        check_equivalent(found, expected)

    def test_folder_carries_a_layer(self, service: LayerService, delta: list[str], tmp_path: Path) -> None:
        # Base layers do not travel as folders through HCS, and links are emulated as copies.
        folder = tmp_path / "folder"
        folder.mkdir()
        service.export_folder("delta", str(folder), delta[1:])
        service.import_folder("again", str(folder), delta[1:])
        again = content(service, "again", delta[1:])
        for path, (kind, metadata, target, streams) in content(service, "delta", delta[1:]).items():
            assert again[path][0] is kind, path
            if kind is EntryKind.FILE:
                assert storable(again[path][1]) == storable(metadata), path
                assert again[path][2:] == (target, streams), path

    def test_reader_gives_what_the_tar_holds(self, service: LayerService, base: list[str]) -> None:
        found = content(service, "base", [])
        assert set(found) == {
            "Files", "Files/Windows", "Files/Windows/win.ini", "Files/dir", "Files/dir/a.txt",
            "Files/dir/b.txt", "Files/gone.txt", "Files/keep.txt", "Files/opaque", "Files/opaque/old.txt",
        }  # fmt: skip
        kind, metadata, _, streams = found["Files/Windows/win.ini"]
        assert kind is EntryKind.FILE
        assert streams == (("", b"[fonts]\r\n"), ("zone", b"[ZoneTransfer]\r\n"))
        assert metadata is not None
        assert metadata.attributes == FileAttributes.ARCHIVE
        assert metadata.security == SECURITY
        assert metadata.write_time == 116444736000000000 + 1_700_000_000 * 10_000_000
        keep = found["Files/keep.txt"][1]
        assert keep is not None
        assert keep.attributes == FileAttributes.ARCHIVE | FileAttributes.READONLY

    def test_reader_tells_deletions_and_links(self, service: LayerService, delta: list[str]) -> None:
        # What HCS exports of a link into a parent is not known; the emulation gives its data.
        found = content(service, "delta", delta[1:])
        assert found["Files/gone.txt"][0] is EntryKind.WHITEOUT
        assert found["Files/new.txt"][3] == (("", b"new in the delta"),)
        names = {path.upper() for path in found}
        assert names == {
            "FILES", "FILES/GONE.TXT", "FILES/DIR", "FILES/DIR/A.TXT", "FILES/NEW.TXT", "FILES/LINKED.TXT",
        }  # fmt: skip

    def test_reader_tells_opaque_directories(self, service: LayerService, base: list[str]) -> None:
        # Windows has no opaque directories: they become deletions.
        service.import_tar("one", base, io.BytesIO(OPAQUE))
        with service.open_reader("one", base) as reader:
            kinds = {entry.path: entry.kind for entry, _ in reader}
        assert kinds["Files/opaque/old.txt"] is EntryKind.WHITEOUT
        assert kinds["Files/opaque/new.txt"] is EntryKind.FILE
        assert list(kinds.values()).count(EntryKind.WHITEOUT) == 1

    def test_written_layer_reads_the_same(self, service: LayerService) -> None:
        eas = (ExtendedAttribute("FIRST", b"1"), ExtendedAttribute("SECOND", b"\0" * 300))
        metadata = dataclasses.replace(FILE, eas=eas)
        with service.open_writer("one", []) as writer:
            writer.add("Files", DIRECTORY)
            writer.add("Files/dir", DIRECTORY)
            writer.add("Files/dir/a", metadata, [stream("", b"data" * 500), stream("alt", b"alternate")])
            writer.add("Files/dir/empty", FILE, [stream("", b"")])
            writer.add_link("Files/link", "Files/dir/a")
            assert not service.exists("one")
        assert service.exists("one")
        found = content(service, "one", [])
        assert storable(found["Files/dir"][1]) == storable(DIRECTORY)
        kind, read, target, streams = found["Files/dir/a"]
        assert (kind, target, streams) == (
            EntryKind.FILE, None, (("", b"data" * 500), ("alt", b"alternate")),
        )  # fmt: skip
        assert storable(read) == storable(metadata)
        assert found["Files/dir/empty"][3] == (("", b""),)
        assert found["Files/link"][::2] == (EntryKind.LINK, "Files/dir/a")

    def test_writer_deletes_in_parents(self, service: LayerService, base: list[str]) -> None:
        with service.open_writer("one", base) as writer:
            writer.add("Files", DIRECTORY)
            writer.remove("Files/gone.txt")
            writer.remove("Files/never was there")
            writer.add_link("Files/link", "Files/keep.txt")
        found = content(service, "one", base)
        assert found["Files/gone.txt"][0] is EntryKind.WHITEOUT
        assert found["Files/link"][3] == (("", b"kept " * 1000),)

    def test_writer_hides(self, service: LayerService, base: list[str]) -> None:
        with service.open_writer("one", base) as writer:
            writer.add("Files", DIRECTORY)
            writer.add("Files/opaque", DIRECTORY)
            writer.hide("Files/opaque")
        assert content(service, "one", base)["Files/opaque/old.txt"][0] is EntryKind.WHITEOUT


class TestGraphDriverEmulated(GraphDriverSuite):
    can_mount = True
    writable_views = False
    tells_additions = False

    @pytest.fixture
    def driver(self, home: Path, standin: StandIn) -> GraphDriver:
        return WindowsGraphDriver(
            str(home), service_factory=lambda info, options: make_service(Path(info.home), standin)
        )

    def check_tar(self, found: bytes, expected: bytes) -> None:
        check_equivalent(found, expected)

    def test_changes_and_their_size(self, driver: GraphDriver, delta: str) -> None:
        # Which letter case HCS exports, and what of a link into a parent, is not known: both are left out.
        kinds = {change.path.upper(): change.kind.name for change in driver.changes(delta, "base")}
        assert kinds["FILES/GONE.TXT"] == "DELETE"
        assert kinds["FILES/DIR/A.TXT"] == kinds["FILES/NEW.TXT"] == "MODIFY"
        assert driver.diff_size(delta, "base") >= 14 + 16
