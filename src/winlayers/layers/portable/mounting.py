"""The store's mounts: which layers are in use, how, and since which boot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence

from winlayers import durable
from winlayers.errors import (
    LayerCorruptError,
    LayerInUseError,
    LayerNotFoundError,
    LayerNotMountedError,
    MountError,
    StoreError,
    StoreReadOnlyError,
    WinlayersError,
)
from winlayers.layers.portable import disk
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.chain import ChainViews
from winlayers.layers.portable.mounts import mountinfo, select
from winlayers.layers.portable.mounts.contract import (
    MountAttempt,
    Mounter,
    MountRecord,
    MountRequest,
    UpperEntry,
)
from winlayers.layers.portable.store import LayerRecord, LayerStore
from winlayers.layers.portable.view import View

_PATIENCE = 1.0
"""Seconds that a sweep waits for the lock of what looks abandoned.

The child of a command just killed may hold it until it becomes another program: on a busy machine, a moment.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What ``mount.json`` says of a layer that is in use.

    Attributes:
        mount: how it is mounted; None: it is only active, for as long as its owner lives.
        attempt: the mount that the owner began to make.
        owner: the process (:func:`winlayers.durable.owner`) that wrote this.
        boot_id: the boot during which it did.
    """

    mount: MountRecord | None
    attempt: MountAttempt | None
    owner: str
    boot_id: str


class Mounts:
    """Mounts layers' views and keeps account of them on disk, so that any process can take them down."""

    def __init__(self, store: LayerStore, views: ChainViews, kind: str) -> None:
        self._store = store
        self._views = views
        self._kind = kind
        self._targets: dict[str, str] = {}

    def status(self) -> list[tuple[str, str]]:
        """The mount kind that new scratch layers get, and why."""
        try:
            mounter, reason = select.pick(self._kind)
        except MountError as error:
            return [("Mounts", f"none ({error})")]
        return [("Mounts", f"{mounter.kind} ({reason})")]

    def set_target(self, layer_id: str, folder: str | None) -> None:
        """Where the layer's next mount in this process is to appear; None: in the layer's own folder."""
        if folder is None:
            self._targets.pop(layer_id, None)
        else:
            self._targets[layer_id] = os.path.abspath(folder)

    # -- the four calls --

    def activate(self, layer_id: str) -> None:
        """Mark the layer as in use."""
        with self._lock(layer_id):
            self._store.require_staying(layer_id)
            if self._use(layer_id) is None:
                self._clear(layer_id)  # what a crash or reboot left
                self._write(layer_id, None)

    def prepare(self, layer_id: str, parents: Sequence[str]) -> None:
        """Mount the layer's view on the chain *parents*.

        Raises:
            LayerNotMountedError: the layer is not active.
            LayerInUseError: it is mounted already.
            LayerCorruptError: a scratch layer's parents are not known.
        """
        with self._lock(layer_id), disk.writing():
            record = self._store.record(layer_id)
            use = self._use(layer_id)
            if use is None:
                raise LayerNotMountedError("the layer is not active", layer=layer_id)
            if use.mount is not None:
                raise LayerInUseError(f"the layer is mounted at {use.mount.target}", layer=layer_id)
            top = layer_id if record.kind == "layer" else parents[0] if parents else None
            if top is None:
                raise LayerCorruptError(f"a scratch layer without {folders.CHAIN}", layer=layer_id)
            mounter, _ = self._mounter(record)
            with self._target(layer_id) as target:
                mount = self._mount(layer_id, record, mounter, top, target)
                try:
                    self._write(layer_id, mount)
                except BaseException:
                    mounter.unmount(mount)  # nobody could find it later
                    raise

    @contextlib.contextmanager
    def _target(self, layer_id: str) -> Iterator[str]:
        """The folder to mount at, made where it is missing, and removed again if the block fails."""
        own = os.path.join(self._store.folder(layer_id), folders.MOUNT_DIR)
        target = self._targets.pop(layer_id, own)
        made = target != own and not os.path.isdir(target)
        os.makedirs(target, exist_ok=True)
        try:
            yield target
        except BaseException:
            if made:
                with contextlib.suppress(OSError):
                    os.rmdir(target)
            raise

    def _mount(
        self, layer_id: str, record: LayerRecord, mounter: Mounter, top: str, target: str
    ) -> MountRecord:
        """Make the mount; on disk is first what is needed to take it down, should this process be killed."""
        if sys.platform == "linux" and mountinfo.mounts_at(target):
            raise MountError("something is mounted there already", path=target)
        state = None
        if record.kind == "scratch":
            state = os.path.join(self._store.folder(layer_id), folders.SCRATCH)
            os.makedirs(state, exist_ok=True)
        with self._views.open(top) as view:
            if state is not None and record.mount_kind is None:
                self._store.update_record(layer_id, mount_kind=mounter.kind)
            found = os.stat(target)
            identity = f"{found.st_dev}:{found.st_ino}"
            attempt = MountAttempt(mounter.kind, target, identity, state, self._store.folder(top))
            self._write(layer_id, None, attempt)
            try:
                return mounter.mount(MountRequest(view, self._store.folder(top), target, state, record.size))
            except BaseException:
                with contextlib.suppress(StoreError):  # on a full disk; the first error counts
                    self._write(layer_id, None)
                    if state is not None and record.mount_kind is None and not os.listdir(state):
                        # Nothing is kept as that kind keeps it, so the next attempt may be of another.
                        self._store.update_record(layer_id, mount_kind=None)
                raise

    def unprepare(self, layer_id: str) -> None:
        """Take the layer's view down; a layer that has none is fine."""
        if self._store.find(layer_id) is None:
            return
        try:
            with self._lock(layer_id):
                target = self._unmount(layer_id)
                if target is not None:
                    # A diff prepares again while the layer is active: the view is to come back where it was.
                    self._targets.setdefault(layer_id, target)
        except StoreReadOnlyError:
            if self.is_prepared(layer_id):
                raise

    def deactivate(self, layer_id: str) -> None:
        """Mark the layer as no longer in use; one that is still mounted is unmounted first."""
        if self._store.find(layer_id) is None:
            return
        # In one go: what another process mounts once the view is down must not be forgotten here.
        with self._lock(layer_id), disk.writing():
            self._unmount(layer_id)
            self._targets.pop(layer_id, None)
            self._clear(layer_id)  # also what a process that was killed had begun to mount

    def _unmount(self, layer_id: str) -> str | None:
        """Take the view down, if there is one; where it was."""
        use = self._use(layer_id)
        if use is None or use.mount is None:
            return None
        select.by_kind(use.mount.kind).unmount(use.mount)
        try:
            self._write(layer_id, None)
        except StoreError:
            # On a full disk: a layer that can't be said to be active any more is not.
            with disk.writing(), contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(layer_id))
        return use.mount.target

    # -- questions --

    def is_prepared(self, layer_id: str) -> bool:
        """Whether the layer's view is mounted now."""
        if self._store.find(layer_id) is None:
            return False
        use = self._use(layer_id)
        return use is not None and use.mount is not None

    def path(self, layer_id: str) -> str:
        """The root of the layer's view, else the layer's folder."""
        use = self._use(layer_id)
        return use.mount.target if use is not None and use.mount is not None else self._store.folder(layer_id)

    @contextlib.contextmanager
    def inactive(self, layer_id: str) -> Iterator[bool]:
        """See that the layer is neither active nor mounted while the block runs; False: there is none.

        What a process that was killed has left mounted is taken down.

        Raises:
            LayerInUseError: it is in use.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._lock(layer_id))
            except LayerNotFoundError:
                yield False  # and what comes under that id from now on is another layer
                return
            self.require_inactive(layer_id)
            self._clear(layer_id)
            yield True

    def require_inactive(self, layer_id: str) -> None:
        """Raise LayerInUseError if the layer is in use now; only `inactive` sees that it stays so."""
        use = self._use(layer_id)
        if use is None:
            return
        if use.mount is not None:
            raise LayerInUseError(
                f"the layer is mounted at {use.mount.target}", layer=layer_id, hint="unmount it first"
            )
        raise LayerInUseError("the layer is active", layer=layer_id, hint="deactivate it first")

    def changes(self, layer_id: str, view: View) -> Iterator[UpperEntry]:
        """What the scratch layer changes."""
        record = self._store.record(layer_id)
        if record.mount_kind is None:
            return iter(())
        state = os.path.join(self._store.folder(layer_id), folders.SCRATCH)
        return self._told(layer_id, select.by_kind(record.mount_kind).changes(view, state))

    def _told(self, layer_id: str, entries: Iterator[UpperEntry]) -> Iterator[UpperEntry]:
        """The entries; what goes away while they are looked for is another's doing, and said to be."""
        with self._store.staying(layer_id):
            try:
                yield from entries
            except (FileNotFoundError, NotADirectoryError) as error:
                if not os.path.isdir(self._store.folder(layer_id)):
                    raise
                raise LayerInUseError(
                    "the layer was changed while it was read", layer=layer_id, hint="unmount it first"
                ) from error

    def stale(self, layer_id: str) -> MountRecord | MountAttempt | None:
        """A mount that is gone (a crash, a reboot) or was never finished, for ``check`` to clean up.

        One that another process is working on is none, whatever can be seen of it.  Who can only read the
        store may be where nothing is seen of its owner's mounts and processes: only another boot tells then.
        """
        use = self._stale_use(layer_id)
        if use is None:
            return None
        try:
            with self._lock(layer_id, timeout=_PATIENCE):
                use = self._stale_use(layer_id)
        except LayerInUseError:
            return None
        except StoreReadOnlyError:
            if use is None or use.boot_id == mountinfo.boot_id():
                return None
        except StoreError:
            pass  # a lock that can't be had: what was seen must do
        return None if use is None else use.mount or use.attempt

    def clear_stale(self, layer_id: str) -> bool:
        """Clean up after a mount that is gone or was never finished; False: there is none.

        Raises:
            LayerInUseError: another process works on it.
            MountError: it can't be cleaned up.
        """
        if self._stale_use(layer_id) is None:
            return False  # without waiting for whoever uses it
        with self._lock(layer_id, timeout=_PATIENCE):
            if self._stale_use(layer_id) is None:
                return False
            self._clear(layer_id)
            return True

    def _stale_use(self, layer_id: str) -> Use | None:
        use = self._read(layer_id)
        return None if use is None or self._is_current(use) else use

    def _clear(self, layer_id: str) -> None:
        """Forget the layer's use, cleaning up after a mount that is gone or was never finished.

        The caller holds the lock on the layer's use.
        """
        use = self._read(layer_id)
        if use is None:
            return
        if use.mount is not None:
            select.by_kind(use.mount.kind).unmount(use.mount)
        elif use.attempt is not None and use.boot_id == mountinfo.boot_id():
            select.by_kind(use.attempt.kind).recover(use.attempt)
        with disk.writing(), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(layer_id))

    def sweep(self) -> list[str]:
        """Clean up after all mounts that are gone or were never finished; the layers that they were of.

        What can't be cleaned up is left, for ``check`` to report; so is what another process works on.
        """
        swept = []
        for layer_id in self._store.ids():
            if not os.path.exists(self._path(layer_id)):
                continue
            try:
                if self.clear_stale(layer_id):
                    swept.append(layer_id)
            except WinlayersError:
                continue
        return swept

    # -- on disk --

    def _mounter(self, record: LayerRecord) -> tuple[Mounter, str]:
        if record.mount_kind is not None:
            # Its changes are kept as that kind keeps them, so it stays with it.
            return select.pick(record.mount_kind)
        return select.pick(self._kind, need_size=record.size is not None)

    @contextlib.contextmanager
    def _lock(self, layer_id: str, *, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock on the layer's use.

        Raises:
            LayerNotFoundError: the layer's folder is gone.
            LayerInUseError: another process holds the lock for longer than *timeout* seconds.
            StoreError: it can't be taken at all.
        """
        folder = self._store.folder(layer_id)
        lock = durable.FileLock(os.path.join(folder, folders.MOUNT_LOCK), timeout=timeout)
        try:
            if not lock.acquire():
                raise LayerInUseError("another process works on the layer's mount", layer=layer_id)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise LayerNotFoundError("no such layer", layer=layer_id) from error
            raise
        try:
            yield
        finally:
            lock.release()

    def _path(self, layer_id: str) -> str:
        return os.path.join(self._store.folder(layer_id), folders.MOUNT_RECORD)

    def _write(self, layer_id: str, mount: MountRecord | None, attempt: MountAttempt | None = None) -> None:
        value = {
            "mount": None if mount is None else dataclasses.asdict(mount),
            "attempt": None if attempt is None else dataclasses.asdict(attempt),
            "owner": durable.owner(),
            "boot_id": mountinfo.boot_id(),
        }
        with disk.writing():
            durable.write_json(self._path(layer_id), value)

    def _read(self, layer_id: str) -> Use | None:
        try:
            with open(self._path(layer_id), "rb") as file:
                value = json.load(file)
            mount, attempt = value["mount"], value["attempt"]
            return Use(
                None if mount is None else MountRecord(**mount),
                None if attempt is None else MountAttempt(**attempt),
                str(value["owner"]),
                value["boot_id"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LayerCorruptError(
                f"{folders.MOUNT_RECORD} can't be read: {error}", layer=layer_id
            ) from error

    def _use(self, layer_id: str) -> Use | None:
        """How the layer is in use now; what a crash or reboot left is as good as nothing."""
        use = self._read(layer_id)
        return use if use is not None and self._is_current(use) else None

    @staticmethod
    def _is_current(use: Use) -> bool:
        if use.mount is None:
            return use.boot_id == mountinfo.boot_id() and durable.owner_lives(use.owner)
        if select.by_kind(use.mount.kind).is_alive(use.mount):
            return True
        # A mount in another name space can't be seen from here, but is in use for as long as that is.
        space = use.mount.details.get("name_space", "")
        elsewhere = space and space != mountinfo.name_space() and use.mount.boot_id == mountinfo.boot_id()
        return bool(elsewhere) and mountinfo.lives(space)
