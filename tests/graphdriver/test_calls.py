"""What the driver asks of the layer service, in which order, and what it undoes after a failure.

The order is that of dockerd's driver; see the tables in ``docs/graphdriver.md``.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path

import pytest

from tests.graphdriver.conftest import Kit
from winlayers.errors import (
    DriverOptionError,
    HcsError,
    LayerCorruptError,
    LayerInUseError,
    LayerNotFoundError,
    MountError,
    StoreError,
)
from winlayers.graphdriver import CreateOptions
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.service import ChangeKind, DriverInfo
from winlayers.testing import RecordingLayerService
from winlayers.testing.tars import BASE, DELTA


class TestCreate:
    def test_read_only(self, kit: Kit) -> None:
        kit.driver.create("one", "top")
        assert kit.service.calls == [("mount_path", "top"), ("create", "one", "top")]
        assert kit.service.chain_of("one") == [kit.path("top"), kit.path("base")]

    def test_base(self, kit: Kit) -> None:
        kit.driver.create("one")
        assert kit.service.calls == [("create", "one", "")]
        assert kit.driver.layer_chain("one") == []

    def test_writable_is_expanded_to_the_default_size(self, kit: Kit) -> None:
        kit.driver.create_read_write("box", "top")
        assert kit.service.calls == [
            ("mount_path", "top"),
            ("create_scratch", "box", kit.path("top"), kit.path("base")),
            ("expand_scratch", "box", str(127 << 30)),
        ]

    def test_size_of_the_layer_wins_over_the_driver(self, tmp_path: Path) -> None:
        kit = Kit(tmp_path, options=("SIZE=20g",)).with_image()
        kit.driver.create_read_write("a", "top")
        kit.driver.create_read_write("b", "top", CreateOptions({"size": "1T"}))
        kit.driver.create_read_write("c", "top", CreateOptions({"size": "0"}))
        assert kit.service.sizes == {"a": 20 << 30, "b": 1 << 40, "c": 20 << 30}

    def test_without_a_size_nothing_is_expanded(self, tmp_path: Path) -> None:
        kit = Kit(tmp_path, options=("size=0",)).with_image()
        kit.driver.create_read_write("box", "top")
        assert kit.names() == ["mount_path", "create_scratch"]

    def test_init_layer_makes_create_writable(self, kit: Kit) -> None:
        kit.driver.create("box-init", "top")
        kit.service.calls.clear()
        kit.driver.create("box", "box-init")
        assert kit.service.calls[0] == ("create_scratch", "box", kit.path("top"), kit.path("base"))
        assert kit.service.chain_of("box") == [kit.path("top"), kit.path("base")]

    def test_init_layer_without_parents_is_nothing_to_stand_on(self, kit: Kit) -> None:
        kit.driver.create("box-init")
        with pytest.raises(LayerNotFoundError, match="parent"):
            kit.driver.create("box", "box-init")

    @pytest.mark.parametrize("step", ["expand_scratch", "write"])
    def test_failed_creation_is_undone(self, kit: Kit, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if step == "write":
            monkeypatch.setattr("winlayers.graphdriver.windows.chain.write_bytes", _no_space)
        else:
            kit.service.fail[step] = HcsError("no", function="ExpandSandboxSize")
        with pytest.raises((HcsError, StoreError)):
            kit.driver.create_read_write("box", "top")
        assert kit.names() == ["mount_path", "create_scratch", "expand_scratch", "destroy"]
        assert not kit.driver.exists("box")

    def test_parent_that_vanishes_meanwhile_undoes_the_layer(self, kit: Kit) -> None:
        kit.driver.create("gone")
        kit.service.calls.clear()
        held = kit.service.pause["create"] = threading.Event()
        failures: list[LayerNotFoundError] = []

        def create() -> None:
            try:
                kit.driver.create("one", "gone")
            except LayerNotFoundError as error:
                failures.append(error)

        thread = threading.Thread(target=create)
        thread.start()
        while ("create", "one", "gone") not in kit.service.calls:
            pass
        kit.driver.remove("gone")
        held.set()
        thread.join(60)
        assert "gone" in str(failures[0])
        assert kit.service.calls[-1] == ("destroy", "one")
        assert not kit.driver.exists("one")

    def test_failure_to_undo_is_logged_and_the_first_error_raised(
        self, kit: Kit, caplog: pytest.LogCaptureFixture
    ) -> None:
        kit.service.fail["expand_scratch"] = HcsError("the first")
        kit.service.fail["destroy"] = HcsError("the second")
        with pytest.raises(HcsError, match="the first"):
            kit.driver.create_read_write("box", "top")
        assert "the second" in caplog.text

    @pytest.mark.parametrize("make", ["create", "create_read_write", "apply_diff"])
    def test_parent_that_does_not_answer_stops_all(self, kit: Kit, make: str) -> None:
        kit.service.fail["mount_path"] = HcsError("no", function="GetLayerMountPath")
        content = [io.BytesIO(DELTA)] if make == "apply_diff" else []
        with pytest.raises(HcsError):
            getattr(kit.driver, make)("one", "top", *content)
        assert kit.service.calls == [("mount_path", "top")]
        assert not kit.driver.exists("one")

    def test_parent_that_is_mounted_is_named_by_its_folder(self, kit: Kit) -> None:
        assert kit.driver.get("top") != kit.path("top")
        kit.driver.create("one", "top")
        assert kit.service.chain_of("one") == [kit.path("top"), kit.path("base")]

    def test_parent_outside_of_the_home_is_asked_for(self, kit: Kit, tmp_path: Path) -> None:
        folder = str(tmp_path / "shared" / "ServerCore")
        kit.service.outside["ServerCore"] = folder
        kit.service.images = f'{{"Images": [{{"Name": "core", "Path": "{folder}"}}]}}'
        (image,) = kit.driver.get_custom_image_infos()
        kit.driver.create("one", image.id)
        assert kit.service.chain_of("one") == [folder]


class TestMount:
    def test_order(self, kit: Kit) -> None:
        kit.driver.create_read_write("box", "top")
        kit.service.calls.clear()
        path = kit.driver.get("box")
        assert kit.service.calls == [
            ("activate", "box"),
            ("prepare", "box", kit.path("top"), kit.path("base")),
            ("mount_path", "box"),
        ]
        assert path == os.path.join(kit.path("box"), "view")
        kit.service.calls.clear()
        kit.driver.put("box")
        assert kit.service.calls == [("unprepare", "box"), ("deactivate", "box")]

    def test_empty_mount_path_means_the_folder(self, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kit.service, "mount_path", lambda layer_id: "")
        assert kit.driver.get("top") == kit.path("top")

    def test_chain_that_can_not_be_read_ends_it_before_the_first_call(self, kit: Kit) -> None:
        kit.driver.create_read_write("box", "top")
        kit.service.calls.clear()
        Path(kit.path("box"), "layerchain.json").write_text("{}", encoding="ascii")
        with pytest.raises(LayerCorruptError):
            kit.driver.get("box")
        assert kit.service.calls == []

    def test_second_get_asks_nothing(self, kit: Kit) -> None:
        path = kit.driver.get("top")
        kit.service.calls.clear()
        assert kit.driver.get("top") == path
        kit.driver.put("top")
        assert kit.service.calls == []
        kit.driver.put("top")
        assert kit.names() == ["unprepare", "deactivate"]

    @pytest.mark.parametrize(
        ("step", "calls"),
        [
            ("activate", ["activate"]),
            ("prepare", ["activate", "prepare", "deactivate"]),
            ("mount_path", ["activate", "prepare", "mount_path", "unprepare", "deactivate"]),
        ],
    )
    def test_failure_is_undone(self, kit: Kit, step: str, calls: list[str]) -> None:
        kit.service.fail[step] = MountError("no")
        with pytest.raises(MountError):
            kit.driver.get("top")
        assert kit.names() == calls
        assert not kit.service.active
        assert not kit.service.prepared
        # Nor is it counted: a put asks nothing, and the next get begins afresh.
        kit.driver.put("top")
        assert kit.names() == []
        del kit.service.fail[step]
        assert kit.driver.get("top")
        assert kit.names() == ["activate", "prepare", "mount_path"]

    def test_second_caller_waits_for_the_path(self, kit: Kit) -> None:
        held = kit.service.pause["prepare"] = threading.Event()
        paths: list[str] = []
        threads = [threading.Thread(target=lambda: paths.append(kit.driver.get("top"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while ("activate", "top") not in kit.service.calls:
            pass
        threads[-1].join(0.05)
        assert paths == []
        held.set()
        for thread in threads:
            thread.join(60)
        assert paths == [os.path.join(kit.path("top"), "view")] * 4
        assert [name for name in kit.names() if name == "prepare"] == ["prepare"]

    def test_waiting_caller_tries_for_itself_when_the_first_fails(self, kit: Kit) -> None:
        held = kit.service.pause["activate"] = threading.Event()
        kit.service.fail["activate"] = MountError("no")
        failures: list[MountError] = []

        def get() -> None:
            try:
                kit.driver.get("top")
            except MountError as error:
                failures.append(error)

        threads = [threading.Thread(target=get) for _ in range(2)]
        for thread in threads:
            thread.start()
        held.set()
        for thread in threads:
            thread.join(60)
        assert len(failures) == 2
        assert kit.names() == ["activate", "activate"]

    def test_one_layer_is_prepared_at_a_time(self, tmp_path: Path) -> None:
        kits = [Kit(tmp_path / str(number)).with_image() for number in range(2)]
        held = threading.Event()
        for kit in kits:
            kit.service.pause["prepare"] = held
        threads = [threading.Thread(target=kit.driver.get, args=("top",)) for kit in kits]
        for thread in threads:
            thread.start()

        def preparing() -> int:
            return sum(any(call[0] == "prepare" for call in kit.service.calls) for kit in kits)

        while not preparing():
            pass
        threads[0].join(0.1)
        assert preparing() == 1
        held.set()
        for thread in threads:
            thread.join(60)
        assert all(kit.service.prepared == {"top"} for kit in kits)

    def test_failed_unmount_stays_counted(self, kit: Kit) -> None:
        kit.driver.get("top")
        kit.service.fail["unprepare"] = MountError("busy")
        with pytest.raises(MountError):
            kit.driver.put("top")
        del kit.service.fail["unprepare"]
        kit.service.calls.clear()
        kit.driver.put("top")
        assert kit.names() == ["unprepare", "deactivate"]

    def test_put_takes_down_what_another_process_mounted(self, kit: Kit) -> None:
        kit.service.activate("top")
        kit.service.prepare("top", [])
        kit.service.calls.clear()
        kit.driver.put("top")
        assert kit.names() == ["unprepare", "deactivate"]

    def test_view_of_another_process_is_shared(self, kit: Kit) -> None:
        kit.service.activate("top")
        kit.service.prepare("top", [])
        kit.service.calls.clear()
        assert kit.driver.get("top") == os.path.join(kit.path("top"), "view")
        kit.driver.put("top")
        assert kit.names() == ["mount_path"]
        assert kit.service.prepared == {"top"}
        # It ends without our knowing: the next get must not trust what it knew.
        kit.service.unprepare("top")
        kit.service.deactivate("top")
        kit.service.calls.clear()
        kit.driver.get("top")
        assert kit.names() == ["activate", "prepare", "mount_path"]

    def test_mounted_layer_is_not_removed(self, kit: Kit) -> None:
        kit.driver.get("top")
        with pytest.raises(LayerInUseError):
            kit.driver.remove("top")
        kit.driver.put("top")
        kit.driver.remove("top")
        assert not kit.driver.exists("top")


class TestDiff:
    @pytest.fixture
    def kit(self, tmp_path: Path) -> Kit:
        kit = Kit(tmp_path / "home").with_image()
        kit.driver.apply_diff("top", "base", io.BytesIO(DELTA))
        kit.service.calls.clear()
        return kit

    def test_mounted_layer_is_prepared_again_at_the_end(self, kit: Kit) -> None:
        kit.driver.get("top")
        kit.service.calls.clear()
        stream = kit.driver.diff("top")
        assert stream.read() == DELTA
        assert kit.names() == ["unprepare", "export_tar", "read"]
        stream.close()
        assert kit.service.calls == [("close",), ("prepare", "top", kit.path("base"))]
        kit.service.calls.clear()
        stream.close()
        assert kit.names() == []

    def test_layer_that_was_not_mounted_is_left_so(self, kit: Kit) -> None:
        stream = kit.driver.diff("top")
        stream.close()
        assert kit.names() == ["unprepare", "export_tar", "close"]
        assert not kit.service.prepared

    def test_layer_of_a_service_that_can_not_tell_is_prepared_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(RecordingLayerService, "tells_views", False)
        monkeypatch.setattr(RecordingLayerService, "is_prepared", lambda service, layer_id: False)
        kit = Kit(tmp_path / "home").with_image()
        kit.driver.apply_diff("top", "base", io.BytesIO(DELTA))
        kit.service.calls.clear()
        kit.driver.diff("top").close()
        assert kit.names() == ["unprepare", "export_tar", "close", "prepare"]
        kit.service.fail["export_tar"] = LayerCorruptError("broken")
        kit.service.fail["prepare"] = MountError("not again")
        with pytest.raises(LayerCorruptError):
            kit.driver.diff("top")
        assert kit.names() == ["unprepare", "export_tar", "prepare"]
        assert "not again" in caplog.text

    @pytest.mark.parametrize("step", ["export_tar", "read", "close"])
    def test_failures_end_prepared_too(self, kit: Kit, step: str) -> None:
        kit.driver.get("top")
        kit.service.fail[step] = LayerCorruptError("broken")
        with pytest.raises(LayerCorruptError):  # noqa: PT012
            stream = kit.driver.diff("top")
            try:
                stream.read()
            finally:
                stream.close()
        assert kit.service.prepared == {"top"}
        kit.service.calls.clear()
        kit.driver.put("top")
        assert kit.names() == ["unprepare", "deactivate"]

    def test_failed_unprepare_exports_nothing(self, kit: Kit) -> None:
        kit.driver.get("top")
        kit.service.fail["unprepare"] = MountError("busy")
        with pytest.raises(MountError):
            kit.driver.diff("top")
        assert "export_tar" not in kit.names()
        assert kit.driver.get("top")

    def test_unmounting_meanwhile_is_respected(self, kit: Kit) -> None:
        kit.driver.get("top")
        stream = kit.driver.diff("top")
        kit.driver.put("top")
        stream.close()
        assert not kit.service.prepared
        assert not kit.service.active

    def test_two_streams_prepare_once(self, kit: Kit) -> None:
        kit.driver.get("top")
        first, second = kit.driver.diff("top"), kit.driver.diff("top")
        first.close()
        assert not kit.service.prepared
        kit.service.calls.clear()
        second.close()
        assert kit.names() == ["close", "prepare"]

    def test_layer_being_read_is_not_removed(self, kit: Kit) -> None:
        stream = kit.driver.diff("top")
        with pytest.raises(LayerInUseError):
            kit.driver.remove("top")
        stream.close()
        kit.driver.remove("top")

    def test_view_that_does_not_come_back_is_logged_and_forgotten(
        self, kit: Kit, caplog: pytest.LogCaptureFixture
    ) -> None:
        kit.driver.get("top")
        stream = kit.driver.diff("top")
        kit.service.fail["prepare"] = MountError("no")
        stream.close()
        assert "could not be mounted again" in caplog.text
        assert not kit.service.active
        del kit.service.fail["prepare"]
        kit.service.calls.clear()
        kit.driver.get("top")
        assert kit.names() == ["activate", "prepare", "mount_path"]

    def test_changes_of_a_mounted_layer_take_it_out_of_its_view(self, kit: Kit) -> None:
        kit.driver.get("top")
        kit.service.calls.clear()
        kit.driver.changes("top")
        names = [name for name in kit.names() if name != "next"]
        assert names == ["unprepare", "open_reader", "close_reader", "prepare"]

    def test_changes_of_another_layer_activate_it(self, kit: Kit) -> None:
        assert {c.path: c.kind for c in kit.driver.changes("top")} == {
            "Files": ChangeKind.MODIFY,
            "Files/gone.txt": ChangeKind.DELETE,
            "Files/DIR": ChangeKind.MODIFY,
            "Files/DIR/A.TXT": ChangeKind.MODIFY,
            "Files/new.txt": ChangeKind.MODIFY,
            "Files/linked.txt": ChangeKind.MODIFY,
        }
        names = [name for name in kit.names() if name != "next"]
        assert names == ["activate", "open_reader", "close_reader", "deactivate"]

    @pytest.mark.parametrize("mounted", [True, False])
    def test_reader_that_fails_is_closed(self, kit: Kit, mounted: bool) -> None:
        if mounted:
            kit.driver.get("top")
        kit.service.fail["next"] = LayerCorruptError("broken")
        kit.service.calls.clear()
        with pytest.raises(LayerCorruptError):
            kit.driver.changes("top")
        end = ["prepare"] if mounted else ["deactivate"]
        assert kit.names()[-2:] == ["close_reader", *end]

    def test_diff_size_counts(self, kit: Kit) -> None:
        assert kit.driver.diff_size("top") == 14 + 16


class TestApplyDiff:
    def test_imports_on_the_chain(self, kit: Kit) -> None:
        kit.driver.apply_diff("one", "top", io.BytesIO(BASE))
        assert kit.service.calls == [
            ("mount_path", "top"),
            ("import_tar", "one", kit.path("top"), kit.path("base")),
        ]
        assert kit.service.chain_of("one") == [kit.path("top"), kit.path("base")]

    def test_chain_that_can_not_be_kept_undoes_the_layer(
        self, kit: Kit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("winlayers.graphdriver.windows.chain.write_bytes", _no_space)
        with pytest.raises(StoreError, match="No space"):
            kit.driver.apply_diff("one", "top", io.BytesIO(BASE))
        assert kit.names() == ["mount_path", "import_tar", "destroy"]
        assert not kit.driver.exists("one")


class TestInit:
    def test_names(self, tmp_path: Path) -> None:
        kit = Kit(tmp_path / "a" / "b")
        assert str(kit.driver) == "windowsfilter"
        assert os.path.isdir(kit.home)
        assert kit.driver.status()[0] == ("Windows", "")

    def test_home_that_is_refused_is_not_made(self, tmp_path: Path) -> None:
        class OnReFS(RecordingLayerService):
            def check_home(self) -> None:
                raise StoreError("ReFS volumes are not supported", path=self.info.home)

        with pytest.raises(StoreError, match="ReFS"):
            WindowsGraphDriver(str(tmp_path / "home"), service_factory=lambda info, rest: OnReFS(info))
        assert not (tmp_path / "home").exists()

    def test_what_the_driver_does_not_know_goes_to_the_service(self, tmp_path: Path) -> None:
        kit = Kit(tmp_path, options=("Mount=fuse", "size=1g", "reference_changes=1"))
        assert kit.made_with == {"mount": "fuse"}

    def test_unknown_options_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DriverOptionError, match="'colour'"):
            WindowsGraphDriver(str(tmp_path), options=["service=portable", "colour=red"])
        with pytest.raises(DriverOptionError, match="hives=some"):
            WindowsGraphDriver(str(tmp_path), options=["service=hcs", "hives=some"])

    def test_info_is_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        seen: list[DriverInfo] = []

        def factory(info: DriverInfo, rest: object) -> RecordingLayerService:
            seen.append(info)
            return RecordingLayerService(info)

        WindowsGraphDriver("home", service_factory=factory)
        assert seen[0].home == str(tmp_path / "home")


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_warnings_go_to_one_logger(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    kit.service.fail["destroy"] = HcsError("locked")
    with caplog.at_level(logging.WARNING):
        kit.driver.remove("top")
    assert {record.name for record in caplog.records} == {"winlayers.graphdriver"}
