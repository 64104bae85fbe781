"""The promises of :class:`~winlayers.layers.service.LayerService`, as tests."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from winlayers.errors import (
    InvalidNameError,
    LayerContentError,
    LayerExistsError,
    LayerNotFoundError,
    WinlayersError,
)
from winlayers.layers.service import EntryKind, LayerService
from winlayers.testing.content import DIRECTORY, FILE, content, leftovers, read_all, stream
from winlayers.testing.layer_views import LayerViewSuite
from winlayers.testing.tars import (
    BASE,
    BASE_SIZE,
    BASE_STREAM_SIZE,
    DELTA,
    FORMS,
    OPAQUE,
    SECURITY,
    SIZES,
    Member,
    make_tar,
)
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, ExtendedAttribute


class LayerServiceSuite(LayerViewSuite):
    """Subclass this with a fixture ``service`` that gives a service on an empty home.

    Attributes:
        can_write: whether :meth:`~winlayers.layers.service.LayerService.open_writer` works.
        can_hide: whether writers can make directories opaque.
        can_mount: whether layers can be mounted here, and their views written to.
        view_is_case_blind: whether names in views have no case.
    """

    # -- the life of a layer --

    def test_layer_path_is_the_last_part_under_the_home(self, service: LayerService) -> None:
        path = service.layer_path("one")
        assert os.path.isabs(path)
        assert path == os.path.join(service.info.home, "one")
        assert service.layer_path("elsewhere/one") == path
        assert service.layer_path("C:\\elsewhere\\one\\") == path

    def test_created_layer_exists_until_destroyed(self, service: LayerService) -> None:
        assert not service.exists("one")
        service.create("one", "")
        assert service.exists("one")
        assert os.path.isdir(service.layer_path("one"))
        service.destroy("one")
        assert not service.exists("one")
        assert not os.path.lexists(service.layer_path("one"))

    def test_destroying_what_is_not_there_is_fine(self, service: LayerService) -> None:
        service.destroy("missing")

    def test_create_refuses_an_id_that_is_taken(self, service: LayerService, base: list[str]) -> None:
        service.create("one", "base")
        for layer_id in ("one", "base"):
            with pytest.raises(LayerExistsError):
                service.create(layer_id, "")
        self.check_tar(read_all(service.export_tar("base", [])), BASE)

    def test_scratch_stands_on_a_chain(self, service: LayerService, delta: list[str]) -> None:
        service.create_scratch("scratch", delta)
        assert service.exists("scratch")
        with pytest.raises(LayerExistsError):
            service.create_scratch("scratch", delta)
        service.expand_scratch("scratch", 127 << 30)
        service.destroy("scratch")
        assert not service.exists("scratch")

    def test_scratch_without_a_chain_is_refused(self, service: LayerService) -> None:
        before = leftovers(service.info.home)
        with pytest.raises(LayerNotFoundError):
            service.create_scratch("scratch", [])
        with pytest.raises(LayerNotFoundError):
            service.create_scratch("scratch", [service.layer_path("missing")])
        assert not service.exists("scratch")
        assert leftovers(service.info.home) == before

    def test_what_is_not_there_is_named(self, service: LayerService, tmp_path: Path) -> None:
        calls: list[Callable[[], object]] = [
            lambda: service.activate("missing"),
            lambda: read_all(service.export_tar("missing", [])),
            lambda: content(service, "missing", []),
            lambda: service.export_folder("missing", str(tmp_path / "out"), []),
        ]
        for call in calls:
            with pytest.raises(LayerNotFoundError, match="missing"):
                call()

    # -- tars --

    def test_tars_come_back_byte_for_byte(self, service: LayerService, delta: list[str]) -> None:
        self.check_tar(read_all(service.export_tar("base", [])), BASE)
        self.check_tar(read_all(service.export_tar("delta", delta[1:]), 7), DELTA)
        with contextlib.closing(service.export_tar("delta", delta[1:])) as whole:
            self.check_tar(whole.read(), DELTA)

    @pytest.mark.parametrize("tar", FORMS.values(), ids=FORMS.keys())
    def test_every_form_of_tar_comes_back(self, service: LayerService, tar: bytes) -> None:
        service.import_tar("one", [], io.BytesIO(tar))
        self.check_tar(read_all(service.export_tar("one", [])), tar)

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("n" * 255, id="255 units"),
            pytest.param("\U0001f600" * 127, id="127 pairs of surrogates"),
            pytest.param("\u0130\u0131\u017f\u212a", id="letters whose case is a trap"),
            pytest.param("CON", id="a device"),
            pytest.param("dot.", id="a dot at the end"),
            pytest.param("blank ", id="a blank at the end"),
            pytest.param(b"\xed\xa0\x80x".decode("utf-8", "surrogateescape"), id="a lone surrogate"),
        ],
    )
    def test_odd_names_are_kept(self, service: LayerService, name: str) -> None:
        tar = make_tar(Member("Files/"), Member(f"Files/{name}", b"odd"))
        service.import_tar("one", [], io.BytesIO(tar))
        expected = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass")
        assert content(service, "one", [])[f"Files/{expected}"][3] == (("", b"odd"),)
        self.check_tar(read_all(service.export_tar("one", [])), tar)

    def test_import_fills_an_empty_layer(self, service: LayerService) -> None:
        service.create("one", "")
        assert service.import_tar("one", [], io.BytesIO(BASE)) == BASE_SIZE
        self.check_tar(read_all(service.export_tar("one", [])), BASE)

    def test_import_refuses_a_layer_with_content(self, service: LayerService, base: list[str]) -> None:
        with pytest.raises(LayerExistsError):
            service.import_tar("base", [], io.BytesIO(make_tar(Member("Files/other", b"x"))))
        self.check_tar(read_all(service.export_tar("base", [])), BASE)

    def test_import_needs_its_parents(self, service: LayerService) -> None:
        with pytest.raises(LayerNotFoundError):
            service.import_tar("one", [service.layer_path("missing")], io.BytesIO(DELTA))
        assert not service.exists("one")

    @pytest.mark.parametrize(
        "tar",
        [
            pytest.param(b"\x01" * 1024, id="no tar"),
            pytest.param(BASE[:700], id="cut in a header"),
            pytest.param(BASE[: BASE.index(b"kept kept") + 512], id="cut in data"),
            pytest.param(make_tar(Member("Files/../../x", b"x")), id="leads out"),
            pytest.param(make_tar(Member("Files/a", b"x", pax={"MSWINDOWS.rawsd": "!"})), id="no base64"),
            pytest.param(make_tar(Member("Files/"), Member("Files/.wh.x")), id="a whiteout in a base layer"),
            pytest.param(make_tar(Member("Files/a", link="Files/none")), id="a link to nothing"),
        ],
    )
    def test_failed_import_leaves_nothing(self, service: LayerService, tar: bytes) -> None:
        service.import_tar("other", [], io.BytesIO(make_tar(Member("Files/a", b"x"))))
        before = leftovers(service.info.home)
        with pytest.raises(WinlayersError):
            service.import_tar("one", [], io.BytesIO(tar))
        assert not service.exists("one")
        assert leftovers(service.info.home) == before
        service.import_tar("one", [], io.BytesIO(BASE))

    def test_error_of_the_source_is_passed_on(self, service: LayerService) -> None:
        class Broken:
            def __init__(self) -> None:
                self.file = io.BytesIO(BASE)

            def read(self, n: int = -1, /) -> bytes:
                data = self.file.read(min(n, 512) if n >= 0 else 512)
                if self.file.tell() > 4096:
                    raise ConnectionResetError("gone")
                return data

            def close(self) -> None:
                self.file.close()

        before = leftovers(service.info.home)
        with pytest.raises((ConnectionResetError, WinlayersError)):
            service.import_tar("one", [], Broken())
        assert not service.exists("one")
        assert leftovers(service.info.home) == before

    # -- readers --

    def test_reader_gives_what_the_tar_holds(self, service: LayerService, base: list[str]) -> None:
        found = content(service, "base", [])
        assert set(found) == {
            "Files", "Files/Windows", "Files/Windows/win.ini", "Files/dir", "Files/dir/a.txt",
            "Files/dir/b.txt", "Files/gone.txt", "Files/keep.txt", "Files/opaque", "Files/opaque/old.txt",
            "Hives",
        }  # fmt: skip
        kind, metadata, _, streams = found["Files/Windows/win.ini"]
        assert kind is EntryKind.FILE
        assert streams == (("", b"[fonts]\r\n"), ("zone", b"[ZoneTransfer]\r\n"))
        assert metadata is not None
        assert metadata.attributes == FileAttributes.ARCHIVE
        assert metadata.security == SECURITY
        assert metadata.write_time == 116444736000000000 + 1_700_000_000 * 10_000_000
        assert metadata.creation_time == 116444736000000000 + 17_000_000_001_234_567
        keep = found["Files/keep.txt"]
        assert keep[1] is not None
        assert keep[1].attributes == FileAttributes.ARCHIVE | FileAttributes.READONLY
        assert found["Files/dir"][0] is EntryKind.DIRECTORY

    def test_reader_tells_deletions_and_links(self, service: LayerService, delta: list[str]) -> None:
        found = content(service, "delta", delta[1:])
        assert found["Files/gone.txt"][0] is EntryKind.WHITEOUT
        kind, _, target, streams = found["Files/linked.txt"]
        assert (kind, target, streams) == (EntryKind.LINK, "Files/keep.txt", ())
        assert set(found) == {
            "Files", "Files/gone.txt", "Files/DIR", "Files/DIR/A.TXT", "Files/new.txt", "Files/linked.txt",
        }  # fmt: skip

    def test_reader_tells_opaque_directories(self, service: LayerService, base: list[str]) -> None:
        service.import_tar("one", base, io.BytesIO(OPAQUE))
        with service.open_reader("one", base) as reader:
            kinds = [(entry.path, entry.kind) for entry, _ in reader]
        assert ("Files/opaque", EntryKind.OPAQUE) in kinds
        assert not any(".wh." in path for path, _ in kinds)

    def test_reader_can_be_left_early(self, service: LayerService, base: list[str]) -> None:
        with service.open_reader("base", []) as reader:
            entries = iter(reader)
            next(entries)
            next(entries)
        reader.close()
        service.destroy("base")
        assert not service.exists("base")

    def test_streams_that_are_not_read_are_skipped(self, service: LayerService, base: list[str]) -> None:
        with service.open_reader("base", []) as reader:
            paths = [entry.path for entry, _ in reader]
        assert sorted(paths) == sorted(content(service, "base", []))

    def test_empty_layer_has_no_entries(self, service: LayerService, base: list[str]) -> None:
        service.create("one", "base")
        assert content(service, "one", base) == {}

    # -- writers --

    def _need_writer(self) -> None:
        if not self.can_write:
            pytest.skip("this service has no writer")

    def test_written_layer_reads_the_same(self, service: LayerService) -> None:
        self._need_writer()
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
        assert found["Files/dir"][:2] == (EntryKind.DIRECTORY, DIRECTORY)
        assert found["Files/dir/a"] == (
            EntryKind.FILE, metadata, None, (("", b"data" * 500), ("alt", b"alternate")),
        )  # fmt: skip
        assert found["Files/dir/empty"] == (EntryKind.FILE, FILE, None, (("", b""),))
        assert found["Files/link"][::2] == (EntryKind.LINK, "Files/dir/a")
        with tarfile.open(fileobj=io.BytesIO(service.export_tar("one", []).read())) as tar:
            link = tar.getmember("Files/link")
            assert link.islnk()
            assert link.linkname == "Files/dir/a"

    def test_commit_counts_unnamed_streams(self, service: LayerService) -> None:
        self._need_writer()
        writer = service.open_writer("one", [])
        writer.add("Files", DIRECTORY)
        writer.add("Files/a", FILE, [stream("", b"12345"), stream("s", b"67")])
        writer.add_link("Files/b", "Files/a")
        assert writer.commit() == 5

    @pytest.mark.parametrize(("tar", "size"), SIZES.values(), ids=SIZES.keys())
    def test_import_counts_like_the_reference(self, service: LayerService, tar: bytes, size: int) -> None:
        assert service.import_tar("one", [], io.BytesIO(tar)) == size
        facts = service.facts("one")
        assert facts.get("size", str(size)) == str(size)

    def test_bytes_in_streams_are_told_apart(self, service: LayerService, base: list[str]) -> None:
        facts = service.facts("base")
        if not facts:
            pytest.skip("this service knows nothing of layers")
        assert facts["size"] == str(BASE_SIZE)
        assert facts["stream_size"] == str(BASE_STREAM_SIZE)

    def test_writer_deletes_in_parents(self, service: LayerService, base: list[str]) -> None:
        self._need_writer()
        with service.open_writer("one", base) as writer:
            writer.add("Files", DIRECTORY)
            writer.remove("Files/gone.txt")
            writer.remove("Files/never was there")
            writer.add_link("Files/link", "Files/keep.txt")
        found = content(service, "one", base)
        assert found["Files/gone.txt"][0] is EntryKind.WHITEOUT
        assert found["Files/link"][2] == "Files/keep.txt"

    def test_writer_hides(self, service: LayerService, base: list[str]) -> None:
        self._need_writer()
        with service.open_writer("one", base) as writer:
            writer.add("Files", DIRECTORY)
            writer.add("Files/opaque", DIRECTORY)
            if not self.can_hide:
                with pytest.raises(LayerContentError):
                    writer.hide("Files/opaque")
                return
            writer.hide("Files/opaque")
        with service.open_reader("one", base) as reader:
            assert ("Files/opaque", EntryKind.OPAQUE) in [(entry.path, entry.kind) for entry, _ in reader]

    def test_deletion_in_a_base_layer_is_refused(self, service: LayerService) -> None:
        self._need_writer()
        with pytest.raises(LayerContentError), service.open_writer("one", []) as writer:  # noqa: PT012
            writer.add("Files", DIRECTORY)
            writer.remove("Files/x")
        assert not service.exists("one")

    def test_aborted_writer_leaves_nothing(self, service: LayerService) -> None:
        self._need_writer()
        service.import_tar("other", [], io.BytesIO(BASE))
        before = leftovers(service.info.home)
        writer = service.open_writer("one", [])
        writer.add("Files", DIRECTORY)
        writer.add("Files/a", FILE, [stream("", b"x")])
        writer.abort()
        writer.abort()
        with pytest.raises(ZeroDivisionError), service.open_writer("two", []) as writer:  # noqa: PT012
            writer.add("Files", DIRECTORY)
            raise ZeroDivisionError
        assert not service.exists("one")
        assert not service.exists("two")
        assert leftovers(service.info.home) == before

    def test_abort_after_commit_is_harmless(self, service: LayerService) -> None:
        self._need_writer()
        with service.open_writer("one", []) as writer:
            writer.add("Files", DIRECTORY)
        writer.abort()
        assert service.exists("one")

    @pytest.mark.parametrize(
        "path", ["", "..", "Files/../x", "/Files/x", "Files//x", "Files/a:b/c", "Files/\0"]
    )
    def test_writer_refuses_what_is_no_path(self, service: LayerService, path: str) -> None:
        self._need_writer()
        with pytest.raises((InvalidNameError, LayerContentError)), service.open_writer("one", []) as writer:  # noqa: PT012
            writer.add("Files", DIRECTORY)
            writer.add(path, FILE, [stream("", b"x")])
        assert not service.exists("one")

    def test_stream_shorter_than_promised_is_refused(self, service: LayerService) -> None:
        self._need_writer()
        with pytest.raises(WinlayersError), service.open_writer("one", []) as writer:  # noqa: PT012
            writer.add("Files", DIRECTORY)
            writer.add("Files/a", FILE, [DataStream("", 10, [b"short"])])
        assert not service.exists("one")
