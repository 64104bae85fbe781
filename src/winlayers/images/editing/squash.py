"""``squash``: the upper layers of an image as one, with the same merged view."""

from __future__ import annotations

from collections.abc import Callable

from winlayers.errors import ImageError, UnsupportedError
from winlayers.images.building import add_image, add_layer
from winlayers.images.config import history_entry, raw_history
from winlayers.images.digest import layer_id, short
from winlayers.images.editing import steps
from winlayers.images.editing.delta import ViewDelta
from winlayers.images.editing.hives import lost_deltas
from winlayers.images.editing.layers import ensure_layers, portable_service
from winlayers.images.image import Image
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore
from winlayers.layers.portable.view import View
from winlayers.tar.backuptar import write_layer_entry
from winlayers.tar.writer import Sink, TarWriter


def squash_image(
    store: ImageStore,
    image: Image,
    reference: Reference | None,
    *,
    first: int | None = None,
    force: bool = False,
    compression: str = "gzip",
    level: int | None = None,
    progress: Progress = QUIET,
) -> Image:
    """Make an image whose layers from number *first* on are one layer.

    The merged view stays what it was: data, metadata, streams, hard links.  The layers below keep their
    blobs.  The new layer holds what differs from the view below it, and nothing of what was replaced or
    deleted on the way.

    Args:
        reference: what to call it; None: nothing.
        first: the lowest layer to be merged, from 0; None: the first above the base, that is above the
            lowest layer and above all that may not be distributed.
        force: also where registry deltas get lost.
        compression, level: of the new layer.

    Raises:
        ImageError: there are not at least two layers to merge.
        UnsupportedError: the layers have registry deltas over each other, which only Windows can merge; or
            the store's layer service can't show merged layers.
    """
    count = len(image.manifest.layers)
    start = first_above_base(image) if first is None else first
    if not 0 <= start <= count - 2:
        raise ImageError(
            f"there is nothing to merge: the image has {count} layers, of which {max(0, count - start)} are"
            " to become one",
            hint="--last 2, or --from with a lower layer, merges more",
        )
    service = portable_service(store, "squash")
    with store.lease() as lease:
        ensure_layers(store, lease, image, progress)
        merged_ids = image.layer_ids[start:]
        lost = lost_deltas(service, merged_ids, into_base=start == 0)
        if lost and not force:
            raise UnsupportedError(
                f"{len(lost)} registry deltas would be lost, such as {lost[0]}: only Windows can merge them",
                hint="merge fewer layers, or force",
            )
        if any(layer.is_foreign for layer in image.manifest.layers[start:]):
            progress.warn("layers that may not be distributed become part of one without that mark")
        parents = image.config.diff_ids[:start]
        layer = add_layer(
            store,
            lease,
            parents,
            _writer(lambda: _open_views(service.views.open, image, start)),
            manifest_type=image.manifest.media_type,
            compression=compression,
            level=level,
            progress=progress,
        )
        step = history_entry(
            "winlayers squash",
            comment=f"merge {short(image.config.diff_ids[-1])} to "
            + (short(parents[-1]) if parents else "the base"),
        )
        return add_image(
            store,
            lease,
            image,
            layers=[*image.manifest.layers[:start], layer.blob],
            diff_ids=[*parents, layer.diff_id],
            history=[*steps.merged(raw_history(image.config), start, count - 1), step],
            reference=reference,
        )


def first_above_base(image: Image) -> int:
    """The number of the first layer that is not the base image's, as far as the image itself tells."""
    foreign = [number for number, layer in enumerate(image.manifest.layers) if layer.is_foreign]
    return max([0, *foreign]) + 1


def _open_views(open_view: Callable[[str], View], image: Image, start: int) -> tuple[View, View | None]:
    full = open_view(image.layer_ids[-1])
    try:
        below = open_view(layer_id(image.config.chain_ids[start - 1])) if start else None
    except BaseException:
        full.close()
        raise
    return full, below


def _writer(open_views: Callable[[], tuple[View, View | None]]) -> Callable[[Sink], None]:
    def write(sink: Sink) -> None:
        full, below = open_views()
        try:
            writer = TarWriter(sink)
            for entry, streams in ViewDelta(full, below):
                for _ in write_layer_entry(writer, entry, streams):
                    pass
            writer.close()
        finally:
            full.close()
            if below is not None:
                below.close()

    return write
