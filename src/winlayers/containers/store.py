"""The containers of a store: made, found, mounted, looked at, removed."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from winlayers import durable
from winlayers.containers.names import check_name, fresh_name
from winlayers.containers.record import Container
from winlayers.errors import (
    ContainerError,
    ContainerExistsError,
    ContainerNotFoundError,
    LayerInUseError,
    LayerNotFoundError,
    MountError,
    StoreReadOnlyError,
    UnsupportedError,
    WinlayersError,
)
from winlayers.graphdriver.contract import CreateOptions
from winlayers.images.config import now
from winlayers.images.image import Foundation
from winlayers.images.reference import familiar

if TYPE_CHECKING:
    from winlayers.graphdriver import Change, GraphDriver
    from winlayers.images.image import Image
    from winlayers.layers.portable.service import PortableLayerService

_log = logging.getLogger("winlayers.containers")
_MIN_PREFIX = 4
_UNFINISHED = ".unfinished"


class ContainerStore:
    """Containers by name and id."""

    def __init__(
        self,
        root: Path,
        driver: Callable[[], GraphDriver],
        lock: Callable[[], durable.FileLock],
    ) -> None:
        """Open the containers below *root*.

        Args:
            root: the store's folder.
            driver: gives the graph driver.
            lock: gives the store's exclusive lock.
        """
        self._folder = root / "containers"
        self._folder.mkdir(exist_ok=True)
        self._driver = driver
        self._lock = lock
        if any(self._folder.glob(f"*{_UNFINISHED}")):
            with contextlib.suppress(StoreReadOnlyError):  # who can write will come by here, too
                self._finish_alone()

    def _finish_alone(self) -> None:
        """Finish what was begun, unless another process holds the lock: it works on one, or will come by."""
        locked = self._lock()
        locked.timeout = 0
        if locked.acquire():
            try:
                self._finish()
            finally:
                locked.release()

    @property
    def folder(self) -> str:
        """Where the records lie, under hidden names while they are written."""
        return os.fspath(self._folder)

    # -- records --

    def containers(self) -> list[Container]:
        """All containers, the newest first."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(Container.from_json(path.read_bytes(), f"the container record {path}"))
            except FileNotFoundError:
                continue  # removed by another process just now
        return sorted(found, key=lambda c: (c.created, c.id), reverse=True)

    def find(self, name: str) -> Container:
        """The container of that name, id, or start of an id.

        Raises:
            ContainerNotFoundError: there is none, or several.
        """
        containers = self.containers()
        for container in containers:
            if name in (container.name, container.id):
                return container
        found = [c for c in containers if len(name) >= _MIN_PREFIX and c.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ContainerNotFoundError(f"several containers have an id that starts with {name!r}")
        raise ContainerNotFoundError(f"no such container: {name}", hint="winlayers ps lists containers")

    def in_use(self) -> dict[str, Foundation]:
        """What each container stands on, by name."""
        return {found.name: Foundation(found.image_digest, found.layers) for found in self.containers()}

    def _path(self, container_id: str) -> Path:
        return self._folder / f"{container_id}.json"

    @contextlib.contextmanager
    def _noted(self, container_id: str) -> Iterator[None]:
        """Keep a note that the container is being made or removed, for :meth:`_finish` after a crash."""
        note = self._folder / f"{container_id}{_UNFINISHED}"
        durable.write_bytes(os.fspath(note), b"")
        try:
            yield
        except BaseException:
            with contextlib.suppress(WinlayersError, OSError):  # the next process will try again
                self._finish()
            raise
        note.unlink()

    def _finish(self) -> None:
        """Finish what processes that were killed began; the caller holds the lock, so nobody is at it.

        A layer without a record goes (its container was never made, or is removed), and so does a record
        without a layer (a removal that got so far).
        """
        driver = self._driver()
        for note in self._folder.glob(f"*{_UNFINISHED}"):
            container_id = note.name.removesuffix(_UNFINISHED)
            record = self._path(container_id)
            has_layer = driver.exists(container_id)
            if has_layer and not record.exists():
                try:
                    driver.remove(container_id)
                except LayerInUseError:
                    continue  # somebody is about to find out that it is gone; the next process tries again
            elif not has_layer:
                record.unlink(missing_ok=True)
            note.unlink()

    # -- life --

    def create(
        self,
        find_image: Callable[[], Image],
        *,
        name: str | None = None,
        storage_opt: Mapping[str, str] | None = None,
        reference: str = "",
    ) -> Container:
        """Make a container: a scratch layer on an image's layers.

        Args:
            find_image: finds the image; called under the store's lock, so that it can't vanish.
            name: the container's name; None: a random one.
            storage_opt: options of the scratch layer (``size``: ``20G``).
            reference: how the user called the image.

        Raises:
            ContainerExistsError: the name is taken.
            LayerNotFoundError: a layer of the image is missing from the store.
            DriverOptionError: an option is unknown or malformed.
        """
        driver = self._driver()
        with self._lock():
            taken = {container.name: container.id for container in self.containers()}
            chosen = fresh_name(taken) if name is None else check_name(name)
            if chosen in taken:
                raise ContainerExistsError(
                    f"the name {chosen} is taken by container {taken[chosen][:12]}",
                    hint="rm it first, or take another --name",
                )
            image = find_image()
            layers = image.layer_ids
            if not driver.exists(layers[-1]):
                raise LayerNotFoundError(
                    "the image's layer is not in the store; load the image again", layer=layers[-1]
                )
            container = Container(
                id=secrets.token_hex(32),
                name=chosen,
                image=familiar(image.references[0]) if image.references else reference,
                image_digest=image.digest,
                image_id=image.id,
                layers=tuple(layers),
                created=now(),
                storage_opt=dict(storage_opt or {}),
            )
            self._finish()
            with self._noted(container.id):
                driver.create_read_write(container.id, layers[-1], CreateOptions(storage_opt or {}))
                try:
                    durable.write_json(os.fspath(self._path(container.id)), container.to_json())
                except BaseException:
                    driver.remove(container.id)
                    raise
        return container

    def remove(self, name: str, *, force: bool = False) -> Container:
        """Remove a container with its changes.

        Args:
            force: unmount it first where it is mounted.

        Raises:
            ContainerError: it is mounted.
        """
        container = self.find(name)
        driver = self._driver()
        if self.mount_path(container) is not None:
            if not force:
                raise ContainerError(
                    f"container {container.name} is mounted", hint="umount it first, or use --force"
                )
            driver.put(container.id)
        with self._lock():
            self._finish()
            with self._noted(container.id):
                try:
                    driver.remove(container.id)
                except LayerInUseError as error:
                    hint = "another process works on it" if force else "umount it first, or use --force"
                    raise ContainerError(f"container {container.name} is in use", hint=hint) from error
                self._path(container.id).unlink(missing_ok=True)
        return container

    # -- use --

    def mount(self, name: str, target: str | None = None) -> str:
        """Mount the container's view; return the path of its drive C:.

        Args:
            target: an existing empty folder to mount at; None: a place of the store's own.

        Raises:
            MountError: it can't be mounted, or is mounted elsewhere.
            UnsupportedError: this layer service can't mount at a folder of choice.
        """
        container = self.find(name)
        driver = self._driver()
        if target is not None:
            target = os.path.abspath(target)
            there = self.mount_path(container)
            if there is not None and os.path.realpath(there) != os.path.realpath(target):
                raise MountError(f"container {container.name} is mounted at {there} already")
            if there is None:
                self._set_target(container, target)
        try:
            path = driver.get(container.id)
        except BaseException:
            if target is not None:
                self._set_target(container, None)  # it is not where the next mount is to be
            raise
        if target is not None and os.path.realpath(path) != os.path.realpath(target):
            driver.put(container.id)  # another process was faster: its view stays, our use of it ends
            self._set_target(container, None)
            raise MountError(f"container {container.name} is mounted at {path} already")
        return path

    def unmount(self, name: str) -> Container:
        """Unmount the container's view.

        Raises:
            ContainerError: it is not mounted.
            MountError: it is busy.
        """
        container = self.find(name)
        if self.mount_path(container) is None:
            raise ContainerError(f"container {container.name} is not mounted")
        self._driver().put(container.id)
        return container

    def mount_path(self, container: Container) -> str | None:
        """Where the container is mounted; None: it is not, or the layer service can't tell."""
        service = self._portable()
        if service is None or not service.is_prepared(container.id):
            return None
        return service.mount_path(container.id)

    def _set_target(self, container: Container, target: str | None) -> None:
        if target is not None and not os.path.isdir(target):
            raise MountError(f"there is no folder {target} to mount at")
        if target is not None and os.listdir(target):
            raise MountError(f"the folder {target} is not empty")
        service = self._portable()
        if service is None:
            raise UnsupportedError(
                "this layer service mounts at places of its own only", hint="leave the folder out"
            )
        service.set_mount_target(container.id, target)

    def _portable(self) -> PortableLayerService | None:
        """The portable service under the driver, which can do more than the contract asks for."""
        from winlayers.layers.portable.service import PortableLayerService

        service = getattr(self._driver(), "service", None)
        return service if isinstance(service, PortableLayerService) else None

    def changes(self, name: str) -> list[Change]:
        """What the container changes relative to its image, sorted by path."""
        return self._driver().changes(self.find(name).id)
