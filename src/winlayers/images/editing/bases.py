"""Which of an image's layers are its base's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from winlayers.errors import ImageError, ImageNotFoundError
from winlayers.images.config import raw_history
from winlayers.images.editing.layers import find_layer
from winlayers.images.editing.steps import up_to_layer
from winlayers.images.image import Image
from winlayers.images.reference import Reference, familiar
from winlayers.images.store import ImageStore

BASE_DIGEST = "org.opencontainers.image.base.digest"
BASE_NAME = "org.opencontainers.image.base.name"
"""Annotations of a manifest that name the base image (source: OCI image specification ``annotations.md``)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """An image's base.

    Attributes:
        layers: how many of the image's layers are its.
        steps: how many steps of the image's history are its.
        run: what its containers start with; None where that is not known.
    """

    layers: int
    steps: int
    run: Mapping[str, object] | None

    @classmethod
    def of(cls, image: Image) -> Base:
        """What *image* is as a base."""
        return cls(len(image.config.diff_ids), len(raw_history(image.config)), image.config.run)


def find_base(store: ImageStore, image: Image, onto: Image, given: str | None) -> Base:
    """The base that *image* stands on.

    Args:
        onto: the base that it is to stand on: its name tells which of several bases is meant.
        given: an image, or the base's top layer within *image*; None: the image that the annotation
            ``org.opencontainers.image.base.digest`` names, or else the one in the store whose layers *image*
            begins with: the one of *onto*'s repository with most layers, or else the only one.

    Raises:
        ImageError: it can't be told, or *image* does not stand on it.
    """
    if given is not None:
        return _given(store, image, given)
    candidates = [known for known in store.images() if known.digest != image.digest and _is_on(image, known)]
    noted = image.manifest.annotations.get(BASE_DIGEST)
    by_note = [known for known in candidates if known.digest == noted]
    by_name = [known for known in candidates if _repositories(known) & _repositories(onto)]
    chosen = by_note or by_name or candidates
    if not chosen:
        raise ImageError(
            "the base can't be told: the store has no image whose layers this one begins with",
            hint="--old-base names it, or its top layer",
        )
    most = max(len(known.config.diff_ids) for known in chosen)
    if not by_note and not by_name and any(len(known.config.diff_ids) != most for known in chosen):
        names = sorted(familiar(name) for known in chosen for name in known.references) or ["unnamed images"]
        raise ImageError(
            f"the base can't be told: it may be any of {', '.join(names)}", hint="--old-base names it"
        )
    longest = [known for known in chosen if len(known.config.diff_ids) == most]
    history = raw_history(image.config)
    return Base.of(max(longest, key=lambda known: _common(raw_history(known.config), history)))


def _given(store: ImageStore, image: Image, name: str) -> Base:
    try:
        base = store.find(name)
    except ImageNotFoundError:
        try:
            number = find_layer(image, name)
        except ImageError:
            raise ImageError(f"{name!r} is neither an image nor a layer of the image") from None
        steps = up_to_layer(raw_history(image.config), number + 1)
        return Base(number + 1, len(steps), None)
    if not _is_on(image, base):
        raise ImageError(f"the image is not based on {name}: its lowest layers are others")
    return Base.of(base)


def _is_on(image: Image, base: Image) -> bool:
    below = base.config.diff_ids
    return image.config.diff_ids[: len(below)] == below


def _repositories(image: Image) -> set[str]:
    return {Reference.parse(name).repository for name in image.references}


def _common(one: Sequence[object], other: Sequence[object]) -> tuple[int, int]:
    """How well a history begins another: common steps, and (fewer is better) steps that are its own."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count, count - len(one)
