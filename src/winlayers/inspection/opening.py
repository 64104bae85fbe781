"""Opening what a user names: an image, layer or container of a store, or an image anywhere else."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

from winlayers.errors import (
    ContainerNotFoundError,
    ImageNotFoundError,
    LayerNotFoundError,
    UnsupportedError,
)
from winlayers.images.config import ImageConfig
from winlayers.images.documents import Descriptor, Manifest
from winlayers.images.progress import QUIET, Progress
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.transports.names import split_name
from winlayers.inspection.tree import Layer, Tree

if TYPE_CHECKING:
    from winlayers.containers.record import Container
    from winlayers.images.image import Image
    from winlayers.images.layout import OciLayout
    from winlayers.images.platforms import Platform
    from winlayers.inspection.blobcache import BlobCache
    from winlayers.inspection.blobview import BlobSource
    from winlayers.layers.portable.service import PortableLayerService
    from winlayers.store import Store

_HOST_PATH = re.compile(r"\.{0,2}[\\/]|[A-Za-z]:[\\/]")
_KINDS = ("image", "container", "layer")


def names_a_place(name: str) -> bool:
    """Whether *name* says where an image is, rather than what a store calls it."""
    if name.partition(":")[0] in _KINDS:
        return False
    return bool(split_name(name)[0]) or _HOST_PATH.match(name) is not None


def open_image(
    name: str,
    *,
    store: Store | None = None,
    cache: str | os.PathLike[str] | None = None,
    platform: Platform | None = None,
    registry: RegistryOptions = DEFAULT_OPTIONS,
    progress: Progress = QUIET,
) -> Tree:
    """Open an image, a layer or a container for looking in; nothing is imported or mounted.

    Args:
        name: a container's name or id, an image's reference, id or digest, a layer's id, in this order of
            preference (``container:``, ``image:`` or ``layer:`` in front settles it); or where an image is:
            ``oci:FOLDER[:TAG]``, ``oci-archive:FILE``, ``docker-archive:FILE``, ``docker://REFERENCE``, or a
            host's path.
        store: where names are looked up.
        cache: where to keep what was learnt of blobs; None: in the store, or nowhere if there is none.
        platform: what to choose from an index.
        registry: how registries are reached.
        progress: told of blobs that must be read once.

    Raises:
        ImageNotFoundError: there is nothing of that name.
        UnsupportedError: it is in a store whose layers can't be looked into.
    """
    kind, _, rest = name.partition(":")
    explicit = kind if kind in _KINDS and rest else ""
    with contextlib.ExitStack() as stack:
        if names_a_place(name) or (store is None and os.path.exists(name)):
            from winlayers.images.importer import pick, resolve
            from winlayers.images.transports.names import open_source

            source = stack.enter_context(open_source(name, registry))
            resolved = resolve(source, pick(source.offers(), source.name).descriptor, platform)
            kept = _cache(store, cache, stack)
            return _from_blobs(source.name, source, resolved.manifest, resolved.config, kept, progress, stack)
        if store is None:
            raise ImageNotFoundError(f"no such file or folder, and no store: {name}")
        return _InStore(store, cache, progress, stack).open(rest if explicit else name, explicit)


def _cache(
    store: Store | None, folder: str | os.PathLike[str] | None, stack: contextlib.ExitStack
) -> BlobCache:
    if folder is None and store is not None and not store.images.read_only:
        folder = store.cache.path
    if folder is None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="winlayers-"))
    from winlayers.inspection.blobcache import BlobCache

    return BlobCache(folder)


def _from_blobs(
    name: str,
    source: BlobSource,
    manifest: Manifest,
    config: ImageConfig,
    cache: BlobCache,
    progress: Progress,
    stack: contextlib.ExitStack,
) -> Tree:
    from winlayers.inspection.blobview import open_blob_view

    stack.enter_context(cache.folder.in_use())
    view = open_blob_view(source, manifest, config, cache, progress=progress)
    created = created_by(config)
    layers = tuple(
        Layer(
            number=number,
            id=cache.name(blob.digest),
            diff_id=diff_id,
            blob=blob,
            created_by=created[number - 1],
            open_index=functools.partial(cache.index, blob.digest),
        )
        for number, (blob, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True), 1)
    )
    return Tree(name, "image", view, layers, config=config, manifest=manifest, closing=stack.pop_all())


def created_by(config: ImageConfig) -> list[str]:
    """What made each layer, as far as the history tells; "" where it does not."""
    steps = [step.created_by or step.comment for step in config.history if not step.empty_layer]
    count = len(config.diff_ids)
    return [*steps[:count], *[""] * (count - len(steps))]


class _Content:
    """An image store's blobs as a source."""

    def __init__(self, content: OciLayout) -> None:
        self._content = content

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        return self._content.open(descriptor.digest)

    def read_range(self, descriptor: Descriptor, offset: int, size: int) -> bytes | None:
        return None  # files can be sought in


class _InStore:
    """Opens what a store has."""

    def __init__(
        self,
        store: Store,
        cache: str | os.PathLike[str] | None,
        progress: Progress,
        stack: contextlib.ExitStack,
    ) -> None:
        self._store = store
        self._cache = cache
        self._progress = progress
        self._stack = stack

    def open(self, name: str, kind: str) -> Tree:
        if kind in ("", "container"):
            try:
                return self._container(self._store.containers.find(name))
            except ContainerNotFoundError:
                if kind:
                    raise
        if kind in ("", "image"):
            try:
                return self._image(name, self._store.images.find(name))
            except ImageNotFoundError:
                if kind:
                    raise
        try:
            return self._layer(name, self._store.images.find_layer(name))
        except LayerNotFoundError:
            if kind:
                raise
        raise ImageNotFoundError(
            f"no such image, container or layer: {name}",
            hint="winlayers images and winlayers ps list them; or name a place, such as oci:FOLDER:TAG",
        )

    def _service(self) -> PortableLayerService | None:
        from winlayers.layers.portable.service import PortableLayerService

        service = getattr(self._store.driver, "service", None)
        return service if isinstance(service, PortableLayerService) else None

    def _portable(self) -> PortableLayerService:
        service = self._service()
        if service is None:
            raise UnsupportedError(
                "only stores with the portable layer service can be looked into without mounting",
                hint="mount it instead",
            )
        return service

    def _image(self, name: str, image: Image) -> Tree:
        service = self._service()
        if service is None or service.store.find(image.layer_ids[-1]) is None:
            # Its layers have not been imported, but its blobs can be read where they are.
            cache = _cache(self._store, self._cache, self._stack)
            content = _Content(self._store.images.content)
            return _from_blobs(
                name, content, image.manifest, image.config, cache, self._progress, self._stack
            )
        layers = self._layers(service, image.layer_ids, image)
        return Tree(
            name,
            "image",
            service.views.open(image.layer_ids[-1]),
            layers,
            config=image.config,
            manifest=image.manifest,
            closing=self._stack.pop_all(),
        )

    def _layers(
        self, service: PortableLayerService, identifiers: Sequence[str], image: Image | None
    ) -> tuple[Layer, ...]:
        created = created_by(image.config) if image is not None else []
        blobs = image.manifest.layers if image is not None else ()
        return tuple(
            Layer(
                number=number,
                id=identifier,
                diff_id=service.store.record(identifier).digest or "",
                blob=blobs[number - 1] if number <= len(blobs) else None,
                created_by=created[number - 1] if number <= len(created) else "",
                open_index=functools.partial(service.views.index, identifier),
            )
            for number, identifier in enumerate(identifiers, 1)
            if service.store.record(identifier).committed
        )

    def _layer(self, name: str, identifier: str) -> Tree:
        service = self._portable()
        identifiers = [*reversed(service.store.parents(identifier)), identifier]
        view = service.views.open(identifier)
        layers = self._layers(service, identifiers, self._image_with(identifiers))
        return Tree(name, "layer", view, layers, closing=self._stack.pop_all())

    def _image_with(self, identifiers: Sequence[str]) -> Image | None:
        """Some image whose lowest layers these are: its history tells of them."""
        for image in self._store.images.images():
            if image.layer_ids[: len(identifiers)] == list(identifiers):
                return image
        return None

    def _container(self, container: Container) -> Tree:
        from winlayers.inspection.scratchview import ScratchView

        service = self._portable()
        image = self._image_with(container.layers)
        layers = self._layers(service, container.layers, image)
        view = ScratchView(service, container.id)
        changes = Layer(
            number=len(layers) + 1,
            id=container.id,
            diff_id="",
            blob=None,
            created_by=f"the container {container.name}",
            open_index=functools.partial(view.open_index, container.id),
            is_scratch=True,
        )
        config = None if image is None else image.config
        manifest = None if image is None else image.manifest
        return Tree(
            container.name,
            "container",
            view,
            (*layers, changes),
            config=config,
            manifest=manifest,
            closing=self._stack.pop_all(),
        )
