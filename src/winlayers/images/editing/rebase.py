"""``rebase``: an application's layers, as they are, on another base."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

from winlayers.errors import PlatformError, RebaseConflictError
from winlayers.images.building import add_image
from winlayers.images.config import raw_history
from winlayers.images.documents import Descriptor
from winlayers.images.editing.bases import BASE_DIGEST, BASE_NAME, Base, find_base
from winlayers.images.editing.conflicts import Conflicts, find_conflicts
from winlayers.images.editing.layers import ensure_layers, portable_service, transplant
from winlayers.images.editing.merging import merge_run, take_platform
from winlayers.images.editing.steps import above_base
from winlayers.images.image import Image
from winlayers.images.mediatypes import layer_type_in
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.store import ImageStore

_SHOWN = 5


def rebase_image(
    store: ImageStore,
    image: Image,
    onto: Image,
    reference: Reference | None,
    *,
    old_base: str | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> Image:
    """Make an image of *image*'s layers above its old base, on the base *onto*.

    The layers' blobs stay what they are.  Platform and Windows version come from the new base; history is
    that of the new base with the application's on top; configuration: what the application set stays, what
    it took over from the old base follows the new one.  Annotations name the new base.

    Args:
        reference: what to call it; None: nothing.
        old_base: an image, or the base's top layer within *image*; None: it is found out.
        force: also where the application's layers touch files that differ between the bases, and for another
            processor.

    Raises:
        ImageError: the old base can't be told, or *image* does not stand on it.
        RebaseConflictError: the bases differ where the layers touch them, and *force* is not set; or the new
            one lacks what they need.
        PlatformError: the new base is for another processor, and *force* is not set.
        UnsupportedError: the store's layer service can't show merged layers.
    """
    one, other = image.config.platform.architecture, onto.config.platform.architecture
    if one != other and not force:
        raise PlatformError(f"the image is for {one}, but the new base for {other}")
    base = find_base(store, image, onto, old_base)
    with store.lease() as lease:
        for needed in (image, onto):
            ensure_layers(store, lease, needed, progress)
        conflicts = _conflicts(store, image, onto, base.layers)
        _refuse(conflicts, onto, force=force)
        if conflicts.changed:
            progress.warn(f"{_differing(conflicts.changed, 'touch')} in the new base")
        transplant(store, lease, image, base.layers, onto.config.diff_ids, progress)
        steps = above_base(raw_history(image.config), base.steps, base.layers)
        media_type = image.manifest.media_type
        return add_image(
            store,
            lease,
            image,
            layers=[
                *(_in_family(layer, media_type) for layer in onto.manifest.layers),
                *image.manifest.layers[base.layers :],
            ],
            diff_ids=[*onto.config.diff_ids, *image.config.diff_ids[base.layers :]],
            history=[*raw_history(onto.config), *steps],
            change_document=lambda document: _change(document, image, base, onto),
            annotations=_annotations(onto),
            reference=reference,
        )


def _conflicts(store: ImageStore, image: Image, onto: Image, base_layers: int) -> Conflicts:
    service = portable_service(store, "rebase")
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(service.views.open(image.layer_ids[base_layers - 1]))
        new = stack.enter_context(service.views.open(onto.layer_ids[-1]))
        indexes = [stack.enter_context(service.views.index(layer)) for layer in image.layer_ids[base_layers:]]
        return find_conflicts(indexes, old, new)


def _refuse(conflicts: Conflicts, onto: Image, *, force: bool) -> None:
    missing, changed = tuple(conflicts.missing), tuple(conflicts.changed)
    if missing:
        raise RebaseConflictError(
            f"the new base lacks {len(missing)} file{'s' if len(missing) > 1 else ''} that the layers need:"
            f" {_some(missing)}",
            conflicts=changed,
            missing=missing,
        )
    if changed and not force:
        raise RebaseConflictError(
            f"{_differing(changed, 'change')} in the new base: {_some(changed)}",
            conflicts=changed,
            hint="force, if what the layers have is right on the new base, too",
        )


def _differing(paths: Sequence[str], verb: str) -> str:
    if len(paths) == 1:
        return f"1 path that the layers {verb} differs"
    return f"{len(paths)} paths that the layers {verb} differ"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more


def _in_family(layer: Descriptor, manifest_type: str) -> Descriptor:
    return dataclasses.replace(layer, media_type=layer_type_in(manifest_type, layer.media_type))


def _change(document: dict[str, object], image: Image, base: Base, onto: Image) -> None:
    take_platform(document, onto.config.value)
    if base.run is not None:
        document["config"] = merge_run(image.config.run, base.run, onto.config.run)


def _annotations(onto: Image) -> dict[str, str | None]:
    return {BASE_DIGEST: onto.digest, BASE_NAME: onto.references[0] if onto.references else None}
