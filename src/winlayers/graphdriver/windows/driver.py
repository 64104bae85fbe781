"""The Windows graph driver in both flavours, on any layer service.

What each function of Docker's driver became, and what was learnt since, is in ``docs/graphdriver.md``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, TypeAlias

from winlayers.durable import remove_tree
from winlayers.errors import (
    DriverOptionError,
    LayerExistsError,
    LayerInUseError,
    LayerNotFoundError,
    LayerNotMountedError,
    MountError,
    StoreError,
    WinlayersError,
)
from winlayers.graphdriver.contract import (
    Change,
    CreateOptions,
    CustomImageInfo,
    FileGetCloser,
    GraphDriver,
)
from winlayers.graphdriver.windows import chain as files
from winlayers.graphdriver.windows import custom_images, removal, transport
from winlayers.graphdriver.windows.changes import changes_from_reader, like_the_reference
from winlayers.graphdriver.windows.docker_layer import apply_layer
from winlayers.graphdriver.windows.getters import FolderFiles, ServiceFiles
from winlayers.graphdriver.windows.mounts import PREPARE_LOCK, MountTable
from winlayers.graphdriver.windows.options import parse_driver_options, parse_storage_options
from winlayers.layers.service import ChangeKind, DriverInfo, Flavour, LayerService, TarStream

ServiceFactory: TypeAlias = Callable[[DriverInfo, Mapping[str, str]], LayerService]
"""Makes the layer service for a home, from the driver options that the driver itself doesn't know.

Raises :class:`~winlayers.errors.DriverOptionError` for options that the service doesn't know either.
"""

INIT_SUFFIX = "-init"
"""How the id of the layer ends that Docker puts between an image and a container."""

_NAMES = {Flavour.FILTER: "windowsfilter", Flavour.DIFF: "windowsdiff"}
_log = logging.getLogger("winlayers.graphdriver")


def init_filter(home: str, options: Sequence[str] = ()) -> WindowsGraphDriver:
    """Initialise ``windowsfilter`` at *home*; see :class:`WindowsGraphDriver` for options and errors."""
    return WindowsGraphDriver(home, Flavour.FILTER, options)


def init_diff(home: str, options: Sequence[str] = ()) -> WindowsGraphDriver:
    """Initialise ``windowsdiff`` at *home*; see :class:`WindowsGraphDriver` for options and errors."""
    return WindowsGraphDriver(home, Flavour.DIFF, options)


class WindowsGraphDriver(GraphDriver):
    """Docker's Windows graph driver.

    Attributes:
        info: home and flavour.
        service: the layer service that does the work.
    """

    def __init__(
        self,
        home: str,
        flavour: Flavour = Flavour.FILTER,
        options: Sequence[str] = (),
        *,
        service_factory: ServiceFactory | None = None,
    ) -> None:
        """Initialise the driver; the folder *home* is made if it is missing.

        Args:
            options: ``size=SIZE`` (of a scratch layer; 127GB), ``reference_changes=true`` (``changes`` tells
                no additions), ``service=auto|portable|hcs``; all others go to the layer service (the portable
                one knows ``mount=KIND``, the native one ``hives=complete|as-is``).
            service_factory: what makes the layer service; by default the host compute service on Windows and
                the portable store elsewhere.

        Raises:
            DriverOptionError: an option is unknown or malformed.
            StoreError: the home can't hold layers (it is on ReFS).
            UnsupportedError: the layer service can't work here.
        """
        self._options = parse_driver_options(options)
        self.info = DriverInfo(os.path.abspath(home), flavour)
        if service_factory is None:
            service_factory = _default_factory(self._options.service)
        _log.debug("initialising %s at %s", _NAMES[flavour], self.info.home)
        self.service = service_factory(self.info, self._options.service_options)
        self.service.check_home()
        try:
            os.makedirs(self.info.home, exist_ok=True)
        except OSError as error:
            raise StoreError(f"can't make the home: {error.strerror}", path=self.info.home) from error
        self._mounts = MountTable(self.service.is_prepared, self._view_path)

    @property
    def name(self) -> str:
        return _NAMES[self.info.flavour]

    def status(self) -> list[tuple[str, str]]:
        # The first pair is all that the reference reports.
        return [("Windows", ""), *self.service.status()]

    def cleanup(self) -> None:
        removal.sweep_removed(self.service)

    # -- the life of a layer --

    def exists(self, layer_id: str) -> bool:
        try:
            return self.service.exists(self._resolve(layer_id))
        except (WinlayersError, OSError) as error:
            _log.debug("can't tell whether layer %r exists: %s", layer_id, error)
            return False

    def create(self, layer_id: str, parent_id: str = "", options: CreateOptions | None = None) -> None:
        if parent_id and self._resolve(parent_id).endswith(INIT_SUFFIX):
            self.create_read_write(layer_id, parent_id, options)
            return
        files.check_new_id(layer_id)
        parse_storage_options(options.storage_opt if options else {})
        chain = self._chain_on(parent_id)
        self.service.create(layer_id, self._resolve(parent_id) if parent_id else "")
        with self._destroying_on_failure(layer_id):
            self._finish_creation(layer_id, parent_id, chain)

    def create_read_write(
        self, layer_id: str, parent_id: str = "", options: CreateOptions | None = None
    ) -> None:
        files.check_new_id(layer_id)
        size = parse_storage_options(options.storage_opt if options else {}) or self._options.size
        chain = self._chain_on(parent_id)
        if not chain:
            raise LayerNotFoundError("a writable layer needs a parent layer", layer=layer_id)
        self.service.create_scratch(layer_id, chain)
        with self._destroying_on_failure(layer_id):
            if size:
                self.service.expand_scratch(layer_id, size)
            self._finish_creation(layer_id, parent_id, chain)

    def _chain_on(self, parent_id: str) -> list[str]:
        """The chain of a layer that is to stand on *parent_id*."""
        if not parent_id:
            return []
        self._check_parent(parent_id)
        resolved = self._resolve(parent_id)
        chain = files.read_chain(self.service.layer_path(resolved))
        if resolved.endswith(INIT_SUFFIX):
            return chain
        return [self._parent_folder(resolved), *chain]

    def _parent_folder(self, resolved: str) -> str:
        """The folder by which children name the layer.

        The service is asked as the reference asks it, so that what refuses there refuses here.  Its answer
        counts for a layer that lies outside of the home (a shared base image); for one that is mounted it
        would be the view.
        """
        asked = self._mount_path(resolved)
        folder = self.service.layer_path(resolved)
        return folder if os.path.isdir(folder) else asked

    def _check_parent(self, parent_id: str) -> None:
        if not os.path.lexists(self.layer_path(parent_id)):
            raise LayerNotFoundError("the parent layer is not there", layer=parent_id)

    def _finish_creation(self, layer_id: str, parent_id: str, chain: list[str]) -> None:
        if parent_id:
            # Again, since the parent may have been removed meanwhile.
            self._check_parent(parent_id)
        files.write_chain(self.service.layer_path(layer_id), chain)

    @contextlib.contextmanager
    def _destroying_on_failure(self, layer_id: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # Where another process removed it, what is there now is not the layer that was made here.
            if not (isinstance(error, LayerNotFoundError) and error.layer == layer_id):
                self._attempt("destroy", layer_id, lambda: self.service.destroy(layer_id))
            raise

    def remove(self, layer_id: str) -> None:
        resolved = self._resolve(layer_id)
        with self._mounts.unused(resolved) as unused:
            if not unused:
                raise LayerInUseError("the layer is mounted or being read", layer=layer_id)
            self._remove(layer_id, resolved)

    def _remove(self, layer_id: str, resolved: str) -> None:
        children = files.children(self.info.home, resolved)
        if children:
            raise LayerInUseError(f"other layers stand on it: {', '.join(children[:3])}", layer=layer_id)
        try:
            remove_tree(os.path.join(self.info.home, files.BCD_FOLDER, resolved))
        except (WinlayersError, OSError) as error:
            _log.warning("can't remove the saved boot files of layer %s: %s", layer_id, error)
        removal.remove_layer(self.service, resolved)
        if resolved != layer_id:
            # The reference leaves the folder with the alternate id behind.
            removal.remove_layer(self.service, layer_id)

    # -- use --

    def get(self, layer_id: str, mount_label: str = "") -> str:
        _log.debug("get %s", layer_id)
        resolved = self._resolve(layer_id)
        return self._mounts.acquire(resolved, lambda: self._mount(resolved))

    def put(self, layer_id: str) -> None:
        _log.debug("put %s", layer_id)
        resolved = self._resolve(layer_id)
        self._mounts.release(resolved, lambda: self._unmount(resolved))

    def _mount(self, resolved: str) -> str:
        service, path = self.service, self.service.layer_path(resolved)
        files.read_chain(path)  # one that can't be read ends it before the first call, as in the reference
        service.activate(resolved)
        try:
            # Again: an active layer stays, but what was there before may have been another, or nothing.
            self._prepare(resolved, files.read_chain(path))
            try:
                return self._view_path(resolved)
            except BaseException as error:
                if not self._is_anothers(error, resolved):
                    self._attempt("unprepare", resolved, lambda: service.unprepare(resolved))
                raise
        except BaseException as error:
            if not self._is_anothers(error, resolved):
                self._attempt("deactivate", resolved, lambda: service.deactivate(resolved))
            raise

    def _unmount(self, resolved: str) -> None:
        self.service.unprepare(resolved)
        self.service.deactivate(resolved)

    def _prepare(self, resolved: str, chain: Sequence[str]) -> None:
        with PREPARE_LOCK:
            self.service.prepare(resolved, chain)

    def _is_anothers(self, error: BaseException, resolved: str) -> bool:
        """Whether a view can't be had because another process mounted the layer meanwhile, or ended its use.

        Who has it active or in a view from then on is another: that is not to be ended here.  A parent that
        is missing says nothing of that.
        """
        doings = (LayerInUseError, LayerNotMountedError, LayerNotFoundError)
        return self.service.tells_views and isinstance(error, doings) and error.layer == resolved

    def _view_path(self, resolved: str) -> str:
        """Where the view is that was there just now.

        Raises:
            LayerNotMountedError: another process has ended it since.  The layer's own folder is not given in
                its place: whoever wrote to that would do harm.
        """
        if self.info.flavour is not Flavour.FILTER or not self.service.tells_views:
            return self._mount_path(resolved)
        while (path := self.service.mount_path(resolved)) == self.service.layer_path(resolved):
            if not self.service.is_prepared(resolved):
                raise LayerNotMountedError("another process has unmounted the layer", layer=resolved)
        return path or self.service.layer_path(resolved)

    def _mount_path(self, resolved: str) -> str:
        return self.service.mount_path(resolved) or self.service.layer_path(resolved)

    def _attempt(self, what: str, layer_id: str, call: Callable[[], None]) -> None:
        """Do what cleans up after a failure; its own failure is logged, so that the first one is raised."""
        try:
            call()
        except (WinlayersError, OSError) as error:
            _log.warning("failed to %s layer %s: %s", what, layer_id, error)

    # -- content --

    def diff(self, layer_id: str, parent_id: str = "") -> TarStream:
        resolved, chain = self._resolve_existing(layer_id)
        mounted = self._mounts.suspend(resolved, lambda: self.service.unprepare(resolved), always=True)
        # Where the service can't tell who has the layer in a view, one who let it be taken out had it in one.
        again = not mounted and not self.service.tells_views
        try:
            if self.service.streaming:
                stream = self.service.export_tar(resolved, chain)
            else:
                stream = transport.export_packed(self.service, resolved, chain)
        except BaseException:
            self._resume(resolved, chain, again=again)
            raise
        return _ResumingStream(stream, lambda: self._resume(resolved, chain, again=again))

    def _resume(self, resolved: str, chain: Sequence[str], *, again: bool = False) -> None:
        """End a suspend; *again*: prepare the layer for whoever else had it prepared."""
        if again:
            self._attempt("prepare", resolved, lambda: self._prepare(resolved, chain))
        try:
            self._mounts.resume(resolved, lambda: self._prepare(resolved, chain))
        except (WinlayersError, OSError) as error:
            if self._is_anothers(error, resolved):
                _log.info("layer %s is not mounted again after it was read: %s", resolved, error)
                return
            _log.error("layer %s could not be mounted again after it was read: %s", resolved, error)
            self._attempt("deactivate", resolved, lambda: self.service.deactivate(resolved))

    def changes(self, layer_id: str, parent_id: str = "") -> list[Change]:
        with self._changes(layer_id) as changes:
            return sorted(changes)

    def diff_size(self, layer_id: str, parent_id: str = "") -> int:
        with self._changes(layer_id) as changes:
            return sum(change.size for change in changes if change.kind is not ChangeKind.DELETE)

    @contextlib.contextmanager
    def _changes(self, layer_id: str) -> Iterator[Iterable[Change]]:
        resolved, chain = self._resolve_existing(layer_id)
        indexed = self.service.changes(resolved, chain)
        if indexed is not None:
            yield like_the_reference(indexed) if self._options.reference_changes else indexed
            return
        # A mounted layer is taken out of its view while it is read, one that is not is activated alone
        # (source: the 2016 driver does the first, today's the second).
        mounted = self._mounts.suspend(resolved, lambda: self.service.unprepare(resolved))
        try:
            if not mounted:
                self.service.activate(resolved)
            try:
                with self.service.open_listing(resolved, chain) as reader:
                    yield changes_from_reader(reader)
            finally:
                if not mounted:
                    self._attempt("deactivate", resolved, lambda: self.service.deactivate(resolved))
        finally:
            self._resume(resolved, chain)

    def apply_diff(self, layer_id: str, parent_id: str, diff: BinaryIO | TarStream) -> int:
        files.check_new_id(layer_id)
        if self.info.flavour is Flavour.DIFF:
            # The destination is the home and not the layer's folder, as in the reference: such a layer's tar
            # begins with the layer's id.
            if parent_id:
                self._resolve(parent_id)
            return apply_layer(self.info.home, diff)
        chain = self._chain_of_filled(parent_id)
        if self.service.streaming:
            size = self.service.import_tar(layer_id, chain, diff)
        else:
            size = transport.import_packed(self.service, layer_id, chain, diff)
        with self._destroying_on_failure(layer_id):
            files.write_chain(self.service.layer_path(layer_id), chain)
        return size

    def _chain_of_filled(self, parent_id: str) -> list[str]:
        if not parent_id:
            return []
        resolved, chain = self._resolve_existing(parent_id)
        return [self._parent_folder(resolved), *chain]

    def diff_getter(self, layer_id: str) -> FileGetCloser:
        resolved, chain = self._resolve_existing(layer_id)
        if self.service.streaming:
            return ServiceFiles(self.service, resolved)
        return FolderFiles(transport.export_folder(self.service, resolved, chain), resolved)

    # -- where things are --

    def get_metadata(self, layer_id: str) -> dict[str, str]:
        path = self.layer_path(layer_id)
        return {**self.service.facts(os.path.basename(path)), "dir": path}

    def layer_chain(self, layer_id: str) -> list[str]:
        return self._resolve_existing(layer_id)[1]

    def layer_path(self, layer_id: str) -> str:
        return self.service.layer_path(files.check_id(layer_id))

    def get_custom_image_infos(self) -> list[CustomImageInfo]:
        infos = custom_images.parse_shared_images(self.service.shared_base_images())
        for info in infos:
            folder_name = files.last_part(info.path)
            if files.read_alternate_id(self.layer_path(info.id)) == folder_name:
                continue  # known since an earlier call
            try:
                self.service.create(info.id, "")
            except LayerExistsError:
                pass  # made by a call that was interrupted before the next line
            with self._destroying_on_failure(info.id):
                files.write_alternate_id(self.layer_path(info.id), folder_name)
        return infos

    def _resolve(self, layer_id: str) -> str:
        """The name that the layer service knows the layer by."""
        return files.read_alternate_id(self.layer_path(layer_id)) or layer_id

    def _resolve_existing(self, layer_id: str) -> tuple[str, list[str]]:
        """The service's name and the parent chain of a layer that must be there."""
        resolved = self._resolve(layer_id)
        if not self.service.is_there(resolved):
            raise LayerNotFoundError("there is no such layer", layer=layer_id)
        return resolved, files.read_chain(self.service.layer_path(resolved))


class _ResumingStream:
    """A layer's tar whose end, however it comes, mounts the layer again."""

    def __init__(self, stream: TarStream, resume: Callable[[], None]) -> None:
        self._stream = stream
        self._resume: Callable[[], None] | None = resume

    def read(self, n: int = -1, /) -> bytes:
        return self._stream.read(n)

    def close(self) -> None:
        resume, self._resume = self._resume, None
        if resume is None:
            return
        try:
            self._stream.close()
        finally:
            resume()

    def __enter__(self) -> _ResumingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _default_factory(choice: str) -> ServiceFactory:
    if choice == "auto":
        choice = "hcs" if sys.platform == "win32" else "portable"
    # Imported only now: each service brings what the other's users don't need.
    return _native_service if choice == "hcs" else _portable_service


def _native_service(info: DriverInfo, options: Mapping[str, str]) -> LayerService:
    _refuse_options(options.keys() - {"hives"})
    hives = options.get("hives", "complete")
    if hives not in ("complete", "as-is"):
        raise DriverOptionError(f"hives={hives}: it can be complete or as-is")
    from winlayers.layers.native.service import NativeLayerService

    return NativeLayerService(info, complete_hives=hives == "complete")


def _portable_service(info: DriverInfo, options: Mapping[str, str]) -> LayerService:
    _refuse_options(options.keys() - {"mount"})
    from winlayers.layers.portable.mounts import select
    from winlayers.layers.portable.service import PortableLayerService

    mount = options.get("mount", select.AUTO)
    if mount != select.AUTO:
        try:
            select.by_kind(mount)
        except MountError as error:
            raise DriverOptionError(f"mount={mount}: {error.message}", hint=error.hint) from error
    return PortableLayerService(info, mount=mount)


def _refuse_options(names: Iterable[str]) -> None:
    for name in sorted(names):
        raise DriverOptionError(
            f"unknown driver option {name!r}",
            hint="there are size, reference_changes, service; mount for the portable service, hives for hcs",
        )
