"""The promises of :class:`~winlayers.graphdriver.contract.GraphDriver`, as tests."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from winlayers.errors import (
    DriverOptionError,
    InvalidNameError,
    LayerContentError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    TarError,
    UnsupportedError,
    WinlayersError,
)
from winlayers.graphdriver.contract import CreateOptions, GraphDriver
from winlayers.layers.service import ChangeKind
from winlayers.testing.content import read_all
from winlayers.testing.tars import BASE, BASE_SIZE, DELTA, DELTA_SIZE


class GraphDriverSuite:
    """Subclass this with a fixture ``driver`` that gives a driver on an empty home.

    Attributes:
        can_mount: whether layers can be mounted here.
        writable_views: whether what is written to a view comes out of ``diff`` and ``changes``.
        tells_additions: whether ``changes`` tells additions from modifications.
    """

    can_mount = True
    writable_views = True
    tells_additions = True

    @pytest.fixture
    def driver(self) -> GraphDriver:
        raise NotImplementedError("subclasses give the driver")

    @pytest.fixture
    def delta(self, driver: GraphDriver) -> str:
        """The id of a layer on a base layer, ``base``."""
        driver.create("base")
        assert driver.apply_diff("base", "", io.BytesIO(BASE)) == BASE_SIZE
        driver.create("delta", "base")
        assert driver.apply_diff("delta", "base", io.BytesIO(DELTA)) == DELTA_SIZE
        return "delta"

    def check_tar(self, found: bytes, expected: bytes) -> None:
        """Check that a diff is what was applied, byte for byte.

        A driver that keeps files rather than tars overrides this: what it gives is a new tar.
        """
        assert found == expected

    def _need_mounts(self) -> None:
        if not self.can_mount:
            pytest.skip("layers can't be mounted here")

    # -- what it is --

    def test_name_and_status(self, driver: GraphDriver) -> None:
        assert driver.name
        assert str(driver) == driver.name
        assert driver.status()
        assert all(key and isinstance(value, str) for key, value in driver.status())

    # -- the life of a layer --

    def test_layer_exists_until_removed(self, driver: GraphDriver) -> None:
        assert not driver.exists("one")
        driver.create("one")
        assert driver.exists("one")
        driver.remove("one")
        assert not driver.exists("one")
        driver.create("one")
        assert driver.exists("one")

    def test_removing_what_is_not_there_is_fine(self, driver: GraphDriver) -> None:
        driver.remove("missing")

    @pytest.mark.parametrize("layer_id", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "../x"])
    def test_what_is_no_id_is_refused(self, driver: GraphDriver, layer_id: str, tmp_path: Path) -> None:
        calls: list[Callable[[], object]] = [
            lambda: driver.create(layer_id),
            lambda: driver.remove(layer_id),
            lambda: driver.get(layer_id),
            lambda: driver.put(layer_id),
            lambda: driver.diff(layer_id),
            lambda: driver.changes(layer_id),
            lambda: driver.apply_diff(layer_id, "", io.BytesIO(BASE)),
            lambda: driver.layer_path(layer_id),
            lambda: driver.get_metadata(layer_id),
        ]
        for call in calls:
            with pytest.raises(InvalidNameError):
                call()
        assert not driver.exists(layer_id)

    def test_id_of_a_layer_being_removed_is_refused(self, driver: GraphDriver) -> None:
        with pytest.raises(InvalidNameError):
            driver.create("one-removing")

    def test_taken_ids_are_refused(self, driver: GraphDriver, delta: str) -> None:
        with pytest.raises(LayerExistsError):
            driver.create(delta, "base")
        with pytest.raises(LayerExistsError):
            driver.create_read_write(delta, "base")
        self.check_tar(read_all(driver.diff(delta)), DELTA)

    def test_missing_parents_are_refused(self, driver: GraphDriver) -> None:
        calls: list[Callable[[], object]] = [
            lambda: driver.create("one", "missing"),
            lambda: driver.create_read_write("one", "missing"),
            lambda: driver.create_read_write("one", ""),
            lambda: driver.apply_diff("one", "missing", io.BytesIO(DELTA)),
        ]
        for call in calls:
            with pytest.raises(LayerNotFoundError):
                call()
            assert not driver.exists("one")

    def test_chain_is_nearest_first(self, driver: GraphDriver, delta: str) -> None:
        driver.create_read_write("box", delta)
        assert driver.layer_chain("base") == []
        assert driver.layer_chain(delta) == [driver.layer_path("base")]
        assert driver.layer_chain("box") == [driver.layer_path(delta), driver.layer_path("base")]
        with pytest.raises(LayerNotFoundError):
            driver.layer_chain("missing")

    def test_init_layer_is_left_out(self, driver: GraphDriver, delta: str) -> None:
        driver.create_read_write("box-init", delta)
        driver.create_read_write("box", "box-init")
        assert driver.layer_chain("box") == [driver.layer_path(delta), driver.layer_path("base")]
        # Docker's first form: create alone, the parent's name says what is meant.
        driver.create("other", "box-init")
        assert driver.layer_chain("other") == driver.layer_chain("box")

    @pytest.mark.parametrize("options", [{"size": "plenty"}, {"size": "-1"}, {"sise": "20G"}])
    def test_bad_options_make_no_layer(
        self, driver: GraphDriver, delta: str, options: dict[str, str]
    ) -> None:
        with pytest.raises(DriverOptionError):
            driver.create_read_write("box", delta, CreateOptions(storage_opt=options))
        assert not driver.exists("box")
        driver.create_read_write("box", delta, CreateOptions(storage_opt={"Size": "20GB"}))

    def test_layer_with_children_stays(self, driver: GraphDriver, delta: str) -> None:
        with pytest.raises(LayerInUseError):
            driver.remove("base")
        assert driver.exists("base")
        driver.remove(delta)
        driver.remove("base")
        assert not driver.exists("base")

    def test_cleanup_is_always_fine(self, driver: GraphDriver, delta: str) -> None:
        driver.cleanup()
        driver.cleanup()
        assert driver.exists(delta)

    # -- where things are --

    def test_paths(self, driver: GraphDriver, delta: str) -> None:
        path = driver.layer_path(delta)
        assert os.path.isabs(path)
        assert os.path.isdir(path)
        assert driver.get_metadata(delta)["dir"] == path
        assert not os.path.lexists(driver.layer_path("missing"))

    # -- content --

    def test_diff_is_what_was_applied(self, driver: GraphDriver, delta: str) -> None:
        self.check_tar(read_all(driver.diff("base")), BASE)
        self.check_tar(read_all(driver.diff(delta, "base"), 100), DELTA)
        driver.apply_diff("made", "base", io.BytesIO(DELTA))  # without a create before it
        self.check_tar(read_all(driver.diff("made")), DELTA)

    def test_what_is_no_layer_is_refused(self, driver: GraphDriver) -> None:
        for wrong in (b"\x01" * 1024, BASE[:700]):
            with pytest.raises((TarError, LayerContentError)):
                driver.apply_diff("one", "", io.BytesIO(wrong))
            assert not driver.exists("one")

    def test_content_is_never_replaced(self, driver: GraphDriver, delta: str) -> None:
        with pytest.raises(LayerExistsError):
            driver.apply_diff(delta, "base", io.BytesIO(BASE))
        self.check_tar(read_all(driver.diff(delta)), DELTA)

    def test_changes_and_their_size(self, driver: GraphDriver, delta: str) -> None:
        changes = driver.changes(delta, "base")
        kinds = {change.path: change.kind for change in changes}
        assert [change.path for change in changes] == sorted(kinds)
        assert kinds["Files/gone.txt"] is ChangeKind.DELETE
        assert kinds["Files/DIR/A.TXT"] is ChangeKind.MODIFY
        assert kinds["Files/new.txt"] is (ChangeKind.ADD if self.tells_additions else ChangeKind.MODIFY)
        assert driver.diff_size(delta, "base") == DELTA_SIZE

    def test_missing_layers_are_named(self, driver: GraphDriver) -> None:
        calls: list[Callable[[], object]] = [
            lambda: driver.diff("missing"),
            lambda: driver.changes("missing"),
            lambda: driver.diff_size("missing"),
            lambda: driver.get("missing"),
        ]
        for call in calls:
            with pytest.raises(LayerNotFoundError, match="missing"):
                call()
        driver.put("missing")

    def test_getter_opens_files(self, driver: GraphDriver, delta: str) -> None:
        try:
            getter = driver.diff_getter(delta)
        except UnsupportedError as error:
            pytest.skip(str(error))
        with getter:
            with getter.get("Files/new.txt") as file:
                assert file.read() == b"new in the delta"
            for path in ("Files/none", "../base/Files/keep.txt"):
                with pytest.raises((LayerContentError, InvalidNameError)):
                    getter.get(path).close()
        getter.close()

    # -- use --

    def test_mounts_are_counted(self, driver: GraphDriver, delta: str) -> None:
        self._need_mounts()
        driver.create_read_write("box", delta)
        path = driver.get("box")
        try:
            assert os.path.isabs(path)
            assert os.path.isdir(path)
            assert driver.get("box") == path
            driver.put("box")
            assert os.path.isdir(path)
            with pytest.raises(LayerInUseError):
                driver.remove("box")
        finally:
            driver.put("box")
        driver.put("box")
        driver.remove("box")
        assert not driver.exists("box")

    def test_all_callers_get_the_path(self, driver: GraphDriver, delta: str) -> None:
        self._need_mounts()
        driver.create_read_write("box", delta)
        paths: list[str] = []
        errors: list[WinlayersError] = []

        def use() -> None:
            try:
                for _ in range(3):
                    paths.append(driver.get("box"))
                    driver.put("box")
            except WinlayersError as error:
                errors.append(error)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert len(paths) == 12
        assert all(paths)
        assert len(set(paths)) == 1
        driver.remove("box")

    def test_written_files_come_out(self, driver: GraphDriver, delta: str) -> None:
        self._need_mounts()
        if not self.writable_views:
            pytest.skip("views of this driver can't be written to")
        driver.create_read_write("box", delta)
        path = Path(driver.get("box"))
        try:
            assert (path / "new.txt").read_bytes() == b"new in the delta"
            assert not (path / "gone.txt").exists()
            (path / "made.txt").write_bytes(b"made in the view")
            (path / "keep.txt").unlink()
            # A diff of a mounted layer: the view is back afterwards.
            out = driver.diff("box", delta)
            exported = read_all(out)
            assert (path / "made.txt").read_bytes() == b"made in the view"
        finally:
            driver.put("box")
        with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
            names = tar.getnames()
            made = tar.extractfile("Files/made.txt")
            assert made is not None
            assert made.read() == b"made in the view"
        assert "Files/.wh.keep.txt" in names
        kinds = {change.path: change.kind for change in driver.changes("box") if not change.is_directory}
        added = ChangeKind.ADD if self.tells_additions else ChangeKind.MODIFY
        assert kinds == {"Files/made.txt": added, "Files/keep.txt": ChangeKind.DELETE}
        assert driver.diff_size("box") == len(b"made in the view")
        assert driver.apply_diff("next", delta, io.BytesIO(exported)) == len(b"made in the view")
        assert read_all(driver.diff("next")) == exported
