"""What the tests of edited images share."""

from __future__ import annotations

import io
import json
from typing import Any

from tests.images.test_editing_delta import signature
from winlayers.images.building import add_image, add_layer
from winlayers.images.config import history_entry, raw_history
from winlayers.images.editing.layers import portable_service
from winlayers.images.image import Image
from winlayers.images.reference import Reference
from winlayers.layers.portable.view import View, ViewInode
from winlayers.store import Store


def view_of(store: Store, image: Image) -> View:
    """The image's merged view."""
    return portable_service(store.images, "the test").views.open(image.layer_ids[-1])


def shown(store: Store, image: Image) -> dict[str, object]:
    """All that the image shows."""
    with view_of(store, image) as view:
        return signature(view)


def inode(store: Store, image: Image, path: str) -> ViewInode:
    """One file of the image."""
    with view_of(store, image) as view:
        node = view.resolve(path)
        assert node is not None, path
        return view.inode(node.inode)


def data(store: Store, image: Image, path: str) -> bytes | None:
    """What a file of the image holds; None: there is none."""
    with view_of(store, image) as view:
        node = view.resolve(path)
        return None if node is None else view.read(view.inode(node.inode).extent)


def with_layer(store: Store, image: Image, tar: bytes, name: str) -> Image:
    """The image with a layer more."""
    with store.images.lease() as lease:
        layer = add_layer(
            store.images,
            lease,
            image.config.diff_ids,
            io.BytesIO(tar),
            manifest_type=image.manifest.media_type,
        )
        return add_image(
            store.images,
            lease,
            image,
            layers=[*image.manifest.layers, layer.blob],
            diff_ids=[*image.config.diff_ids, layer.diff_id],
            history=[*raw_history(image.config), history_entry("test")],
            reference=Reference.parse(name),
        )


def part(store: Store, image: Image, layers: int, name: str, **document: Any) -> Image:
    """An image of the lowest layers of *image*; *document* changes its configuration."""
    with store.images.lease() as lease:
        return add_image(
            store.images,
            lease,
            image,
            layers=image.manifest.layers[:layers],
            diff_ids=image.config.diff_ids[:layers],
            history=raw_history(image.config)[:layers],
            change_document=lambda value: value.update(document),
            reference=Reference.parse(name),
        )


def run_of(image: Image) -> dict[str, Any]:
    """What containers of the image start with."""
    return json.loads(json.dumps(image.config.run))  # type: ignore[no-any-return]  # it is a JSON object
