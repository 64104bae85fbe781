"""What one process sees of a store, and leaves of it, while another removes images."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.images.support import sample_layout
from winlayers import durable
from winlayers.durable.locks import hold
from winlayers.errors import ContainerError, ImageNotFoundError, LayerNotFoundError
from winlayers.images.check import ImageChecker
from winlayers.images.documents import Descriptor
from winlayers.images.editing.runconfig import ConfigChanges
from winlayers.images.image import Image
from winlayers.images.reference import Reference
from winlayers.images.usage import disk_usage
from winlayers.inspection import open_image
from winlayers.inspection.scratchview import ScratchView
from winlayers.store import Store, open_store

NAME = "layout:sample"


@pytest.fixture
def other(tmp_path: Path, store: Store) -> Store:
    """The same store, as another process has it, with an image in it."""
    other = open_store(store.root)
    other.load(sample_layout(tmp_path / "layout"))
    return other


def before_first_read(store: Store, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let *act* happen when *store* has read the index, and is about to read the first document."""
    acts, read = [act], store.images.content.read

    def acted(descriptor: Descriptor, what: str) -> bytes:
        while acts:
            acts.pop()()
        return read(descriptor, what)

    monkeypatch.setattr(store.images.content, "read", acted)


def test_an_image_that_goes_while_all_are_listed_is_not_there(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_read(store, monkeypatch, lambda: other.remove_image(NAME))
    assert store.images.images() == []


def test_an_image_that_goes_while_it_is_looked_for_is_said_not_to_be_there(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_read(store, monkeypatch, lambda: other.remove_image(NAME))
    with pytest.raises(ImageNotFoundError, match="no such image"):
        store.image(NAME)


def test_an_image_that_goes_while_all_are_checked_is_passed_over(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_first_read(store, monkeypatch, lambda: other.remove_image(NAME))
    assert list(store.check()) == []


def test_an_image_whose_blob_is_missing_is_still_an_error(store: Store, other: Store) -> None:
    store.images.content.delete(store.image(NAME).id)
    with pytest.raises(ImageNotFoundError, match="missing"):
        other.images.images()


def test_a_new_name_is_never_that_of_an_image_that_is_gone(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    remover = threading.Thread(target=lambda: other.remove_image(NAME))

    def remove() -> None:
        remover.start()
        remover.join(0.5)  # it has to wait for the name to be given, or is done

    before_first_read(store, monkeypatch, remove)
    image = store.tag(NAME, "second:name")
    remover.join(60)
    assert image.references == ("docker.io/library/layout:sample", "docker.io/library/second:name")
    assert [i.references for i in other.images.images()] == [("docker.io/library/second:name",)]
    assert list(other.check()) == []


def test_a_new_image_that_is_removed_at_once_was_made_all_the_same(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_it = store.images.set_reference

    def and_remove(reference: Reference | None, descriptor: Descriptor) -> Image:
        image = name_it(reference, descriptor)
        other.remove_image(str(reference))
        return image

    monkeypatch.setattr(store.images, "set_reference", and_remove)
    made = store.configure(NAME, ConfigChanges(user="app"), "new:name")
    assert made.references == ("docker.io/library/new:name",)
    assert made.config.run["User"] == "app"
    with pytest.raises(ImageNotFoundError):
        store.image("new:name")


def test_a_container_that_goes_while_all_are_checked_is_passed_over(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = store.create(NAME, name="box")
    exists = store.driver.exists

    def removed(layer_id: str) -> bool:
        if layer_id == container.id and other.containers.containers():
            other.remove_container("box")
        return exists(layer_id)

    monkeypatch.setattr(store.driver, "exists", removed)
    assert list(store.check()) == []


def test_an_image_that_goes_while_room_is_counted_is_counted_whole(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    remover = threading.Thread(target=lambda: other.remove_image(NAME))

    def remove() -> None:
        remover.start()
        remover.join(0.5)  # it has to wait until the blobs are counted, or is done

    before_first_read(store, monkeypatch, remove)
    blobs = disk_usage(store.images, [])[0]
    remover.join(60)
    assert (blobs.total, blobs.active, blobs.reclaimable) == (5, 5, 0)
    assert disk_usage(store.images, [])[0].total == 0


def test_counting_takes_no_lease_that_is_just_being_made(store: Store, other: Store) -> None:
    lease = store.root / "leases" / "1-abc.lock"
    lease.touch()  # and in a moment it will be locked
    disk_usage(other.images, [])
    assert lease.exists()
    other.images.collect()  # nobody can be making one now
    assert not lease.exists()


def test_a_container_that_goes_while_it_is_looked_into_is_said_not_to_be_there(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(NAME, name="box")
    index = ScratchView._index

    def and_remove(view: ScratchView, layer_id: str) -> None:
        index(view, layer_id)
        other.remove_container("box")

    monkeypatch.setattr(ScratchView, "_index", and_remove)
    with pytest.raises(LayerNotFoundError):
        open_image("box", store=store)


def test_who_removes_by_force_what_another_works_on_is_told_so(store: Store, other: Store) -> None:
    box = store.create(NAME, name="box")
    other.driver.service.activate(box.id)  # type: ignore[attr-defined]  # the portable one
    with pytest.raises(ContainerError, match="another process works on it"):
        store.remove_container("box", force=True)
    other.driver.service.deactivate(box.id)  # type: ignore[attr-defined]
    store.remove_container("box", force=True)


def test_an_image_that_goes_while_it_is_read_is_said_to_be_gone(store: Store, other: Store) -> None:
    with open_image(NAME, store=store) as tree:
        entry = tree.find("/app/app.config.json")
        other.remove_image(NAME)
        with pytest.raises(LayerNotFoundError, match="removed by another process"):
            tree.read(entry)


@pytest.fixture
def damaged(store: Store, other: Store) -> str:
    """The digest of a blob of the image, a bit of which has changed."""
    digest = store.image(NAME).manifest.layers[0].digest
    path = store.images.content.blob_path(digest)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return digest


def test_of_two_that_repair_the_second_leaves_what_was_brought_again(
    store: Store, other: Store, damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, acts = ImageChecker._damaged, [lambda: list(other.check(repair=True))]

    def after_others(checker: ImageChecker, digest: str, problem: str) -> object:
        while acts:
            acts.pop()()
            other.load(sample_layout(tmp_path / "layout"))
        return remove(checker, digest, problem)

    monkeypatch.setattr(ImageChecker, "_damaged", after_others)
    assert list(store.check(repair=True)) == []
    assert list(other.check()) == []


def test_a_damaged_blob_that_another_process_works_with_is_left(
    store: Store, other: Store, damaged: str
) -> None:
    with other.images.lease() as lease:
        lease.add([damaged])
        (finding,) = store.check(repair=True)
    assert not finding.mended
    assert "another process works with it" in finding.action
    assert store.images.content.blob_path(damaged).exists()


def test_an_image_that_goes_and_comes_back_while_it_is_checked_lacks_nothing(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has, acts = store.images.content.has, [lambda: other.remove_image(NAME)]

    def gone(blob: Descriptor) -> bool:
        if not acts:
            return has(blob)
        acts.pop()()
        found = has(blob)
        other.load(sample_layout(tmp_path / "layout"))
        return found

    monkeypatch.setattr(store.images.content, "has", gone)
    assert list(store.check()) == []


@pytest.fixture
def hidden(store: Store) -> Path:
    """What looks like half done work of a process that is gone."""
    path = store.root / "layerdb" / f"{durable.TEMPORARY_PREFIX}{1 << 30}.1-left"
    path.touch()
    return path


def test_hidden_work_that_is_taken_up_while_it_is_looked_at_stays(
    store: Store, hidden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker, in another process name space, had just made it."""
    is_leftover = durable.is_leftover
    with contextlib.ExitStack() as stack:

        def taken_then(path: str) -> bool:
            found = is_leftover(path)
            if found:
                taken = hold(path)
                assert taken is not None
                stack.callback(taken.close)
            return found

        monkeypatch.setattr(durable, "is_leftover", taken_then)
        assert list(store.check(repair=True)) == []
    assert hidden.exists()


def test_half_done_work_that_can_t_be_removed_is_told_and_the_rest_is_checked(
    store: Store, hidden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(durable, "remove_any", refuse)
    (finding,) = store.check(repair=True)
    assert not finding.mended
    assert str(finding).startswith(hidden.name)
    assert "could not be removed: Device or resource busy" in str(finding)


def test_two_that_make_one_layout_at_once_both_find_their_images_in_it(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = threading.Thread(target=lambda: other.save(NAME, f"oci:{tmp_path / 'made'}:other"))
    write, names = durable.write_bytes, []

    def meanwhile(path: str, data: bytes, mode: int = 0o644) -> None:
        names.append(os.path.basename(path))
        if names == ["index.json"]:
            saving.start()
            saving.join(0.5)  # it has to wait until there is a layout, or is done
        write(path, data, mode)

    monkeypatch.setattr(durable, "write_bytes", meanwhile)
    store.save(NAME, f"oci:{tmp_path / 'made'}:one")
    saving.join(60)
    index = json.loads((tmp_path / "made" / "index.json").read_bytes())
    tags = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert sorted(tags) == ["one", "other"]
