"""What is seen of a store, and done to it, while others work in it."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import can_mount, require, require_root
from winlayers import durable
from winlayers.errors import LayerNotFoundError
from winlayers.layers.portable.mounts import mountinfo, select, syscalls
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.service import DriverInfo
from winlayers.testing.tars import BASE, DELTA


@pytest.fixture
def service(tmp_path: Path) -> PortableLayerService:
    """A store of three layers; the scratch layer is not mounted."""
    service = PortableLayerService(DriverInfo(str(tmp_path / "home")), mount="extract")
    service.check_home()
    service.import_tar("base", [], io.BytesIO(BASE))
    service.import_tar("delta", [service.layer_path("base")], io.BytesIO(DELTA))
    service.create_scratch("scratch", chain(service))
    return service


def chain(service: PortableLayerService) -> list[str]:
    return [service.layer_path(layer_id) for layer_id in ("delta", "base")]


@pytest.fixture
def mounted(service: PortableLayerService) -> PortableLayerService:
    """The same with the scratch layer mounted."""
    require("extract" in [mounter.kind for mounter in select.mounters()], "nothing can be mounted here")
    service.activate("scratch")
    service.prepare("scratch", chain(service))
    return service


def test_a_layer_that_is_removed_while_it_is_checked_is_passed_over(service: PortableLayerService) -> None:
    Path(service.layer_path("delta"), "layer.tar").write_bytes(b"cut short")
    assert [str(finding) for finding in service.check()] == [
        f"delta/layer.tar: truncated: 9 bytes of {len(DELTA)}"
    ]
    asked = []

    def remove(layer_id: str, digest: str, target: str) -> bool:
        asked.append(layer_id)
        service.destroy("scratch")
        service.destroy("delta")
        return False

    assert list(service.check(repair=True, restore=remove)) == []
    assert asked == ["delta"]
    assert not service.exists("delta")


def test_a_mount_that_somebody_is_taking_down_is_not_stale(mounted: PortableLayerService) -> None:
    shutil.rmtree(mounted.mount_path("scratch"))
    with durable.FileLock(os.path.join(mounted.layer_path("scratch"), ".mount.lock")):
        assert list(mounted.check(repair=True)) == []
        assert os.path.exists(os.path.join(mounted.layer_path("scratch"), "mount.json"))
    (finding,) = mounted.check()
    assert "mount at" in finding.problem
    assert [finding.mended for finding in mounted.check(repair=True)] == [True]
    assert list(mounted.check()) == []


def test_what_was_stale_and_is_mounted_again_is_left_alone(
    mounted: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = mounted.mount_path("scratch")
    aside = f"{view}.aside"
    os.rename(view, aside)
    stale = mounted.mounts.stale("scratch")
    assert stale is not None
    os.rename(aside, view)  # now it is as if another process had mounted it, just after the look
    monkeypatch.setattr(mounted.mounts, "stale", lambda layer_id: stale if layer_id == "scratch" else None)
    list(mounted.check(repair=True))
    assert mounted.is_prepared("scratch")
    assert Path(view, "new.txt").read_bytes() == b"new in the delta"
    mounted.deactivate("scratch")


def test_a_folder_that_goes_away_has_no_leftovers(tmp_path: Path) -> None:
    assert durable.sweep(str(tmp_path / "gone")) == []


def test_a_removal_under_way_is_no_leftover(service: PortableLayerService) -> None:
    service.prepare_removal("scratch")
    os.rename(service.layer_path("scratch"), service.layer_path("scratch-removing"))
    os.mkdir(durable.temporary_name(service.info.home, "-removing"))
    assert list(service.check()) == []
    marker = Path(service.layer_path("scratch-removing"), "removing")
    assert marker.read_text() == durable.owner()
    marker.write_text("1.0")  # no process was ever that
    (finding,) = service.check()
    assert finding.path == "scratch-removing"
    assert [finding.mended for finding in service.check(repair=True)] == [True]
    assert list(service.check()) == []


def test_an_empty_layer_whose_content_never_came_is_no_leftover(service: PortableLayerService) -> None:
    service.create("empty", "base")
    aside = ".tmp-1.0-abc-replaced-empty"  # no process was ever that
    os.rename(service.layer_path("empty"), os.path.join(service.info.home, aside))
    assert [finding.path for finding in service.check()] == [aside]
    assert [finding.mended for finding in service.check(repair=True)] == [True]
    assert service.exists("empty")
    assert list(service.check()) == []


@pytest.mark.parametrize("looked", [LayerStore.record, os.path.exists], ids=["record", "marker"])
def test_a_removal_that_ends_between_two_looks_is_seen(
    service: PortableLayerService, monkeypatch: pytest.MonkeyPatch, looked: Callable[..., object]
) -> None:
    service.prepare_removal("scratch")
    removing = LayerStore(service.info.home)

    def look_and_remove(*args: object) -> object:
        try:
            return looked(*args)
        finally:
            if os.path.lexists(removing.folder("scratch")):
                os.rename(removing.folder("scratch"), removing.folder("scratch-removing"))

    if looked is os.path.exists:
        monkeypatch.setattr(os.path, "exists", look_and_remove)
    else:
        monkeypatch.setattr(LayerStore, "record", look_and_remove)
    with pytest.raises(LayerNotFoundError):
        service.activate("scratch")


def test_a_record_of_a_layer_that_is_removed_just_now_is_not_written(
    service: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_and_remove(store: LayerStore, layer_id: str) -> LayerRecord:
        found = record(store, layer_id)
        if records:
            os.rename(store.folder(layer_id), store.folder(f"{layer_id}-removing"))
        records.append(found)
        return found

    record = LayerStore.record
    records: list[LayerRecord] = []
    monkeypatch.setattr(LayerStore, "record", record_and_remove)
    with pytest.raises(LayerNotFoundError):
        service.expand_scratch("scratch", 1 << 30)
    assert [found.size for found in records] == [None, None]


def test_a_mount_whose_maker_was_killed_ends_with_the_layer_s_use(
    service: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = select.pick("auto")[0].kind if can_mount() else "extract"
    require(kind != "extract", "no file systems can be mounted here")
    service = PortableLayerService(service.info)
    service.activate("scratch")
    write, writes = service.mounts._write, []

    def killed(*arguments: object) -> None:
        writes.append(arguments)
        if len(writes) == 2:
            raise KeyboardInterrupt  # it has mounted, and does not say so any more
        write(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(service.mounts, "_write", killed)
        patch.setattr(select.by_kind(kind).__class__, "unmount", lambda self, record: None)
        patch.setattr(durable, "owner", lambda: "1.0")  # no process was ever that
        with pytest.raises(KeyboardInterrupt):
            service.prepare("scratch", chain(service))
    target = os.path.join(service.layer_path("scratch"), "mount")
    assert mountinfo.mounts_at(target)
    service.deactivate("scratch")
    assert not mountinfo.mounts_at(target)
    assert not os.path.exists(os.path.join(service.layer_path("scratch"), "mount.json"))


@pytest.mark.parametrize("name", [".tmp-1.0-abc-removing", "gone-removing"])
def test_a_store_opens_that_holds_leftovers_with_a_mount_in_them(
    service: PortableLayerService, name: str
) -> None:
    require_root()
    place = Path(service.info.home, name, "mount")
    place.mkdir(parents=True)
    with syscalls.Context("tmpfs") as context:
        context.create()
        mount = context.mount(0)
    syscalls.move_mount(mount, str(place))
    os.close(mount)
    try:
        service.check_home()
        for finding in service.check(repair=True):
            assert finding.path == name
            assert not finding.mended
            assert "a file system is mounted in it" in finding.action
        assert service.exists("scratch")
    finally:
        for mounted in mountinfo.mounts():
            if mounted.target.startswith(f"{service.info.home}{os.sep}"):
                syscalls.unmount(mounted.target)
    service.check_home()
    assert list(service.check()) == []
    assert not os.path.exists(place.parent)


def test_a_layer_that_is_removed_before_it_is_marked_is_gone(
    service: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PortableLayerService(service.info)
    other.prepare_removal("scratch")
    find = LayerStore.find

    def find_and_rename(store: LayerStore, layer_id: str) -> object:
        found = find(store, layer_id)
        if os.path.exists(service.layer_path("scratch")):
            other.set_aside("scratch", "scratch-removing")
        return found

    monkeypatch.setattr(LayerStore, "find", find_and_rename)
    service.prepare_removal("scratch")
    with pytest.raises(FileNotFoundError):
        service.set_aside("scratch", "scratch-1-removing")


@pytest.fixture
def lonely(service: PortableLayerService) -> PortableLayerService:
    """A store of the layer ``base`` alone, so that it can be removed and made again."""
    service.destroy("scratch")
    service.destroy("delta")
    return service


def test_a_layer_that_goes_and_comes_while_folders_are_looked_at_is_no_strange_folder(
    lonely: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lexists = os.path.lexists

    def lexists_in_between(path: str) -> bool:
        if not path.endswith("base/layer.json"):
            return lexists(path)
        monkeypatch.undo()
        lonely.destroy("base")
        try:
            return lexists(path)
        finally:
            lonely.import_tar("base", [], io.BytesIO(BASE))

    monkeypatch.setattr(os.path, "lexists", lexists_in_between)
    assert list(lonely.check()) == []
    assert os.path.lexists is lexists
    os.mkdir(os.path.join(lonely.info.home, "strange"))
    assert [finding.path for finding in lonely.check()] == ["strange"]


def test_a_layer_that_comes_and_goes_while_it_is_checked_lacks_nothing(
    lonely: PortableLayerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = LayerStore.identity
    asked: list[str] = []

    def identity_in_between(store: LayerStore, layer_id: str) -> tuple[int, int]:
        if asked:
            return identity(store, layer_id)
        asked.append(layer_id)
        lonely.destroy("base")
        try:
            return identity(store, layer_id)
        finally:
            lonely.import_tar("base", [], io.BytesIO(BASE))

    def remove(layer_id: str) -> None:
        lonely.destroy(layer_id)

    monkeypatch.setattr(LayerStore, "identity", identity_in_between)
    monkeypatch.setattr(lonely.mounts, "stale", remove)
    assert list(lonely.check()) == []
    assert asked == ["base"]
