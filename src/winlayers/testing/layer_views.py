"""The promises of a layer service on views, folders, changes and the host; part of the suite."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from pathlib import Path

import pytest

from winlayers.errors import (
    InvalidNameError,
    LayerContentError,
    LayerInUseError,
    UnsupportedError,
)
from winlayers.layers.service import ChangeKind, EntryKind, LayerService
from winlayers.testing.content import content, read_all
from winlayers.testing.tars import (
    BASE,
    BASE_SIZE,
    BASE_STREAM_SIZE,
    DELTA,
    DELTA_SIZE,
    OPAQUE,
)


class LayerFixtures:
    """What each test of a layer service starts from, and what the service can do."""

    can_write = True
    can_hide = True
    can_mount = True
    view_is_case_blind = False

    @pytest.fixture
    def service(self) -> LayerService:
        raise NotImplementedError("subclasses give the service")

    def check_tar(self, found: bytes, expected: bytes) -> None:
        """Check that an exported tar is the one that came, byte for byte.

        A service that keeps files rather than tars overrides this: what it exports is a new tar.
        """
        assert found == expected

    @pytest.fixture
    def base(self, service: LayerService) -> list[str]:
        """A base layer under the id ``base``; the chain of a layer on it."""
        assert service.import_tar("base", [], io.BytesIO(BASE)) == BASE_SIZE
        return [service.layer_path("base")]

    @pytest.fixture
    def delta(self, service: LayerService, base: list[str]) -> list[str]:
        """A layer under the id ``delta`` on the base; the chain of a layer on it."""
        assert service.import_tar("delta", base, io.BytesIO(DELTA)) == DELTA_SIZE
        return [service.layer_path("delta"), *base]


class LayerViewSuite(LayerFixtures):
    """A half of :class:`~winlayers.testing.layer_service.LayerServiceSuite`."""

    # -- folders in the transport format --

    def test_folder_carries_a_layer(self, service: LayerService, delta: list[str], tmp_path: Path) -> None:
        for layer_id, chain in (("base", []), ("delta", delta[1:])):
            folder = tmp_path / layer_id
            folder.mkdir()
            try:
                service.export_folder(layer_id, str(folder), chain)
                service.import_folder(f"{layer_id}-again", str(folder), chain)
            except UnsupportedError as error:
                pytest.skip(str(error))
            again = content(service, f"{layer_id}-again", chain)
            for path, (kind, metadata, target, streams) in content(service, layer_id, chain).items():
                assert again[path][0] is (EntryKind.FILE if kind is EntryKind.LINK else kind), path
                if kind is EntryKind.FILE:
                    assert again[path][1:] == (metadata, target, streams), path

    def test_folder_holds_attributes_and_tombstones(
        self, service: LayerService, delta: list[str], tmp_path: Path
    ) -> None:
        try:
            service.export_folder("delta", str(tmp_path), delta[1:])
        except UnsupportedError as error:
            pytest.skip(str(error))
        new = (tmp_path / "Files" / "new.txt").read_bytes()
        assert new[:4] == (0x20).to_bytes(4, "little")
        assert new.endswith(b"new in the delta")
        tombstones = (tmp_path / "tombstones.txt").read_bytes()
        assert tombstones.startswith(b"\xef\xbb\xbfVersion 1.0\n")
        assert b"gone.txt" in tombstones

    # -- views --

    def _mount(self, service: LayerService, layer_id: str, chain: list[str]) -> Path:
        if not self.can_mount:
            pytest.skip("layers can't be mounted here")
        service.activate(layer_id)
        service.prepare(layer_id, chain)
        return Path(service.mount_path(layer_id) or service.layer_path(layer_id))

    def _unmount(self, service: LayerService, layer_id: str) -> None:
        service.unprepare(layer_id)
        service.deactivate(layer_id)

    def test_view_is_the_merged_drive(self, service: LayerService, delta: list[str]) -> None:
        service.create_scratch("scratch", delta)
        view = self._mount(service, "scratch", delta)
        try:
            assert {p.name for p in view.iterdir()} == {
                "Windows", "dir", "keep.txt", "linked.txt", "new.txt", "opaque",
            } or {p.name for p in view.iterdir()} == {
                "Windows", "DIR", "keep.txt", "linked.txt", "new.txt", "opaque",
            }  # fmt: skip
            (folder,) = (p for p in view.iterdir() if p.name.lower() == "dir")
            assert {p.name.lower(): p.read_bytes() for p in folder.iterdir()} == {
                "a.txt": b"a in the delta",
                "b.txt": b"b in the base",
            }
            assert (view / "Windows" / "win.ini").read_bytes() == b"[fonts]\r\n"
            assert (view / "linked.txt").read_bytes() == b"kept " * 1000
            if self.view_is_case_blind:
                assert (view / "WINDOWS" / "WIN.INI").read_bytes() == b"[fonts]\r\n"
        finally:
            self._unmount(service, "scratch")
        assert service.mount_path("scratch") in ("", service.layer_path("scratch"))

    def test_opaque_directory_hides(self, service: LayerService, base: list[str]) -> None:
        service.import_tar("opaque", base, io.BytesIO(OPAQUE))
        chain = [service.layer_path("opaque"), *base]
        service.create_scratch("scratch", chain)
        view = self._mount(service, "scratch", chain)
        try:
            assert [p.name for p in (view / "opaque").iterdir()] == ["new.txt"]
        finally:
            self._unmount(service, "scratch")

    def test_scratch_keeps_what_is_written(self, service: LayerService, delta: list[str]) -> None:
        service.create_scratch("scratch", delta)
        view = self._mount(service, "scratch", delta)
        try:
            (view / "made").mkdir()
            (view / "made" / "file.txt").write_bytes(b"made in the view")
            (view / "new.txt").write_bytes(b"changed in the view")
            (view / "keep.txt").unlink()
        finally:
            self._unmount(service, "scratch")
        view = self._mount(service, "scratch", delta)
        try:
            assert (view / "made" / "file.txt").read_bytes() == b"made in the view"
            assert (view / "new.txt").read_bytes() == b"changed in the view"
            assert not (view / "keep.txt").exists()
            assert (view / "linked.txt").read_bytes() == b"kept " * 1000
        finally:
            self._unmount(service, "scratch")
        self.check_tar(read_all(service.export_tar("delta", delta[1:])), DELTA)

    def test_scratch_exports_its_changes(self, service: LayerService, delta: list[str]) -> None:
        service.create_scratch("scratch", delta)
        view = self._mount(service, "scratch", delta)
        try:
            (view / "made.txt").write_bytes(b"made in the view")
            (view / "new.txt").write_bytes(b"changed in the view")
            (view / "keep.txt").unlink()
        finally:
            self._unmount(service, "scratch")
        with tarfile.open(fileobj=io.BytesIO(read_all(service.export_tar("scratch", delta)))) as tar:
            data = {m.name: f.read() for m in tar if m.isreg() and (f := tar.extractfile(m)) is not None}
        assert data["Files/made.txt"] == b"made in the view"
        assert data["Files/new.txt"] == b"changed in the view"
        assert "Files/.wh.keep.txt" in data
        changes = service.changes("scratch", delta)
        if changes is not None:
            kinds = {change.path: change.kind for change in changes if not change.is_directory}
            assert kinds == {
                "Files/made.txt": ChangeKind.ADD,
                "Files/new.txt": ChangeKind.MODIFY,
                "Files/keep.txt": ChangeKind.DELETE,
            }
        # What came out is a layer on the same chain.
        service.import_tar("next", delta, io.BytesIO(service.export_tar("scratch", delta).read()))
        chain = [service.layer_path("next"), *delta]
        service.create_scratch("check", chain)
        view = self._mount(service, "check", chain)
        try:
            assert (view / "made.txt").read_bytes() == b"made in the view"
            assert not (view / "keep.txt").exists()
        finally:
            self._unmount(service, "check")

    def test_active_layer_is_not_destroyed(self, service: LayerService, base: list[str]) -> None:
        service.create_scratch("scratch", base)
        self._mount(service, "scratch", base)
        try:
            with pytest.raises(LayerInUseError):
                service.destroy("scratch")
            assert service.exists("scratch")
        finally:
            self._unmount(service, "scratch")
        service.destroy("scratch")
        assert not service.exists("scratch")

    def test_ending_what_has_not_begun_is_fine(self, service: LayerService, base: list[str]) -> None:
        service.create_scratch("scratch", base)
        service.unprepare("scratch")
        service.deactivate("scratch")
        assert not service.is_prepared("scratch")
        assert service.mount_path("scratch") in ("", service.layer_path("scratch"))

    # -- changes and single files --

    def test_changes_tell_additions_from_modifications(self, service: LayerService, delta: list[str]) -> None:
        changes = service.changes("delta", delta[1:])
        if changes is None:
            pytest.skip("this service keeps no index")
        found = {c.path: (c.kind, c.size) for c in changes if not c.is_directory}
        assert found["Files/gone.txt"] == (ChangeKind.DELETE, 0)
        assert found["Files/DIR/A.TXT"] == (ChangeKind.MODIFY, 14)
        assert found["Files/new.txt"] == (ChangeKind.ADD, 16)
        assert found["Files/linked.txt"][0] is ChangeKind.ADD
        base = list(service.changes("base", []) or ())
        assert {change.kind for change in base} == {ChangeKind.ADD}
        assert sum(change.size for change in base) == BASE_SIZE
        assert sum(change.stream_size for change in base) == BASE_STREAM_SIZE

    def test_single_files_are_opened(self, service: LayerService, delta: list[str]) -> None:
        with service.open_file("base", "Files/keep.txt") as file:
            assert file.read(5) == b"kept "
            assert len(file.read()) == 4995
        with service.open_file("delta", "Files/new.txt") as file:
            assert file.read() == b"new in the delta"
        for path in ("Files/none", "Files", "Files/keep.txt/below"):
            with pytest.raises(LayerContentError):
                service.open_file("base", path).close()
        for path in ("../base/layer.json", "Files/../../x", "/etc/passwd", ""):
            with pytest.raises((InvalidNameError, LayerContentError)):
                service.open_file("base", path).close()

    # -- the host --

    def test_shared_base_images_are_json(self, service: LayerService) -> None:
        images = json.loads(service.shared_base_images())
        assert isinstance(images, dict)
        assert isinstance(images.get("Images") or [], list)

    def test_guid_of_a_name_is_stable(self, service: LayerService) -> None:
        guid = service.name_to_guid("name")
        assert isinstance(guid, uuid.UUID)
        assert guid == service.name_to_guid("name")
        assert guid != service.name_to_guid("other")

    def test_status_is_pairs_of_text(self, service: LayerService, base: list[str]) -> None:
        assert service.name
        assert all(key and isinstance(value, str) for key, value in service.status())
