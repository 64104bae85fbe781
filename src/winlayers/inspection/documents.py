"""An image's documents as ``history`` and ``inspect`` show them, after docker's habits; no layer is read."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from winlayers.errors import ContainerNotFoundError
from winlayers.images.config import ImageConfig
from winlayers.images.documents import Descriptor, Manifest
from winlayers.images.importer import pick, resolve
from winlayers.images.reference import familiar
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.transports.names import open_source
from winlayers.inspection.opening import names_a_place

if TYPE_CHECKING:
    from winlayers.containers.record import Container
    from winlayers.images.platforms import Platform
    from winlayers.store import Store


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One step of an image's history.

    Attributes:
        created, created_by, comment, author: as the configuration has them; "" where it has none.
        empty: whether the step made no layer.
        blob: the layer that it made, as far as the history and the manifest agree.
        diff_id: the digest of that layer's tar.
        size: data bytes in the layer; None while it is not in the store.
    """

    created: str
    created_by: str
    comment: str
    author: str
    empty: bool
    blob: Descriptor | None
    diff_id: str
    size: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class ImageDocuments:
    """An image's manifest and configuration, wherever it is.

    Attributes:
        name: what was opened.
        references: full references that name it.
        descriptor: the manifest's.
        sizes: data bytes of each layer, where they are known.
    """

    name: str
    references: tuple[str, ...]
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    sizes: tuple[int | None, ...]

    def history(self) -> list[Step]:
        """The steps, the oldest first; layers that no step accounts for come last."""
        layers = list(zip(self.manifest.layers, self.config.diff_ids, self.sizes, strict=True))
        steps = []
        for entry in self.config.history:
            blob, diff_id, size = None, "", None
            if not entry.empty_layer and layers:
                blob, diff_id, size = layers.pop(0)
            steps.append(
                Step(
                    created=entry.created,
                    created_by=entry.created_by,
                    comment=entry.comment,
                    author=entry.author,
                    empty=entry.empty_layer,
                    blob=blob,
                    diff_id=diff_id,
                    size=size,
                )
            )
        steps += [Step("", "", "", "", False, blob, diff_id, size) for blob, diff_id, size in layers]
        return steps

    def facts(self) -> dict[str, object]:
        """What ``docker image inspect`` says, as far as it applies, with the layers in detail."""
        value = self.config.value
        platform = self.config.platform
        names = [familiar(reference) for reference in self.references]
        repositories = sorted({name.partition("@")[0].rpartition(":")[0] for name in names} - {""})
        return {
            "Id": self.manifest.config.digest,
            "RepoTags": names,
            "RepoDigests": [f"{repository}@{self.descriptor.digest}" for repository in repositories],
            "Digest": self.descriptor.digest,
            "MediaType": self.manifest.media_type,
            "Comment": self.config.history[-1].comment if self.config.history else "",
            "Created": self.config.created,
            "Author": value.get("author") or "",
            "Config": dict(self.config.run),
            "Architecture": platform.architecture,
            "Variant": platform.variant,
            "Os": platform.os,
            "OsVersion": platform.os_version,
            "OsFeatures": list(platform.os_features),
            "Size": self.descriptor.size
            + self.manifest.config.size
            + sum(b.size for b in self.manifest.layers),
            "RootFS": {"Type": "layers", "Layers": list(self.config.diff_ids)},
            "Annotations": dict(self.manifest.annotations),
            "Layers": [
                {
                    "DiffID": diff_id,
                    "ChainID": chain_id,
                    "Digest": blob.digest,
                    "MediaType": blob.media_type,
                    "CompressedSize": blob.size,
                    "DataSize": size,
                    "Urls": list(blob.urls),
                }
                for blob, diff_id, chain_id, size in zip(
                    self.manifest.layers, self.config.diff_ids, self.config.chain_ids, self.sizes, strict=True
                )
            ],
        }


def read_documents(
    name: str,
    *,
    store: Store | None = None,
    platform: Platform | None = None,
    registry: RegistryOptions = DEFAULT_OPTIONS,
) -> ImageDocuments:
    """An image's documents; *name* as for :func:`~winlayers.inspection.opening.open_image`.

    Raises:
        ImageNotFoundError: there is no such image.
    """
    if store is None or names_a_place(name):
        with open_source(name, registry) as source:
            offer = pick(source.offers(), source.name)
            resolved = resolve(source, offer.descriptor, platform)
            references = tuple(str(reference) for reference in offer.references)
            unknown = (None,) * len(resolved.manifest.layers)
            return ImageDocuments(
                source.name, references, resolved.descriptor, resolved.manifest, resolved.config, unknown
            )
    image = store.images.find(name.removeprefix("image:"))
    sizes = tuple(info.size for info in store.images.layers(image))
    return ImageDocuments(name, image.references, image.descriptor, image.manifest, image.config, sizes)


def find_container(name: str, store: Store | None) -> Container | None:
    """The container that *name* means, where it is not rather an image or a place."""
    if store is None or name.startswith(("image:", "layer:")) or names_a_place(name):
        return None
    with contextlib.suppress(ContainerNotFoundError):
        return store.containers.find(name.removeprefix("container:"))
    return None


def container_facts(container: Container, store: Store) -> dict[str, object]:
    """What ``docker container inspect`` says, as far as it applies."""
    return {
        "Id": container.id,
        "Name": container.name,
        "Created": container.created,
        "Image": container.image_id,
        "ImageReference": container.image,
        "ImageDigest": container.image_digest,
        "Layers": list(container.layers),
        "MountedAt": store.containers.mount_path(container),
        "StorageOpt": dict(container.storage_opt),
        "GraphDriver": {
            "Name": store.driver.name,
            "Data": dict(store.driver.get_metadata(container.id)),
        },
    }
