"""``config``: an image that differs in its configuration alone."""

from __future__ import annotations

import dataclasses
import json

from winlayers.errors import ImageError
from winlayers.images.building import add_image
from winlayers.images.config import history_entry, raw_history
from winlayers.images.editing.layers import hold
from winlayers.images.editing.runconfig import ConfigChanges
from winlayers.images.image import Image
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore


def configure_image(
    store: ImageStore,
    image: Image,
    reference: Reference | None,
    changes: ConfigChanges,
    *,
    message: str = "",
) -> Image:
    """Make an image with a changed configuration; its layers keep their blobs.

    What is not changed stays as it is, unknown fields and their order too, except for what tells of the
    container or build that made the image.

    Args:
        reference: what to call it; None: nothing.
        message: a comment, for its history.

    Raises:
        ImageError: there is nothing to change, or a change is malformed.
    """
    if not changes:
        raise ImageError("there is nothing to change")
    with store.lease() as lease:
        hold(store, lease, image)
        step = history_entry(f"winlayers config {_summary(changes)}", comment=message, empty_layer=True)
        return add_image(
            store,
            lease,
            image,
            layers=image.manifest.layers,
            diff_ids=image.config.diff_ids,
            history=[*raw_history(image.config), step],
            change_document=changes.apply,
            reference=reference,
        )


def _summary(changes: ConfigChanges) -> str:
    """The changes for the history, as options."""
    words = []
    for field in dataclasses.fields(changes):
        value = getattr(changes, field.name)
        name = f"--{_OPTIONS.get(field.name, field.name.replace('_', '-'))}"
        if isinstance(value, tuple):
            words += [f"{name} {_quoted(item)}" for item in value]
        elif isinstance(value, str):
            words.append(f"{name} {_quoted(value)}")
        elif value is not None:
            words.append(name if value else f"--no-{name[2:]}")
    return " ".join(words)


_OPTIONS = {
    "labels": "label",
    "unset_labels": "unset-label",
    "exposed_ports": "expose",
    "unexposed_ports": "unexpose",
    "volumes": "volume",
    "unset_volumes": "unset-volume",
}


def _quoted(text: str) -> str:
    return text if text and not set(text) & set(" \t\"'") else json.dumps(text, ensure_ascii=False)
