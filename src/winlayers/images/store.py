"""The image store: content, references and the layers that images stand on.

On disk, below the store's root::

    lock             taken shared to rely on what is there, exclusively to change the index or to remove
    images/          an OCI layout with all blobs; index.json names the images
    layers/          the graph driver's home
    layerdb/ID.json  what is known of each image layer (diff id, sizes, number of entries)
    leases/          what operations under way need
    locks/           one lock for each layer being imported
    unkept/          an empty file for each blob that was left out on purpose: its image was loaded without

An image layer's id in the graph driver is the hexadecimal part of its chain id, so equal chains are one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from winlayers import durable
from winlayers.errors import (
    ImageError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidReferenceError,
    LayerNotFoundError,
    StoreError,
    StoreReadOnlyError,
    WinlayersError,
)
from winlayers.images.config import ImageConfig
from winlayers.images.digest import is_digest, layer_id
from winlayers.images.documents import REF_NAME, Descriptor, Index, Manifest, parse_document
from winlayers.images.image import Foundation, Image, LayerInfo
from winlayers.images.layout import OciLayout
from winlayers.images.leases import Lease, leased
from winlayers.images.reference import Reference, familiar

if TYPE_CHECKING:
    from winlayers.graphdriver import GraphDriver

_log = logging.getLogger("winlayers.images")
_MIN_PREFIX = 4
_T = TypeVar("_T")
_Found: TypeAlias = dict[str, tuple[Descriptor, tuple[str, ...]]]
"""Images by digest: their descriptors in the index, and their references."""


@dataclasses.dataclass(slots=True)
class Removed:
    """What a removal did: references that no longer mean anything, blobs, layers, bytes freed.

    ``bytes_freed`` are those of blobs, ``cache_freed`` those of what was learnt by looking into images.
    """

    untagged: list[str] = dataclasses.field(default_factory=list)
    images: list[str] = dataclasses.field(default_factory=list)
    blobs: list[str] = dataclasses.field(default_factory=list)
    layers: list[str] = dataclasses.field(default_factory=list)
    bytes_freed: int = 0
    cache_freed: int = 0


class ImageStore:
    """Images by reference, digest and id."""

    def __init__(
        self,
        root: Path,
        driver: Callable[[], GraphDriver],
        in_use: Callable[[], dict[str, Foundation]],
    ) -> None:
        """Open the image store below *root*.

        Args:
            root: an existing folder.
            driver: gives the graph driver; called when layers are first needed.
            in_use: what each container stands on, by the container's name.
        """
        self.root = root
        self._driver = driver
        self._in_use = in_use
        self._refused: StoreReadOnlyError | None = None
        try:
            with self.lock():
                self.content = OciLayout.create(root / "images")
        except StoreReadOnlyError as error:
            self._refused = error
            with self.lock(shared=True):
                self.content = OciLayout(root / "images")
            return
        for folder in ("layerdb", "leases", "locks", "unkept"):
            (root / folder).mkdir(exist_ok=True)

    @property
    def driver(self) -> GraphDriver:
        """The graph driver."""
        return self._driver()

    # -- locks --

    @property
    def read_only(self) -> bool:
        """Whether the store can only be read: it is on such a file system, or another user's."""
        return self._refused is not None

    def require_writable(self) -> None:
        """Raise :class:`~winlayers.errors.StoreReadOnlyError` where the store can only be read."""
        if self._refused is not None:
            raise StoreReadOnlyError(self._refused.message, path=os.fspath(self.root)) from self._refused

    def lock(self, *, shared: bool = False) -> durable.FileLock:
        """The store's lock.

        Raises:
            StoreReadOnlyError: it is to be held exclusively, and the store can only be read.
        """
        if not shared:
            self.require_writable()
        return durable.FileLock(os.fspath(self.root / "lock"), shared=shared)

    def layer_lock(self, identifier: str) -> durable.FileLock:
        """The lock under which one layer is imported; one of 256, each held alone."""
        return durable.FileLock(os.fspath(self.root / "locks" / identifier[:2]), transient=True)

    def lease(self) -> Lease:
        """A lease; what it held is collected if the operation fails.

        Raises:
            StoreReadOnlyError: the store can only be read.
        """
        self.require_writable()
        return Lease(self.root / "leases", lambda: self.lock(shared=True), self._forget)

    def _forget(self, names: set[str]) -> None:
        """Remove what a failed operation left and nobody else needs."""
        try:
            with self.lock():
                self._collect(names, Removed())
        except WinlayersError as error:
            # The operation's own error is what the caller must see.
            _log.warning("could not clean up: %s", error)

    # -- blobs that are left out --

    def note_unkept(self, digest: str) -> None:
        """Note that a blob which an image names is left out on purpose."""
        durable.write_bytes(os.fspath(self._unkept(digest)), b"")

    def note_kept(self, digest: str) -> None:
        """Take :meth:`note_unkept` back."""
        self._unkept(digest).unlink(missing_ok=True)

    def is_unkept(self, digest: str) -> bool:
        """Whether the blob was left out on purpose."""
        return self._unkept(digest).exists()

    def _unkept(self, digest: str) -> Path:
        return self.root / "unkept" / digest.replace(":", "-")

    def _all_unkept(self) -> set[str]:
        names = {path.name.replace("-", ":", 1) for path in (self.root / "unkept").iterdir()}
        return {name for name in names if is_digest(name)}

    # -- images --

    def images(self) -> list[Image]:
        """All images, by reference; those without one last."""
        images = self._look(
            lambda found: [self._read(descriptor, references) for descriptor, references in found.values()]
        )
        return sorted(images, key=lambda i: (not i.references, i.references, i.digest))

    def _look(self, read: Callable[[_Found], _T]) -> _T:
        """What *read* makes of the images, by digest; it looks again where one was removed meanwhile."""
        while True:
            version = self.content.index_version()
            try:
                return read(self._by_digest(self.content.manifests()))
            except ImageNotFoundError:
                if self.content.index_version() == version:
                    raise

    def _by_digest(self, index: Iterable[Descriptor]) -> _Found:
        found: dict[str, tuple[Descriptor, list[str]]] = {}
        for descriptor in index:
            references = found.setdefault(descriptor.digest, (descriptor, []))[1]
            if (name := descriptor.annotations.get(REF_NAME)) is not None:
                references.append(name)
        return {digest: (d, tuple(sorted(names))) for digest, (d, names) in found.items()}

    def _read(self, descriptor: Descriptor, references: tuple[str, ...]) -> Image:
        manifest = self.read_manifest(descriptor)
        config = ImageConfig.parse(
            self.content.read(manifest.config, "configuration"), f"configuration {manifest.config.digest}"
        )
        return Image(references, descriptor, manifest, config)

    def read_manifest(self, descriptor: Descriptor) -> Manifest:
        """The manifest of *descriptor*, which is in the store.

        Raises:
            ImageError: it is missing, damaged or no manifest.
        """
        raw = self.content.read(descriptor, "manifest")
        document = parse_document(raw, descriptor.media_type, f"manifest {descriptor.digest}")
        if isinstance(document, Index):
            raise ImageError(f"{descriptor.digest} is an index, not an image")
        return document

    def find(self, name: str) -> Image:
        """The image that *name* means: a reference, a digest, or the start of an id or digest.

        Raises:
            ImageNotFoundError: there is none, or several.
        """
        return self._look(lambda index: self._found(name, index))

    def _found(self, name: str, index: _Found) -> Image:
        wanted = _as_reference(name)
        if wanted is not None:
            for descriptor, references in index.values():
                by_digest = wanted.digest is not None and descriptor.digest == wanted.digest
                if (by_digest and _has_repository(references, wanted)) or str(wanted) in references:
                    return self._read(descriptor, references)
        found = self._by_prefix(name, index)
        if len(found) > 1:
            raise ImageNotFoundError(
                f"several images have an id that starts with {name!r}",
                hint="give a digest; winlayers images --digests shows them",
            )
        if not found:
            names = [name for _, references in index.values() for name in references]
            tags = [] if wanted is None else [n for n in names if _has_repository((n,), wanted)]
            hint = f"there is {', '.join(familiar(n) for n in sorted(tags)[:5])}" if tags else ""
            raise ImageNotFoundError(
                f"no such image: {name}", hint=hint or "winlayers images lists those in the store"
            )
        return found[0]

    def _by_prefix(self, name: str, index: _Found) -> list[Image]:
        digits = name.removeprefix("sha256:")
        if len(digits) < _MIN_PREFIX or not set(digits) <= set("0123456789abcdef"):
            return []
        images = [self._read(descriptor, references) for descriptor, references in index.values()]
        return [i for i in images if any(d.startswith(f"sha256:{digits}") for d in (i.id, i.digest))]

    # -- references --

    def set_reference(self, reference: Reference | None, descriptor: Descriptor) -> Image:
        """Let *reference* mean the image of *descriptor*, whose blobs are in the store and leased.

        An image that loses its last reference by this stays, unnamed, until it is pruned.  *reference* None
        stores the image without a name.

        Returns:
            The image as it is then; another process may remove it at once.
        """
        with self.lock():
            return self._set_reference(reference, descriptor)

    def _set_reference(self, reference: Reference | None, descriptor: Descriptor) -> Image:
        """See :meth:`set_reference`; the caller holds the lock exclusively."""
        bare = descriptor.without_mention()
        index = self.content.manifests()
        name = None if reference is None else str(reference)
        kept = [d for d in index if name is None or d.annotations.get(REF_NAME) != name]
        kept = [d for d in kept if d.digest != bare.digest or REF_NAME in d.annotations]
        for lost in (d for d in index if d not in kept and d.digest != bare.digest):
            if all(d.digest != lost.digest for d in kept):
                kept.append(lost.without_mention())
        if name is not None:
            kept.append(dataclasses.replace(bare, annotations={REF_NAME: name}))
        elif all(d.digest != bare.digest for d in kept):
            kept.append(bare)
        self.content.replace_manifests(kept)
        return self._read(*self._by_digest(kept)[bare.digest])

    def tag(self, name: str, reference: Reference) -> Image:
        """Give the image *name* another reference."""
        if reference.tag is None or reference.digest is not None:
            raise InvalidReferenceError(f"not a name to give: {reference.familiar}", hint="give name:tag")
        with self.lock():  # nothing else keeps the image's blobs until it has its new name
            return self._set_reference(reference, self.find(name).descriptor)

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Take a reference away, and the image with its last one.

        Args:
            name: a reference; or an id or digest, which means all its references.
            force: also with several references by id; an image that containers stand on then stays unnamed.

        Raises:
            ImageNotFoundError: there is none.
            ImageInUseError: containers stand on it, or it has several references.
        """
        removed = Removed()
        with self.lock():
            image = self.find(name)
            given = _as_reference(name)
            named = given is not None and str(given) in image.references
            going = (str(given),) if named else image.references
            if not named and len(image.references) > 1 and not force:
                raise ImageInUseError(
                    f"image {name} has {len(image.references)} references", hint="give one of them, or force"
                )
            last = set(going) == set(image.references)
            users = self.users(image) if last else []
            if users and not force:
                raise ImageInUseError(f"image {name} is used by container {users[0]}", hint="remove it first")
            index = self.content.manifests()
            kept = [
                d for d in index if d.digest != image.digest or d.annotations.get(REF_NAME, "") not in going
            ]
            kept = [d for d in kept if d.digest != image.digest or not last]
            if last and users:
                kept.append(image.descriptor.without_mention())
            self.content.replace_manifests(kept)
            removed.untagged = list(going)
            if last and not users:
                removed.images.append(image.id)
                self._collect({d.digest for d in image.blobs} | set(image.layer_ids), removed)
        return removed

    def users(self, image: Image) -> list[str]:
        """The names of the containers that were made of *image*."""
        return [name for name, found in self._in_use().items() if found.image_digest == image.digest]

    # -- collection --

    def unneeded(self, *, everything: bool = False) -> list[Image]:
        """The images that :meth:`prune` removes."""
        used = {found.image_digest for found in self._in_use().values()}
        return [i for i in self.images() if (everything or not i.references) and i.digest not in used]

    def prune(self, *, everything: bool = False) -> Removed:
        """Remove what nobody needs: images without a reference, and blobs and layers that are left over.

        What containers stand on, and what operations under way need, stays.

        Args:
            everything: also images with references that no container stands on.
        """
        removed = Removed()
        with self.lock():
            going = self.unneeded(everything=everything)
            if going:
                digests = {image.digest for image in going}
                kept = [d for d in self.content.manifests() if d.digest not in digests]
                self.content.replace_manifests(kept)
            removed.images = [image.id for image in going]
            removed.untagged = [reference for image in going for reference in image.references]
            self._collect_all(removed)
        return removed

    def collect(self) -> Removed:
        """Remove blobs and layers that are left over, and no image."""
        removed = Removed()
        with self.lock():
            self._collect_all(removed)
        return removed

    def _collect_all(self, removed: Removed) -> None:
        blobs = {digest for digest, _ in self.content.digests()} | self._all_unkept()
        self._collect(blobs | set(self.layer_ids()), removed)
        for folder in self.work_folders():
            durable.sweep(folder)

    def work_folders(self) -> list[str]:
        """Where files lie under hidden names while they are written."""
        content = self.content.root
        folders = (content / "blobs" / "sha256", content, self.root / "layerdb", self.root / "unkept")
        return [os.fspath(folder) for folder in folders]

    def needed(self, *, tidy: bool = True, without: Collection[str] = ()) -> set[str]:
        """The digests of blobs and the ids of image layers that something needs; the caller holds the lock.

        Args:
            tidy: remove the leases of processes that are gone; the lock is held exclusively.
            without: digests of images that need nothing.

        Raises:
            ImageError, ContainerError: an image or a container can't be read, so that it is not known.
        """
        needed = leased(self.root / "leases", tidy=tidy)
        for descriptor in self.content.manifests():
            if descriptor.digest in without:
                continue
            image = self._read(descriptor, ())
            needed.update(d.digest for d in image.blobs)
            needed.update(image.layer_ids)
        for found in self._in_use().values():
            needed.update(found.layers)
        return needed

    def _collect(self, names: set[str], removed: Removed) -> None:
        """Remove what of *names* is not needed.  The caller holds the lock exclusively."""
        going = names - self.needed()
        for digest in sorted(name for name in going if is_digest(name)):
            if self.content.blob_path(digest).exists():
                removed.blobs.append(digest)
            removed.bytes_freed += self.content.delete(digest)
            self.note_kept(digest)
        layers = {name for name in going if not is_digest(name)}
        if layers:
            for identifier in self._children_first(layers):
                self.driver.remove(identifier)
                removed.layers.append(identifier)
            for identifier in layers:
                self._layer_record(identifier).unlink(missing_ok=True)

    def _children_first(self, identifiers: set[str]) -> list[str]:
        present = [name for name in identifiers if self.driver.exists(name)]
        depths = {name: len(self.driver.layer_chain(name)) for name in present}
        return sorted(present, key=lambda name: (-depths[name], name))

    # -- layers --

    def layers(self, image: Image) -> list[LayerInfo]:
        """The image's layers, base first."""
        infos = []
        for diff_id, chain_id, blob in zip(
            image.config.diff_ids, image.config.chain_ids, image.manifest.layers, strict=True
        ):
            identifier = layer_id(chain_id)
            known = self.layer_facts(identifier) if self.driver.exists(identifier) else None
            infos.append(
                LayerInfo(
                    id=identifier,
                    diff_id=diff_id,
                    chain_id=chain_id,
                    entries=None if known is None else known.get("entries"),
                    size=None if known is None else known.get("data_size"),
                    stream_size=None if known is None else known.get("stream_size"),
                    blob=blob,
                    present=known is not None,
                )
            )
        return infos

    def expect_layer(self, identifier: str, diff_id: str) -> None:
        """Note that a layer is about to be imported, so that it is known if the process dies just after."""
        durable.write_json(os.fspath(self._layer_record(identifier)), {"diff_id": diff_id})

    def record_layer(self, identifier: str, diff_id: str, data_size: int, tar_size: int) -> None:
        """Note what is known of a layer that was just imported."""
        facts = {"diff_id": diff_id, "data_size": data_size, "tar_size": tar_size}
        durable.write_json(os.fspath(self._layer_record(identifier)), facts)

    def layer_facts(self, identifier: str) -> dict[str, int]:
        """Sizes and the number of entries of a layer that the driver has; counted once, then remembered.

        Keys: ``entries``, ``data_size`` (what its import returned), ``stream_size`` (bytes in alternate
        streams), ``tar_size``.
        """
        facts = self._read_record(identifier)
        if not {"entries", "data_size", "stream_size"} <= facts.keys():
            said = self.driver.get_metadata(identifier)
            if said.get("entries", "").isdigit() and said.get("stream_size", "").isdigit():
                facts |= {"entries": int(said["entries"]), "stream_size": int(said["stream_size"])}
            else:
                changes = self.driver.changes(identifier)
                facts["entries"] = len(changes)
                facts["stream_size"] = sum(change.stream_size for change in changes)
            if "data_size" not in facts:
                size = said.get("size", "")
                facts["data_size"] = int(size) if size.isdigit() else self.driver.diff_size(identifier)
            facts.pop("size", None)  # what earlier versions counted
            with contextlib.suppress(OSError):  # a store that can't be written can still be listed
                durable.write_json(os.fspath(self._layer_record(identifier)), facts)
        return {key: value for key, value in facts.items() if isinstance(value, int)}

    def _layer_record(self, identifier: str) -> Path:
        return self.root / "layerdb" / f"{identifier}.json"

    def _read_record(self, identifier: str) -> dict[str, object]:
        try:
            value: object = json.loads(self._layer_record(identifier).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StoreError(f"the record of layer {identifier} can't be read: {error}") from error
        return value if isinstance(value, dict) else {}

    def layer_ids(self) -> list[str]:
        """The ids of all image layers."""
        return sorted(path.stem for path in (self.root / "layerdb").glob("*.json"))

    def find_layer(self, name: str) -> str:
        """The full id of the image layer that *name* means: an id, chain id, diff id, or the start of one.

        Raises:
            LayerNotFoundError: there is none, or several.
        """
        digits = name.rpartition(":")[2]
        if len(digits) >= _MIN_PREFIX and set(digits) <= set("0123456789abcdef"):
            found = {identifier for identifier, diff in self._known_layers() if digits in (identifier, diff)}
            found = found or {
                identifier
                for identifier, diff in self._known_layers()
                if identifier.startswith(digits) or diff.startswith(digits)
            }
            if len(found) == 1:
                return found.pop()
            if found:
                raise LayerNotFoundError(f"several layers have an id that starts with {name!r}")
        raise LayerNotFoundError(
            f"no such layer: {name}", hint="winlayers layers IMAGE lists an image's layers"
        )

    def _known_layers(self) -> Iterator[tuple[str, str]]:
        for path in sorted((self.root / "layerdb").glob("*.json")):
            diff_id = self._read_record(path.stem).get("diff_id")
            yield path.stem, diff_id.rpartition(":")[2] if isinstance(diff_id, str) else ""


def _as_reference(name: str) -> Reference | None:
    try:
        return Reference.parse(name)
    except InvalidReferenceError:
        return None


def _has_repository(references: tuple[str, ...], wanted: Reference) -> bool:
    return any(Reference.parse(name).repository == wanted.repository for name in references)
