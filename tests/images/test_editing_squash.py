"""Layers merged into one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.images.editing import data, run_of, shown, with_layer
from tests.layers.tars import LayerTar
from tests.support import PYTHON_APP
from winlayers.errors import (
    ImageError,
    UnsupportedError,
)
from winlayers.images.editing import AppendOptions
from winlayers.images.editing.layers import find_layer
from winlayers.images.image import Image
from winlayers.store import Store


class TestSquash:
    def test_the_view_stays_what_it_was(self, store: Store, app: Image, tree: Path) -> None:
        upper = store.append("app:1", [tree], "app:2", AppendOptions(destination="app"))
        for first in (0, 1, 2):
            made = store.squash("app:2", f"small:{first}", first=first)
            assert shown(store, made) == shown(store, upper)
            assert made.manifest.layers[:first] == app.manifest.layers[:first]
            assert len(made.manifest.layers) == first + 1

    def test_by_default_the_base_stays(self, store: Store, app: Image) -> None:
        made = store.squash("app:1", "small:1")
        assert made.manifest.layers[0] == app.manifest.layers[0]
        assert len(made.manifest.layers) == 2
        history = [(step.created_by, step.empty_layer) for step in made.config.history]
        assert [empty for _, empty in history] == [False, True, True, False]
        assert history[-1][0] == "winlayers squash"
        assert run_of(made) == run_of(app)

    def test_what_is_replaced_or_deleted_is_gone(self, store: Store, app: Image) -> None:
        big = LayerTar().directory("Files").file("Files/big", os.urandom(300_000)).bytes()
        one = with_layer(store, app, big, "app:2")
        three = with_layer(store, one, LayerTar().directory("Files").remove("Files/big").bytes(), "app:3")
        made = store.squash("app:3", "small:1", first=3)
        assert made.manifest.layers[-1].size < 1000
        assert shown(store, made) == shown(store, three)

    def test_there_must_be_two(self, store: Store, app: Image) -> None:
        for first in (2, 3, -1):
            with pytest.raises(ImageError, match="nothing to merge"):
                store.squash("app:1", "small:1", first=first)

    def test_registry_deltas_are_not_lost_unasked(self, store: Store, app: Image) -> None:
        hive = bytearray(_hive(store, app))
        hive[4096 + 32 + 24] = 1  # the root key has a subkey
        tar = (
            LayerTar().directory("Files").directory("Hives").file("Hives/Software_Delta", bytes(hive)).bytes()
        )
        with_layer(store, with_layer(store, app, tar, "app:2"), tar, "app:3")
        with pytest.raises(UnsupportedError, match="Hives/Software_Delta"):
            store.squash("app:3", "small:1", first=3)
        assert len(store.squash("app:3", "small:1", first=3, force=True).manifest.layers) == 4
        assert len(store.squash("app:2", "small:2", first=2).manifest.layers) == 3
        with pytest.raises(UnsupportedError, match="Hives/Software_Delta"):
            store.squash("app:2", "small:1", first=0)

    def test_python_app(self, store: Store) -> None:
        if not PYTHON_APP.is_dir():
            pytest.skip("the recorded image is not at hand")
        image = store.load(f"oci:{PYTHON_APP}:3.13", name="python:1")
        for first in (0, 1):
            made = store.squash("python:1", "python:small", first=first)
            assert shown(store, made) == shown(store, image)


def _hive(store: Store, app: Image) -> bytes:
    found = data(store, app, "Hives/Software_Delta")
    assert found is not None
    return found


def test_layers_are_found_by_any_of_their_names(app: Image) -> None:
    assert [find_layer(app, str(n)) for n in (1, 2, 3)] == [0, 1, 2]
    for names in (
        app.layer_ids,
        app.config.diff_ids,
        app.config.chain_ids,
        [d.digest for d in app.manifest.layers],
    ):
        assert [find_layer(app, name) for name in names] == [0, 1, 2]
    assert find_layer(app, app.layer_ids[2][:12]) == 2
    for wrong in ("0", "4", "abc", "0" * 12, ""):
        with pytest.raises(ImageError):
            find_layer(app, wrong)
