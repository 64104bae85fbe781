"""The store's mounts: which layers are in use, how, and since which boot."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence

from winlayers import durable
from winlayers.errors import (
    LayerCorruptError,
    LayerInUseError,
    LayerNotFoundError,
    LayerNotMountedError,
    MountError,
)
from winlayers.layers.portable import store as folders
from winlayers.layers.portable.chain import ChainViews
from winlayers.layers.portable.mounts import select
from winlayers.layers.portable.mounts.contract import Mounter, MountRecord, MountRequest, UpperEntry
from winlayers.layers.portable.store import LayerStore
from winlayers.layers.portable.view import View


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What ``mount.json`` says: a layer is active, and mounted if ``mount`` is there."""

    mount: MountRecord | None
    owner: int
    boot_id: str


class Mounts:
    """Mounts layers' views and keeps account of them on disk, so that any process can take them down."""

    def __init__(self, store: LayerStore, views: ChainViews, kind: str, options: Mapping[str, str]) -> None:
        self._store = store
        self._views = views
        self._kind = kind
        self._options = options
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
        self._store.record(layer_id)
        with self._lock(layer_id):
            self._store.require_staying(layer_id)
            if self._use(layer_id) is None:
                self.clear(layer_id)  # what a crash or reboot left
                self._write(layer_id, None)

    def prepare(self, layer_id: str, parents: Sequence[str]) -> None:
        """Mount the layer's view on the chain *parents*.

        Raises:
            LayerNotMountedError: the layer is not active.
            LayerInUseError: it is mounted already.
        """
        record = self._store.record(layer_id)
        with self._lock(layer_id):
            use = self._use(layer_id)
            if use is None:
                raise LayerNotMountedError("the layer is not active", layer=layer_id)
            if use.mount is not None:
                raise LayerInUseError(f"the layer is mounted at {use.mount.target}", layer=layer_id)
            top = layer_id if record.kind == "layer" else parents[0] if parents else None
            if top is None:
                raise LayerNotFoundError("a scratch layer needs a parent", layer=layer_id)
            mounter, _ = self._mounter(layer_id)
            folder = self._store.folder(layer_id)
            own_target = os.path.join(folder, folders.MOUNT_DIR)
            target = self._targets.pop(layer_id, own_target)
            made = target != own_target and not os.path.isdir(target)
            os.makedirs(target, exist_ok=True)
            state = os.path.join(folder, folders.SCRATCH) if record.kind == "scratch" else None
            if state is not None:
                os.makedirs(state, exist_ok=True)
            try:
                with self._views.open(top) as view:
                    view_dir = self._store.folder(top)
                    request = MountRequest(view, view_dir, target, state, record.size)
                    if state is not None and record.mount_kind is None:
                        self._store.update_record(layer_id, mount_kind=mounter.kind)
                    mount = mounter.mount(request)
            except BaseException:
                if made:
                    with contextlib.suppress(OSError):
                        os.rmdir(target)
                raise
            self._write(layer_id, mount)

    def unprepare(self, layer_id: str) -> None:
        """Take the layer's view down; a layer that has none is fine."""
        if self._store.find(layer_id) is None:
            return
        with self._lock(layer_id):
            use = self._use(layer_id)
            if use is None or use.mount is None:
                return
            select.by_kind(use.mount.kind).unmount(use.mount)
            self._write(layer_id, None)
            # A diff prepares again while the layer is active: the view is to come back where it was.
            self._targets.setdefault(layer_id, use.mount.target)

    def deactivate(self, layer_id: str) -> None:
        """Mark the layer as no longer in use; one that is still mounted is unmounted first."""
        if self._store.find(layer_id) is None:
            return
        self.unprepare(layer_id)
        self._targets.pop(layer_id, None)
        with self._lock(layer_id), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(layer_id))

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

    def require_inactive(self, layer_id: str) -> None:
        """Raise LayerInUseError if the layer is active or mounted."""
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
        return select.by_kind(record.mount_kind).changes(view, state)

    def stale(self, layer_id: str) -> MountRecord | None:
        """The record of a mount that is gone (a crash, a reboot), for ``check`` to clean up."""
        use = self._read(layer_id)
        if use is None or use.mount is None:
            return None
        return None if select.by_kind(use.mount.kind).is_alive(use.mount) else use.mount

    def clear(self, layer_id: str) -> None:
        """Forget the layer's use, cleaning up after a mount that is gone."""
        use = self._read(layer_id)
        if use is not None and use.mount is not None:
            select.by_kind(use.mount.kind).unmount(use.mount)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(layer_id))

    # -- on disk --

    def _mounter(self, layer_id: str) -> tuple[Mounter, str]:
        record = self._store.record(layer_id)
        if record.mount_kind is not None:
            # Its changes are kept as that kind keeps them, so it stays with it.
            return select.pick(record.mount_kind)
        return select.pick(self._kind, need_size=record.size is not None)

    def _lock(self, layer_id: str) -> durable.FileLock:
        return durable.FileLock(os.path.join(self._store.folder(layer_id), folders.MOUNT_LOCK))

    def _path(self, layer_id: str) -> str:
        return os.path.join(self._store.folder(layer_id), folders.MOUNT_RECORD)

    def _write(self, layer_id: str, mount: MountRecord | None) -> None:
        value = {
            "mount": None if mount is None else dataclasses.asdict(mount),
            "owner": os.getpid(),
            "boot_id": boot_id(),
        }
        durable.write_json(self._path(layer_id), value)

    def _read(self, layer_id: str) -> Use | None:
        try:
            with open(self._path(layer_id), "rb") as file:
                value = json.load(file)
            mount = value["mount"]
            return Use(None if mount is None else MountRecord(**mount), value["owner"], value["boot_id"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise LayerCorruptError(
                f"{folders.MOUNT_RECORD} can't be read: {error}", layer=layer_id
            ) from error

    def _use(self, layer_id: str) -> Use | None:
        """How the layer is in use now; what a crash or reboot left is as good as nothing."""
        use = self._read(layer_id)
        if use is None:
            return None
        if use.mount is not None:
            alive = select.by_kind(use.mount.kind).is_alive(use.mount)
            return use if alive else None
        return use if use.boot_id == boot_id() and durable.is_alive(use.owner) else None


def boot_id() -> str:
    """A text that differs after each boot; "" where the system has none to offer."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
