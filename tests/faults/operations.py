"""What is interrupted: each operation on a small store, and how to tell whether it was done."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from winlayers.errors import LayerExistsError, WinlayersError
from winlayers.graphdriver.windows import WindowsGraphDriver
from winlayers.layers.portable.check import Checker, Finding
from winlayers.layers.portable.mounts import mountinfo, select
from winlayers.layers.portable.service import PortableLayerService
from winlayers.layers.service import DriverInfo
from winlayers.testing.content import FILE, content, read_all, stream
from winlayers.testing.tars import BASE, DELTA

MOUNT_KINDS = tuple(mounter.kind for mounter in select.mounters())

State = dict[str, tuple[str, ...]]
"""Of each layer: kind, parents, digest of all that it holds."""


def open_service(home: str, mount: str = "auto") -> PortableLayerService:
    """The service as a fresh process has it: the home is checked and swept."""
    service = PortableLayerService(DriverInfo(home), mount=mount)
    service.check_home()
    return service


def chain(service: PortableLayerService, *ids: str) -> list[str]:
    """The folders of the layers."""
    return [service.layer_path(layer_id) for layer_id in ids]


def state_of(service: PortableLayerService) -> State:
    """All that the store's layers say of themselves, read whole."""
    state: State = {}
    for layer_id in service.store.ids():
        record = service.store.record(layer_id)
        parents = service.store.parents(layer_id)
        folders = chain(service, *parents)
        if record.kind == "layer" and record.committed:
            tar = read_all(service.export_tar(layer_id, folders))
            digest = hashlib.sha256(tar).hexdigest()
            assert record.digest == f"sha256:{digest}", f"{layer_id}: the record is of another tar"
        # Without the times, which differ from run to run in what was changed through a mount.
        found = content(service, layer_id, folders)
        held = repr([(path, kind, target, streams) for path, (kind, _, target, streams) in found.items()])
        facts = (record.kind, str(record.committed), str(record.size), ",".join(parents))
        state[layer_id] = (*facts, hashlib.sha256(held.encode("utf-8", "surrogatepass")).hexdigest())
    return state


def check(service: PortableLayerService, *, repair: bool = False) -> list[Finding]:
    """What ``winlayers check`` finds in the store, reading all of it."""
    return list(Checker(service.store, service.views, service.mounts, repair=repair).run())


def mounts_below(home: str) -> list[str]:
    """Where something is mounted in the store."""
    prefix = os.path.realpath(home) + os.sep
    return [mount.target for mount in mountinfo.mounts() if mount.target.startswith(prefix)]


def stray_mounts(service: PortableLayerService) -> list[str]:
    """Where something is mounted, or lies, that the store does not know to be mounted."""
    known = {
        os.path.realpath(service.mount_path(layer_id))
        for layer_id in service.store.ids()
        if service.is_prepared(layer_id)
    }
    places = {os.path.join(service.layer_path(layer_id), "mount") for layer_id in service.store.ids()}
    found = {os.path.realpath(place) for place in places if os.path.isdir(place) and os.listdir(place)}
    return sorted((found | set(mounts_below(service.info.home))) - known)


def hidden_below(home: str) -> list[str]:
    """Everything half done that lies in the store."""
    return [
        os.path.join(root, name)
        for root, folders, files in os.walk(home)
        for name in [*folders, *files]
        if name.startswith(".tmp-") or name.endswith("-removing")
    ]


class UserError(WinlayersError):
    """What a user met, not the store."""


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        setup: makes the store that it starts from.
        run: does it; also again, after it was interrupted or done.
        damage: what is done to derived files of the store before.
        mount: the kind of mount that it needs.
        intermediate: whether states between before and after are fine, too.
    """

    name: str
    setup: Callable[[PortableLayerService], None]
    run: Callable[[PortableLayerService], None]
    damage: Callable[[PortableLayerService], None] | None = None
    intermediate: bool = False
    mount: str | None = None

    def open(self, home: str) -> PortableLayerService:
        """The service, as a fresh process has it."""
        return open_service(home, self.mount or "auto")


def _base(service: PortableLayerService) -> None:
    service.import_tar("base", [], io.BytesIO(BASE))


def _delta(service: PortableLayerService) -> None:
    _base(service)
    with contextlib.suppress(LayerExistsError):
        service.import_tar("delta", chain(service, "base"), io.BytesIO(DELTA))


def _import_base(service: PortableLayerService) -> None:
    with contextlib.suppress(LayerExistsError):
        _base(service)


def _import_delta(service: PortableLayerService) -> None:
    with contextlib.suppress(LayerExistsError):
        service.import_tar("delta", chain(service, "base"), io.BytesIO(DELTA))


def _empty_layer(service: PortableLayerService) -> None:
    _base(service)
    service.create("delta", "base")
    Path(service.layer_path("delta"), "layerID").write_text("other")


def _create(service: PortableLayerService) -> None:
    with contextlib.suppress(LayerExistsError):
        service.create("empty", "base")


def _create_scratch(service: PortableLayerService) -> None:
    with contextlib.suppress(LayerExistsError):
        service.create_scratch("scratch", chain(service, "delta", "base"))
    service.expand_scratch("scratch", 1 << 40)


def _write(service: PortableLayerService) -> None:
    try:
        writer = service.open_writer("written", chain(service, "base"))
    except LayerExistsError:
        return
    with writer:
        writer.add("Files/written.txt", FILE, [stream("", b"written " * 999), stream("s", b"stream")])
        writer.add_link("Files/link", "Files/keep.txt")
        writer.remove("Files/gone.txt")


def _import_folder(service: PortableLayerService) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(LayerExistsError):
        service.export_folder("delta", folder, [])
        service.import_folder("again", folder, chain(service, "base"))


def _destroy(service: PortableLayerService) -> None:
    service.destroy("delta")


def _views(service: PortableLayerService) -> None:
    _delta(service)
    service.views.open("delta").close()


def _remove_by_driver(service: PortableLayerService) -> None:
    driver = WindowsGraphDriver(service.info.home, service_factory=lambda info, options: service)
    driver.cleanup()
    driver.remove("delta")


def _build_view(service: PortableLayerService) -> None:
    service.views.open("delta").close()


def _damage(service: PortableLayerService) -> None:
    for name in ("index.db", "view.db"):
        Path(service.layer_path("delta"), name).write_bytes(b"damaged")


def _repair(service: PortableLayerService) -> None:
    check(service, repair=True)


def _scratch(service: PortableLayerService) -> None:
    _delta(service)
    service.create_scratch("scratch", chain(service, "delta", "base"))


def mounted_use(service: PortableLayerService) -> None:
    """Mount the scratch layer, change files, unmount."""
    parents = chain(service, "delta", "base")
    service.deactivate("scratch")
    service.activate("scratch")
    service.prepare("scratch", parents)
    view = Path(service.mount_path("scratch"))
    try:
        (view / "made.txt").write_bytes(b"made in the view")
        (view / "keep.txt").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"the user's own work failed: {error}") from error
    service.unprepare("scratch")
    service.deactivate("scratch")


def _used_scratch(service: PortableLayerService) -> None:
    _scratch(service)
    mounted_use(service)


def _commit(service: PortableLayerService) -> None:
    driver = WindowsGraphDriver(service.info.home, service_factory=lambda info, options: service)
    with contextlib.suppress(LayerExistsError), contextlib.closing(driver.diff("scratch")) as diff:
        driver.apply_diff("committed", "delta", diff)


def _read_only(service: PortableLayerService) -> None:
    """Mount a layer by itself, look into it, unmount."""
    service.deactivate("delta")
    service.activate("delta")
    service.prepare("delta", chain(service, "base"))
    try:
        assert Path(service.mount_path("delta"), "new.txt").read_bytes() == b"new in the delta"
    except OSError as error:
        raise UserError(f"the user's own work failed: {error}") from error
    service.unprepare("delta")
    service.deactivate("delta")


OPERATIONS = (
    Operation("import a base layer", lambda service: None, _import_base),
    Operation("import a layer with links into its parent", _base, _import_delta),
    Operation("fill an empty layer", _empty_layer, _import_delta),
    Operation("create a layer", _base, _create),
    Operation("create a scratch layer", _delta, _create_scratch, intermediate=True),
    Operation("write a layer", _base, _write),
    Operation("import a folder", _delta, _import_folder),
    Operation("destroy a layer", _views, _destroy),
    Operation("remove a layer through the driver", _views, _remove_by_driver),
    Operation("build a view", _delta, _build_view),
    Operation("repair", _views, _repair, damage=_damage),
    *(
        Operation(
            f"mount, change and unmount by {kind}", _scratch, mounted_use, intermediate=True, mount=kind
        )
        for kind in MOUNT_KINDS
    ),
    *(Operation(f"mount read-only by {kind}", _delta, _read_only, mount=kind) for kind in MOUNT_KINDS),
    *(
        Operation(f"commit a scratch layer kept by {kind}", _used_scratch, _commit, mount=kind)
        for kind in MOUNT_KINDS
    ),
)
