"""A store: images, layers and containers in one folder, with the verbs of the command line.

    >>> import winlayers
    >>> store = winlayers.open_store("/srv/windows")                              # doctest: +SKIP
    >>> image = store.load("oci:./python-app:3.13")                               # doctest: +SKIP
    >>> container = store.create(image.references[0])                             # doctest: +SKIP

A store object may be used by several threads; several processes may use one store at once.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from winlayers import durable
from winlayers.containers.record import Container
from winlayers.images.documents import Descriptor
from winlayers.images.image import Foundation, Image, LayerInfo
from winlayers.images.progress import QUIET, Progress
from winlayers.images.reference import Reference
from winlayers.images.registry.options import DEFAULT_OPTIONS, RegistryOptions
from winlayers.images.store import ImageStore, Removed
from winlayers.storefolder import prepare

if TYPE_CHECKING:
    from winlayers.containers.store import ContainerStore
    from winlayers.graphdriver import Change, GraphDriver
    from winlayers.images.cachefolder import CacheFolder
    from winlayers.images.check import ImageFinding
    from winlayers.images.editing import AppendOptions, ConfigChanges
    from winlayers.images.platforms import Platform
    from winlayers.layers.portable.check import Finding
    from winlayers.layers.service import TarStream


def default_root() -> str:
    """Where the store is if nobody says: WINLAYERS_ROOT, else a system's or user's data folder."""
    root = os.environ.get("WINLAYERS_ROOT")
    if root:
        return root
    if sys.platform == "win32":
        return os.path.join(os.environ.get("LOCALAPPDATA", os.path.expanduser("~")), "winlayers")
    else:  # noqa: RET505 - mypy must see one branch for each platform
        if os.geteuid() == 0:
            return "/var/lib/winlayers"
        data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        return os.path.join(data, "winlayers")


class Store:
    """A store in a folder; made by :func:`open_store`.

    Attributes:
        root: the folder.
        images: the image store.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, driver: str = "", driver_options: Sequence[str] = ()
    ) -> None:
        """Open the store in *root*, made if there is none.

        Args:
            driver: the graph driver; "" for the one that the store was made with, ``windowsfilter`` at first.
            driver_options: ``key=value`` texts for the driver, such as ``mount=extract``.

        Raises:
            StoreError: there is something else in that folder, or a store of a newer version.
        """
        self.root = Path(os.path.abspath(os.fspath(root)))
        self._driver_name = prepare(self.root, driver, driver_options)
        self._driver_options = tuple(driver_options)
        self._driver_lock = threading.Lock()
        self._driver: GraphDriver | None = None
        self.images = ImageStore(self.root, self._get_driver, self._in_use)

    def _in_use(self) -> dict[str, Foundation]:
        return self.containers.in_use()

    @functools.cached_property
    def containers(self) -> ContainerStore:
        """The containers."""
        from winlayers.containers.store import ContainerStore

        return ContainerStore(self.root, self._get_driver, self.images.lock)

    @property
    def driver(self) -> GraphDriver:
        """The graph driver that keeps the layers."""
        return self._get_driver()

    def _get_driver(self) -> GraphDriver:
        from winlayers.graphdriver import get_driver

        with self._driver_lock:
            if self._driver is None:
                self._driver = get_driver(
                    self._driver_name, os.fspath(self.root / "layers"), self._driver_options
                )
            return self._driver

    @property
    def cache(self) -> CacheFolder:
        """The folder of what was learnt by looking into images that are not imported."""
        from winlayers.images.cachefolder import CACHE, CacheFolder

        return CacheFolder(self.root / CACHE)

    # -- repair --

    def check(self, *, repair: bool = False, deep: bool = True) -> Iterator[Finding | ImageFinding]:
        """Look for damage in images, layers and containers, and mend what can be mended without guessing.

        Args:
            repair: make derived files again, restore layers from their images' blobs, clean up after mounts
                that are gone, remove leftovers and damaged blobs.
            deep: read everything and compare digests; otherwise only sizes are compared.

        Raises:
            StoreReadOnlyError: *repair* was asked for where the store can only be read.
        """
        from winlayers.images.check import ImageChecker, ImageFinding, leftovers, restore_layer
        from winlayers.layers.portable.service import PortableLayerService

        if repair:
            self.images.require_writable()
        yield from ImageChecker(self.images, repair=repair, deep=deep).run()
        service = getattr(self.driver, "service", None)
        if isinstance(service, PortableLayerService):
            yield from service.check(
                repair=repair, deep=deep, restore=functools.partial(restore_layer, self.images)
            )
        yield from leftovers(self.containers.folder, repair=repair)
        for container in self.containers.containers():
            if self._lacks_layer(container):
                yield ImageFinding(f"container {container.name}", f"its layer {container.id} is missing")

    def _lacks_layer(self, container: Container) -> bool:
        if self.driver.exists(container.id):
            return False
        with self.images.lock(shared=True):  # nobody is removing it now
            return container in self.containers.containers() and not self.driver.exists(container.id)

    # -- images --

    def load(
        self,
        source: str,
        *,
        name: str | None = None,
        platform: Platform | None = None,
        keep_blobs: bool = True,
        registry: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = QUIET,
    ) -> Image:
        """Bring an image into the store.

        Args:
            source: ``oci:FOLDER[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``,
                ``docker://REF``; or a bare folder or archive, told by looking at it.
            name: what to call it; None: what the source calls it.
            platform: what to choose from an index.
            keep_blobs: keep the compressed layers, so that the image can be saved and pushed as it came.
            registry: how registries are reached.

        Raises:
            ImageError: it is not there, not an image for Windows, damaged.
        """
        (image,) = self.load_all(
            source,
            name=name,
            platform=platform,
            keep_blobs=keep_blobs,
            registry=registry,
            progress=progress,
            single=True,
        )
        return image

    def load_all(
        self,
        source: str,
        *,
        name: str | None = None,
        platform: Platform | None = None,
        keep_blobs: bool = True,
        registry: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = QUIET,
        single: bool = False,
    ) -> list[Image]:
        """Like :meth:`load`, but for all images that the source holds (*single*: there must be one)."""
        from winlayers.images.importer import import_image, pick
        from winlayers.images.transports.names import open_source

        reference = _named(name)
        with open_source(source, registry) as opened:
            offers = opened.offers()
            chosen = [pick(offers, opened.name)] if single or name is not None else offers
            return [
                import_image(
                    self.images,
                    opened,
                    offer,
                    reference=reference,
                    platform=platform,
                    keep_blobs=keep_blobs,
                    progress=progress,
                )
                for offer in chosen
            ]

    def save(
        self,
        image: str,
        target: str,
        *,
        foreign: bool = False,
        registry: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = QUIET,
    ) -> Descriptor:
        """Write an image somewhere, every blob as it came; return its manifest's descriptor.

        Args:
            target: ``oci:FOLDER[:TAG]``, ``oci-archive:FILE[:TAG]``, ``docker-archive:FILE[:REF]``,
                ``docker://REF``.
            foreign: also send layers that may not be distributed to a registry.
        """
        from winlayers.images.exporter import mount_candidates, save_image
        from winlayers.images.transports.names import open_target

        found = self.images.find(image)
        candidates = mount_candidates(self.images, found, target)
        with open_target(target, registry, mount_from=candidates) as opened:
            return save_image(self.images, found, opened, foreign=foreign, progress=progress)

    def pull(
        self,
        reference: str,
        *,
        name: str | None = None,
        platform: Platform | None = None,
        keep_blobs: bool = True,
        registry: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = QUIET,
    ) -> Image:
        """Bring an image from a registry into the store: :meth:`load` of ``docker://REFERENCE``."""
        return self.load(
            f"docker://{Reference.parse(reference.removeprefix('docker://'))}",
            name=name,
            platform=platform,
            keep_blobs=keep_blobs,
            registry=registry,
            progress=progress,
        )

    def push(
        self,
        image: str,
        reference: str | None = None,
        *,
        foreign: bool = False,
        registry: RegistryOptions = DEFAULT_OPTIONS,
        progress: Progress = QUIET,
    ) -> Descriptor:
        """Send an image to a registry; *reference* None: to where its own name says."""
        target = Reference.parse((image if reference is None else reference).removeprefix("docker://"))
        return self.save(image, f"docker://{target}", foreign=foreign, registry=registry, progress=progress)

    def image(self, name: str) -> Image:
        """The image of that reference, id or digest."""
        return self.images.find(name)

    def layers(self, image: str) -> list[LayerInfo]:
        """The image's layers, base first."""
        return self.images.layers(self.images.find(image))

    def export_layer(self, layer: str) -> TarStream:
        """An image layer's or container's layer as an uncompressed tar; the caller closes it."""
        from winlayers.errors import ContainerNotFoundError, LayerNotFoundError

        try:
            identifier = self.images.find_layer(layer)
        except LayerNotFoundError:
            try:
                identifier = self.containers.find(layer).id
            except ContainerNotFoundError:
                identifier = ""
            if not identifier:
                raise
        return self.driver.diff(identifier)

    def tag(self, image: str, name: str) -> Image:
        """Give an image another name."""
        return self.images.tag(image, Reference.parse(name))

    def remove_image(self, name: str, *, force: bool = False) -> Removed:
        """Take a reference away, and with its last one the image; see :meth:`ImageStore.remove`."""
        return self.images.remove(name, force=force)

    def prune(self, *, everything: bool = False) -> Removed:
        """Remove what nobody needs; see :meth:`ImageStore.prune`.

        Leftovers of containers go as well, and what was learnt by looking in, unless somebody does so.
        """
        removed = self.images.prune(everything=everything)
        durable.sweep(self.containers.folder)
        self.driver.cleanup()
        removed.cache_freed = self.cache.clear()
        return removed

    # -- new images from others --

    def append(
        self,
        image: str,
        sources: Sequence[str | os.PathLike[str]],
        name: str | None = None,
        options: AppendOptions | None = None,
        *,
        author: str = "",
        message: str = "",
        compression: str = "gzip",
        level: int | None = None,
        progress: Progress = QUIET,
    ) -> Image:
        """Put folders and tars onto an image; see :func:`winlayers.images.editing.append_image`."""
        from winlayers.images.editing.append import append_image

        return append_image(
            self.images,
            self.images.find(image),
            sources,
            _named(name),
            options,
            author=author,
            message=message,
            compression=compression,
            level=level,
            progress=progress,
        )

    def configure(
        self, image: str, changes: ConfigChanges, name: str | None = None, *, message: str = ""
    ) -> Image:
        """Make an image with another configuration; see :class:`winlayers.images.editing.ConfigChanges`."""
        from winlayers.images.editing.configure import configure_image

        reference = _named(name)
        return configure_image(self.images, self.images.find(image), reference, changes, message=message)

    def squash(
        self,
        image: str,
        name: str | None = None,
        *,
        first: int | None = None,
        force: bool = False,
        compression: str = "gzip",
        level: int | None = None,
        progress: Progress = QUIET,
    ) -> Image:
        """Make one layer of an image's upper ones; see :func:`~winlayers.images.editing.squash_image`."""
        from winlayers.images.editing.squash import squash_image

        return squash_image(
            self.images,
            self.images.find(image),
            _named(name),
            first=first,
            force=force,
            compression=compression,
            level=level,
            progress=progress,
        )

    def rebase(
        self,
        image: str,
        onto: str,
        name: str | None = None,
        *,
        old_base: str | None = None,
        force: bool = False,
        progress: Progress = QUIET,
    ) -> Image:
        """Put an image's own layers on another base; see :func:`~winlayers.images.editing.rebase_image`."""
        from winlayers.images.editing.rebase import rebase_image

        return rebase_image(
            self.images,
            self.images.find(image),
            self.images.find(onto),
            _named(name),
            old_base=old_base,
            force=force,
            progress=progress,
        )

    # -- containers --

    def create(
        self, image: str, *, name: str | None = None, storage_opt: Mapping[str, str] | None = None
    ) -> Container:
        """Make a container of an image."""
        return self.containers.create(
            lambda: self.images.find(image), name=name, storage_opt=storage_opt, reference=image
        )

    def container(self, name: str) -> Container:
        """The container of that name or id."""
        return self.containers.find(name)

    def mount(self, container: str, target: str | None = None) -> str:
        """Mount a container's drive C:, writable; return its path."""
        return self.containers.mount(container, target)

    def unmount(self, container: str) -> None:
        """Unmount a container."""
        self.containers.unmount(container)

    def changes(self, container: str) -> list[Change]:
        """What a container changes relative to its image."""
        return self.containers.changes(container)

    def commit(
        self,
        container: str,
        name: str | None = None,
        *,
        author: str = "",
        message: str = "",
        created_by: str = "",
        change_run: Callable[[dict[str, object]], None] | None = None,
        compression: str = "gzip",
        level: int | None = None,
        progress: Progress = QUIET,
    ) -> Image:
        """Make an image of a container; see :func:`winlayers.containers.commit.commit_container`."""
        from winlayers.containers.commit import commit_container

        return commit_container(
            self.images,
            self.containers.find(container),
            _named(name),
            author=author,
            message=message,
            created_by=created_by,
            change_run=change_run,
            compression=compression,
            level=level,
            progress=progress,
        )

    def remove_container(self, name: str, *, force: bool = False) -> Container:
        """Remove a container with its changes."""
        return self.containers.remove(name, force=force)


def _named(name: str | None) -> Reference | None:
    """The reference of what may have none."""
    return None if name is None else Reference.parse(name)


def open_store(
    root: str | os.PathLike[str] | None = None, *, driver: str = "", driver_options: Sequence[str] = ()
) -> Store:
    """Open a store, made if there is none.

    Args:
        root: its folder; None: :func:`default_root`.
        driver: the graph driver of a new store.
        driver_options: ``key=value`` texts for the driver, such as ``mount=extract``.

    Raises:
        StoreError: there is something else in that folder, or a store of a newer version.
    """
    return Store(default_root() if root is None else root, driver=driver, driver_options=driver_options)
