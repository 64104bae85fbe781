"""Scenarios that dockerd's graph driver was run in, as in :mod:`tests.windows.wine.scenarios`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.windows.wine.scenarios import (
    EXPORTED,
    FEW,
    LAYERS,
    PARENTS,
    VIEW,
    Operation,
    Scenario,
    Setup,
    failing_in_turn,
)


def chain_file(*names: str) -> bytes:
    """A ``layerchain.json``."""
    return json.dumps([f"C:\\lay\\{name}" for name in names], separators=(",", ":")).encode()


CHAINS: Setup = {
    "base/layerchain.json": b"null",
    "p1/layerchain.json": chain_file("base"),
    "p2/layerchain.json": chain_file("p1", "base"),
    "p3/layerchain.json": chain_file("p2", "p1", "base"),
    "box/layerchain.json": chain_file("p3", "p2", "p1", "base"),
}
DRIVEN: Setup = {**FEW, **CHAINS, "box/sandbox.vhdx": b""}
APPLIED: Setup = {**PARENTS, **CHAINS}
READ: Setup = {
    **FEW,
    **CHAINS,
    **{
        f"box{path[3:]}": content
        for path, content in EXPORTED.items()
        if path.startswith("new/") and not isinstance(content, str)
    },
}
SYSTEMS = json.dumps(
    [
        {"Id": "vm1", "IsRuntimeTemplate": True, "RuntimeImagePath": "C:\\lay\\box\\UtilityVM"},
        {"Id": "vm2", "IsRuntimeTemplate": False, "RuntimeImagePath": "C:\\lay\\box\\UtilityVM"},
        {"Id": "vm3", "IsRuntimeTemplate": True, "RuntimeImagePath": "C:\\lay\\other"},
    ]
)


def _op(name: str, layer_id: str = "", parent: str = "", **more: Any) -> Operation:
    return {"op": name, "id": layer_id, "parent": parent, **more}


def _driver() -> list[Scenario]:
    asked = ("GetLayerMountPath#1", "GetLayerMountPath#2")
    mounts = [_op("get", "box"), _op("get", "box"), _op("put", "box"), _op("put", "box")]
    diff = [_op("get", "box"), _op("diff", "box"), _op("put", "box")]
    delta = [_op("create", "new", "p3"), _op("apply", "new", "p3", tar=LAYERS["a layer on four parents"][1])]
    vm = [_op("create", "new", "p3"), _op("apply", "new", "p3", tar=LAYERS["a utility VM with links"][1])]
    base = [_op("create", "new"), _op("apply", "new", tar=LAYERS["a base layer"][1])]
    writable = [
        Scenario(s.name, s.setup, s.operations, s.settings, ["size=0"])
        for s in failing_in_turn(
            "create_read_write",
            DRIVEN,
            [_op("create_rw", "new", "p3")],
            (*asked, "NameToGuid#1", "NameToGuid#4", "CreateSandboxLayer"),
        )
    ]
    leftovers: Setup = {**DRIVEN, "x-removing/Files/a": b"", "y-removing/b": b"", "z-removing": b"a file"}
    return [
        *failing_in_turn("create", DRIVEN, [_op("create", "new", "p3")], (*asked, "CreateLayer")),
        *failing_in_turn("create without parent", DRIVEN, [_op("create", "new")], ("CreateLayer",)),
        *writable,
        *failing_in_turn(
            "get and put",
            DRIVEN,
            mounts,
            ("ActivateLayer", "NameToGuid#1", "NameToGuid#4", "PrepareLayer", *asked),
        ),
        *failing_in_turn(
            "get and put of a view",
            DRIVEN,
            mounts,
            ("UnprepareLayer#1", "DeactivateLayer#1"),
            MOUNT_PATH=VIEW,
        ),
        *failing_in_turn("put alone", DRIVEN, [_op("put", "box")], ()),
        *failing_in_turn(
            "remove", DRIVEN, [_op("remove", "box")], ("HcsEnumerateComputeSystems", "DestroyLayer")
        ),
        *failing_in_turn(
            "remove beside a template VM",
            DRIVEN,
            [_op("remove", "box")],
            (
                "HcsOpenComputeSystem",
                "HcsRegisterComputeSystemCallback",
                "HcsTerminateComputeSystem",
                "HcsCloseComputeSystem",
            ),
            SYSTEMS=SYSTEMS,
        ),
        *failing_in_turn("remove what is not there", DRIVEN, [_op("remove", "nothing")], ()),
        *failing_in_turn("cleanup", leftovers, [_op("cleanup")], ("DestroyLayer#1",)),
        *failing_in_turn(
            "diff", READ, diff, ("UnprepareLayer#1", "ExportLayer", "BackupRead#1"), TOMBSTONES="a.txt|dir"
        ),
        *failing_in_turn(
            "diff of what is not mounted", READ, diff[1:2], ("UnprepareLayer", "ExportLayer", "PrepareLayer")
        ),
        *failing_in_turn(
            "diff of a base layer", DRIVEN, [_op("get", "base"), _op("diff", "base"), _op("put", "base")], ()
        ),
        *failing_in_turn(
            "changes",
            READ,
            [_op("changes", "box")],
            ("ActivateLayer", "ExportLayer", "DeactivateLayer"),
            TOMBSTONES="dir",
        ),
        *failing_in_turn("changes of a base layer", DRIVEN, [_op("changes", "base")], ()),
        *failing_in_turn(
            "apply_diff",
            APPLIED,
            delta,
            ("GetLayerMountPath#3", "GetLayerMountPath#4", "NameToGuid#2", "ImportLayer"),
        ),
        *failing_in_turn("apply_diff of a utility VM", APPLIED, vm, ("ProcessUtilityImage",)),
        *failing_in_turn("apply_diff of a base layer", DRIVEN, base, ("ProcessBaseImage",)),
        *failing_in_turn(
            "exists", DRIVEN, [_op("exists", "p1"), _op("exists", "nothing")], ("LayerExists#1",)
        ),
        *failing_in_turn(
            "what was applied is read",
            APPLIED,
            [*delta, _op("exists", "new"), *[{**o, "id": "new"} for o in diff]],
            (),
        ),
        Scenario(
            "an alternate id",
            {**DRIVEN, "alias/layerID": b"p2"},
            [_op("get", "alias"), _op("put", "alias"), _op("exists", "alias"), _op("create", "new", "alias")],
        ),
    ]


DOCKERD: Sequence[Scenario] = _driver()
