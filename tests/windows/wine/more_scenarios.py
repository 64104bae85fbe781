"""More scenarios of both kinds: long chains, odd names, attributes and streams, files that nobody may write,
other failures than denied access."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

from tests.windows.wine.driver_scenarios import APPLIED, DRIVEN, READ, chain_file
from tests.windows.wine.scenarios import (
    BASE_HEAD,
    CHAIN,
    FEW,
    HIVES,
    LAYERS,
    NEW,
    PARENTS,
    SECURITY,
    VIEW,
    VM_HEAD,
    Operation,
    Scenario,
    Setup,
    failing_in_turn,
    tar_of,
)
from winlayers.win32.reparse import MountPoint, SymbolicLink

# -- long chains ------------------------------------------------------------------------------------

TWENTY = [f"q{number}" for number in range(20)]
LONG_CHAIN = [f"C:\\lay\\{name}" for name in TWENTY]
TWENTY_PARENTS: Setup = {
    **{f"{name}/Files/{name}.txt": name.encode() for name in TWENTY},
    **{f"{name}/layerchain.json": chain_file(*TWENTY[number + 1 :]) for number, name in enumerate(TWENTY)},
    "q0/UtilityVM/Files/keep.txt": b"keep",
}
ON_TWENTY = tar_of(
    ("folders", "Files", "Files/d"),
    ("file", "Files/d/own.txt", b"own"),
    ("link", "Files/near.txt", "Files/q0.txt"),
    ("link", "Files/far.txt", "Files/q19.txt"),
    ("gone", "Files/q7.txt"),
    *HIVES,
    *VM_HEAD,
    ("link", "UtilityVM/Files/kept.txt", "UtilityVM/Files/keep.txt"),
)

# -- layers -----------------------------------------------------------------------------------------

NAMES = (
    *(
        "\u00fcml\u00e4ut",
        "e\u0301",
        "\u65e5\u672c",
        "\U0001f600",
        "\u0130\u0131",
        ".hidden",
        ".whx",
        "L" * 200,
    ),
    *("a;b", "{1}", "%41", "x.$wcidirs$x", "tombstones.txt", "~1", "a$b"),
)
UNREACHABLE = ("CON", "dot.", "blank ")
"""What the stand-in's ImportLayer can't copy, since it names files as programs do."""

DEEP = "/".join(["Files", *(f"a directory {number}" for number in range(30))])
ATTRIBUTES = (0x27, 0x80, 0x100, 0x120, 0x220, 0x820, 0x1020, 0x2020, 0x4020, 0x20020, 0x400020)

ODD_LAYERS = {
    "names of all kinds": tar_of(
        ("folders", "Files", *(f"Files/{name}d" for name in (*NAMES, *UNREACHABLE))),
        *(("file", f"Files/{name}d/{name}", name.encode()) for name in (*NAMES, *UNREACHABLE)),
        *(("link", f"Files/{number} {name}", f"Files/{name}d/{name}") for number, name in enumerate(NAMES)),
        *HIVES,
    ),
    "a path of 500 characters": tar_of(
        ("folders", *(DEEP[:end] for end in range(len(DEEP)) if DEEP[end] == "/"), DEEP),
        ("file", f"{DEEP}/file", b"deep"),
        ("link", f"{DEEP}/link", f"{DEEP}/file"),
        *HIVES,
    ),
    "attributes of all kinds": tar_of(
        ("folders", "Files"),
        *(("file", f"Files/{value:x}", b"data", {"attributes": value}) for value in ATTRIBUTES),
        *HIVES,
    ),
    "streams of all kinds": tar_of(
        ("folders", "Files"),
        ("file", "Files/none", b""),
        ("file", "Files/stream alone", b"", ("stream", b"s")),
        ("file", "Files/empty stream", b"data", ("stream", b"")),
        ("file", "Files/many", b"d" * 70_000, ("\u00fc x", b"s" * 70_000), ("b", b"b"), {"ea": True}),
        ("file", "Files/eas alone", b"", {"ea": True}),
        *HIVES,
        ("file", "Hives/Software_Delta", b"h" * 140_000),
    ),
    "links out of and into a utility VM": tar_of(
        ("folders", "Files"),
        ("file", "Files/mine.txt", b"mine"),
        *HIVES,
        *VM_HEAD,
        ("file", "UtilityVM/Files/new.txt", b"new"),
        ("link", "UtilityVM/Files/from-files.txt", "Files/mine.txt"),
        ("link", "UtilityVM/Files/from-parent.txt", "Files/only-p3.txt"),
        ("link", "Files/from-vm.txt", "UtilityVM/Files/new.txt"),
        ("link", "Files/from-old-vm.txt", "UtilityVM/Files/keep.txt"),
    ),
    "a file of a utility VM that becomes a directory": tar_of(
        ("folders", "Files"),
        *HIVES,
        *VM_HEAD,
        ("folders", "UtilityVM/Files/old.txt"),
        ("file", "UtilityVM/Files/old.txt/in.txt", b"in"),
    ),
    "a directory of a utility VM that becomes a file": tar_of(
        ("folders", "Files"), *HIVES, *VM_HEAD, ("file", "UtilityVM/Files/sub", b"file")
    ),
    "directories alone": tar_of(("folders", "Files", "Files/deep", "Files/deep/er", "Files/n"), *HIVES),
    "nothing": tar_of(),
}

NOBODY_WRITES = tar_of(
    *BASE_HEAD,
    ("folders", "Files/d"),
    ("file", "Files/d/read-only", b"1", {"attributes": 0x21}),
    *VM_HEAD,
    *(
        ("file", f"UtilityVM/Files/{name}", name.encode(), {"attributes": 0x27})
        for name in ("kept", "new", "gone")
    ),
)
ON_NOBODY_WRITES = tar_of(
    ("folders", "Files", "Files/d"),
    ("link", "Files/d/linked", "Files/d/read-only"),
    *HIVES,
    *VM_HEAD,
    ("file", "UtilityVM/Files/new", b"mine", {"attributes": 0x21}),
    ("gone", "UtilityVM/Files/gone"),
    ("link", "UtilityVM/Files/link", "UtilityVM/Files/kept"),
    ("link", "UtilityVM/Files/new", "UtilityVM/Files/kept"),
)

# -- exports ----------------------------------------------------------------------------------------

DATA, EA, DESCRIPTOR, ALTERNATE, OBJECT_ID, REPARSE = 1, 2, 3, 4, 7, 8


def backup(stream: int, data: bytes, name: str = "") -> bytes:
    """One stream of a backup stream."""
    units = name.encode("utf-16-le")
    return struct.pack("<IIqI", stream, 0, len(data), len(units)) + units + data


def transport(attributes: int, *streams: bytes) -> bytes:
    """A file of the transport format."""
    return struct.pack("<I", attributes) + b"".join(streams)


_EAS = struct.pack("<IBBH", 0, 0, 3, 5) + b"ONE\0value"
_SECURED = backup(DESCRIPTOR, SECURITY)
_LINK = backup(REPARSE, SymbolicLink.to("..\\elsewhere").to_bytes())
_MOUNT = backup(REPARSE, MountPoint.to("C:\\target").to_bytes())
ODD_EXPORT: Setup = {
    **FEW,
    "new/Files.$wcidirs$": transport(0x10, _SECURED),
    "new/Files/all": transport(0x27, _SECURED, backup(EA, _EAS), backup(DATA, b"d" * 70_000)),
    "new/Files/streams": transport(
        0x20, backup(DATA, b"data"), backup(ALTERNATE, b"a", ":s:$DATA"), backup(ALTERNATE, b"", ":e:$DATA")
    ),
    "new/Files/id": transport(0x20, backup(OBJECT_ID, bytes(64)), backup(DATA, b"id")),
    "new/Files/late": transport(0x20, backup(DATA, b"late"), backup(EA, _EAS)),
    "new/Files/point": transport(0x420, _SECURED, _LINK),
    "new/Files/mount": transport(0x420, _MOUNT),
    "new/Files/no data": transport(0x20, _SECURED),
    "new/Files/sparse": transport(0x220, backup(DATA, b"one range")),
    **{f"new/Files/{name}": transport(0x20, backup(DATA, name.encode())) for name in NAMES},
    "new/Files/z all": "new/Files/all",
    "new/Files/dir/plain": transport(0x20, backup(DATA, b"in a directory")),
    "new/Files/dir/twin": "new/Files/streams",
    "new/Files/dir.$wcidirs$": transport(0x16, _SECURED, backup(EA, _EAS)),
    "new/Hives/System_Delta": b"h" * 70_000,
    "new/UtilityVM/Files/u": b"u" * 70_000,
    "new/UtilityVM/Files/u2": "new/UtilityVM/Files/u",
    "new/UtilityVM/SystemTemplate.vhdx": b"disk",
    "new/sandbox.vhdx": b"",
}
ODD_BASE: Setup = {
    **{f"new/Files/{name}": name.encode() for name in NAMES},
    **{f"new/Files/{name}d/in": b"" for name in NAMES},
    "new/Files/big": b"b" * 200_000,
    "new/Files/big link": "new/Files/big",
    "new/UtilityVM/Files/empty": None,
    "new/UtilityVM/Files/other link": "new/Files/big",
    "new/bcd.bak": b"kept",
}


def _hcsshim() -> list[Scenario]:
    imports = [
        Scenario(
            f"import of {name}",
            {**PARENTS, "new": None},
            [{"op": "import", "layer": NEW, "chain": CHAIN, "tar": tar}],
        )
        for name, tar in ODD_LAYERS.items()
    ]
    child = [
        {"op": "import", "layer": "C:\\lay\\locked", "chain": [], "tar": NOBODY_WRITES},
        {"op": "import", "layer": NEW, "chain": ["C:\\lay\\locked"], "tar": ON_NOBODY_WRITES},
    ]
    on_twenty = {"layer": NEW, "chain": LONG_CHAIN}
    exported = {
        **TWENTY_PARENTS,
        **{path: content for path, content in ODD_EXPORT.items() if path[:4] == "new/"},
    }
    return [
        *imports,
        Scenario("import on files that nobody may write", {"locked": None, "new": None}, child),
        *failing_in_turn(
            "import on twenty parents",
            {**TWENTY_PARENTS, "new": None},
            [{"op": "import", **on_twenty, "tar": ON_TWENTY}],
            ("NameToGuid#20", "ImportLayer", "ProcessUtilityImage"),
        ),
        *failing_in_turn(
            "create on twenty parents", TWENTY_PARENTS, [{"op": "create", **on_twenty}], ("NameToGuid#20",)
        ),
        *failing_in_turn(
            "export on twenty parents",
            exported,
            [{"op": "export", **on_twenty}],
            ("NameToGuid#20", "NameToGuid#21", "NameToGuid#40"),
            TOMBSTONES="q3.txt|dir\\\u00fcber",
        ),
        Scenario("export of all kinds", ODD_EXPORT, [{"op": "export", "layer": NEW, "chain": CHAIN[:1]}]),
        Scenario(
            "export of a base layer of all kinds", ODD_BASE, [{"op": "export", "layer": NEW, "chain": []}]
        ),
    ]


# -- the graph driver --------------------------------------------------------------------------------

OTHER_CODES = ("0x80070002", "0x80070020", "0x80070091", "0x80004005")


def _op(name: str, layer_id: str = "", parent: str = "", **more: str) -> Operation:
    return {"op": name, "id": layer_id, "parent": parent, **more}


def _other_codes(name: str, setup: Setup, operations: Sequence[Operation], rule: str) -> list[Scenario]:
    return [
        Scenario(f"{name}, {rule} failing with {code}", setup, operations, {"FAIL": f"{rule}={code}"})
        for code in OTHER_CODES
    ]


def _template(name: str) -> dict[str, object]:
    return {"Id": name, "IsRuntimeTemplate": True, "RuntimeImagePath": "C:\\lay\\box\\UtilityVM"}


def _dockerd() -> list[Scenario]:
    on_twenty: Setup = {**TWENTY_PARENTS, "box/layerchain.json": chain_file(*TWENTY), "box/sandbox.vhdx": b""}
    mounts = [_op("get", "box"), _op("put", "box")]
    applied = [_op("create", "new", "q0"), _op("apply", "new", "q0", tar=ON_TWENTY)]
    leftovers: Setup = {**DRIVEN, **{f"{name}-removing/f": b"" for name in "xyz"}}
    remove = [_op("remove", "box")]
    two = json.dumps([_template("one"), _template("two")])
    chains = {
        "blanks in it": b'[ "C:\\\\lay\\\\p1" ,\n "C:\\\\lay\\\\base" ]\n',
        "a parent twice": chain_file("p1", "p1"),
        "no parents": b"[]",
        "null": b"null",
        "no list": b"{}",
    }
    again = [_op("get", "box"), _op("get", "box"), _op("put", "box"), _op("put", "box"), _op("put", "box")]
    delta = LAYERS["a layer on four parents"][1]
    return [
        *failing_in_turn("get and put on twenty parents", on_twenty, mounts, ("NameToGuid#20",)),
        *failing_in_turn(
            "apply_diff on twenty parents",
            on_twenty,
            [*applied, _op("diff", "new"), _op("changes", "new")],
            (),
        ),
        *(
            Scenario(
                f"get and put of a layer whose chain has {name}",
                {**DRIVEN, "odd/layerchain.json": content, "odd/sandbox.vhdx": b""},
                [_op("get", "odd"), _op("put", "odd"), _op("remove", "odd")],
            )
            for name, content in chains.items()
        ),
        Scenario("get and put of layers without a disk", DRIVEN, [_op("get", "p2"), _op("put", "p2")]),
        Scenario("get and put of a base layer", DRIVEN, [_op("get", "base"), _op("put", "base")]),
        Scenario("get of what is not there", DRIVEN, [_op("get", "nothing"), _op("put", "nothing")]),
        Scenario("put once too often", DRIVEN, again, {"MOUNT_PATH": VIEW}),
        Scenario("get again after it failed", DRIVEN, again, {"FAIL": "PrepareLayer#1=0x80070005"}),
        Scenario("get of a view without a path", DRIVEN, mounts, {"MOUNT_PATH": "-"}),
        *_other_codes("get and put", DRIVEN, mounts, "ActivateLayer"),
        *_other_codes("get and put", DRIVEN, mounts, "PrepareLayer"),
        *_other_codes("get and put", DRIVEN, mounts, "UnprepareLayer"),
        *_other_codes("remove", DRIVEN, [*remove, _op("exists", "box"), _op("cleanup")], "DestroyLayer#1"),
        *_other_codes("cleanup", leftovers, [_op("cleanup")], "DestroyLayer#2"),
        *_other_codes("diff of what is not mounted", READ, [_op("diff", "box")], "UnprepareLayer"),
        *_other_codes("create", DRIVEN, [_op("create", "new", "p3"), _op("exists", "new")], "CreateLayer"),
        *failing_in_turn(
            "remove beside two template VMs",
            DRIVEN,
            remove,
            ("HcsOpenComputeSystem#2", "HcsTerminateComputeSystem#2", "HcsGetComputeSystemProperties#1"),
            SYSTEMS=two,
        ),
        Scenario("diff twice", READ, [_op("diff", "box"), _op("diff", "box")], {"TOMBSTONES": "a.txt"}),
        Scenario(
            "a layer on a layer that is mounted",
            APPLIED,
            [
                _op("get", "p3"),
                _op("create", "new", "p3"),
                _op("apply", "new", "p3", tar=delta),
                _op("put", "p3"),
            ],
        ),
        Scenario(
            "no tar at all",
            DRIVEN,
            [_op("create", "new"), _op("apply", "new", tar="")],
        ),
    ]


HCSSHIM: Sequence[Scenario] = _hcsshim()
DOCKERD: Sequence[Scenario] = _dockerd()
