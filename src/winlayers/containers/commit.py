"""From a container to an image: its changes become a layer on top of those that it stands on."""

from __future__ import annotations

from collections.abc import Callable

from winlayers.containers.record import Container
from winlayers.errors import ImageNotFoundError
from winlayers.images.building import add_image, add_layer
from winlayers.images.config import history_entry, raw_history
from winlayers.images.image import Image
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore


def commit_container(
    store: ImageStore,
    container: Container,
    reference: Reference | None,
    *,
    author: str = "",
    message: str = "",
    created_by: str = "",
    change_run: Callable[[dict[str, object]], None] | None = None,
    compression: str = "gzip",
    level: int | None = None,
    progress: Progress = QUIET,
) -> Image:
    """Make an image of *container*.

    Layers that came from the base keep their blobs; the new one is compressed so that the same changes give
    the same blob.

    Args:
        reference: what to call the image; None: nothing.
        author: who made it, for its history and configuration.
        message: a comment, for its history.
        created_by: the command, for its history; by default that it was committed.
        change_run: changes what containers of the new image start with.
        compression, level: of the new layer.

    Raises:
        ImageNotFoundError: the container's image has gone from the store.
    """
    with store.lease() as lease:
        lease.add(container.layers)
        try:
            base = store.find(container.image_digest)
        except ImageNotFoundError as error:
            raise ImageNotFoundError(
                f"the image of container {container.name} has gone from the store: {container.image_digest}"
            ) from error
        lease.add(d.digest for d in base.blobs)
        diff = store.driver.diff(container.id)
        try:
            layer = add_layer(
                store,
                lease,
                base.config.diff_ids,
                diff,
                manifest_type=base.manifest.media_type,
                compression=compression,
                level=level,
                progress=progress,
            )
        finally:
            diff.close()
        step = history_entry(
            created_by or f"winlayers commit {container.name}", comment=message, author=author
        )
        return add_image(
            store,
            lease,
            base,
            layers=[*base.manifest.layers, layer.blob],
            diff_ids=[*base.config.diff_ids, layer.diff_id],
            history=[*raw_history(base.config), step],
            change_run=change_run,
            author=author or None,
            reference=reference,
        )
