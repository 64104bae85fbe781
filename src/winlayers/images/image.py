"""An image in the store, with its documents read."""

from __future__ import annotations

import dataclasses

from winlayers.images.config import ImageConfig
from winlayers.images.digest import layer_id
from winlayers.images.documents import Descriptor, Manifest


@dataclasses.dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer of an image, as listings show it.

    Attributes:
        id: the graph driver's id: the chain id's digits.
        diff_id: the digest of the uncompressed tar.
        chain_id: names the layer with all that lies below.
        entries: how many paths the layer holds; None while it is not in the store.
        size: bytes in its files' unnamed streams, as Docker counts; None while it is not in the store.
        stream_size: bytes in alternate streams; None while it is not in the store.
        blob: the compressed layer.
        present: whether the graph driver has it.
    """

    id: str
    diff_id: str
    chain_id: str
    entries: int | None
    size: int | None
    stream_size: int | None
    blob: Descriptor
    present: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """An image.

    Attributes:
        references: the full references that name it, sorted; none for one that has lost its name.
        descriptor: the manifest's.
        manifest: the manifest.
        config: the configuration.
    """

    references: tuple[str, ...]
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return self.descriptor.digest

    @property
    def id(self) -> str:
        """The configuration's digest, which Docker calls the image id."""
        return self.manifest.config.digest

    @property
    def size(self) -> int:
        """Bytes of all blobs as they are stored: layers (compressed), configuration, manifest."""
        return self.descriptor.size + self.manifest.config.size + sum(d.size for d in self.manifest.layers)

    @property
    def layer_ids(self) -> list[str]:
        """The graph driver's layer ids, base first."""
        return [layer_id(chain) for chain in self.config.chain_ids]

    @property
    def blobs(self) -> list[Descriptor]:
        """All blobs, manifest included."""
        return [self.descriptor, self.manifest.config, *self.manifest.layers]


@dataclasses.dataclass(frozen=True, slots=True)
class Foundation:
    """What a container stands on.

    Attributes:
        image_digest: the manifest digest of its image.
        layers: the image's layers, base first, by the graph driver's ids.
    """

    image_digest: str
    layers: tuple[str, ...]
