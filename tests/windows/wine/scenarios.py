"""Scenarios that hcsshim was run in, to be run again here.

What it did is in ``recorded/``: the calls, the folders and the results, not a line of its code.  A
scenario is what lies in the home at first, some settings of the stand-in, and operations one after the other.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from winlayers.tar import TarLayerWriter
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.metadata import DataStream, ExtendedAttribute, FileMetadata
from winlayers.win32.reparse import MountPoint, SymbolicLink
from winlayers.win32.security import sddl_to_bytes

Setup: TypeAlias = Mapping[str, bytes | str | None]
"""Below the home: a file's content, another path that the file is a hard link to, or None for a directory."""

Operation: TypeAlias = dict[str, Any]

SECURITY = sddl_to_bytes("O:BAG:SYD:(A;;FA;;;BA)(A;;FA;;;SY)")
TIME = 132_223_104_001_234_560
OLD = 1_600_000_000
"""The time, in seconds, of all that is there at first."""

DENIED = "0x80070005"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One scenario of either kind."""

    name: str
    setup: Setup
    operations: Sequence[Operation]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Sequence[str] = ()


# -- layers -----------------------------------------------------------------------------------------


def layer(build: Callable[[TarLayerWriter], None]) -> str:
    """A layer's tar, in base64."""
    sink = io.BytesIO()
    writer = TarLayerWriter(sink)
    build(writer)
    writer.close()
    return base64.b64encode(sink.getvalue()).decode("ascii")


class Entries:
    """Adds entries of few words to a tar."""

    def __init__(self, writer: TarLayerWriter) -> None:
        self._writer = writer
        self._count = 0

    def _metadata(self, attributes: FileAttributes, **more: Any) -> FileMetadata:
        self._count += 1  # so that no two times are the same
        times = (TIME + self._count * 10, TIME, TIME + self._count * 20, TIME)
        return FileMetadata(attributes, *times, **{"security": SECURITY, **more})

    def folders(self, *paths: str) -> None:
        for path in paths:
            # hcsshim can't take a descriptor for the utility VM's own folder.
            more = {"security": None} if path == "UtilityVM" else {}
            self._writer.add(path, self._metadata(FileAttributes.DIRECTORY, **more), is_directory=True)

    def file(
        self,
        path: str,
        data: bytes = b"data",
        *streams: tuple[str, bytes],
        attributes: int = 0x20,
        ea: bool = False,
    ) -> None:
        eas = (ExtendedAttribute("EA", b"value"),) if ea else ()
        parts = [DataStream(name, len(body), (body,)) for name, body in (("", data), *streams)]
        self._writer.add(path, self._metadata(FileAttributes(attributes), eas=eas), parts, is_directory=False)

    def link(self, path: str, target: str) -> None:
        self._writer.add_link(path, target, None)

    def gone(self, *paths: str) -> None:
        for path in paths:
            self._writer.remove(path)

    def point(self, path: str, target: str, *, folder: bool, mount: bool = False) -> None:
        buffer = (MountPoint if mount else SymbolicLink).to(target).to_bytes()
        attributes = FileAttributes.REPARSE_POINT | (
            FileAttributes.DIRECTORY if folder else FileAttributes(0)
        )
        self._writer.add(path, self._metadata(attributes, reparse=buffer), (), is_directory=folder)


def tar_of(*steps: tuple[Any, ...]) -> str:
    """A layer from steps like ``("file", path, data)``."""

    def build(writer: TarLayerWriter) -> None:
        entries = Entries(writer)
        for name, *arguments in steps:
            keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
            getattr(entries, name)(*arguments, **keywords)

    return layer(build)


BOOT = "UtilityVM/Files/EFI/Microsoft/Boot"
PARENTS: Setup = {
    "base/Files/a.txt": b"base a",
    "base/Files/only-base.txt": b"base",
    "base/Files/deep/er/x.txt": b"deep",
    "base/UtilityVM/Files/base-only.txt": b"vm of base",
    "p1/Files/a.txt": b"p1 a",
    "p1/Files/only-p1.txt": b"p1",
    "p1/Files/dir/in.txt": b"in",
    "p1/Files/dir/sub/in.txt": b"in sub",
    "p2/Files/a.txt": b"p2 a",
    "p2/Files/Mixed.Txt": b"mixed",
    "p2/UtilityVM/Files/p2-only.txt": b"vm of p2",
    "p3/Files/only-p3.txt": b"p3",
    "p3/Files/linked.txt": "p3/Files/only-p3.txt",
    "p3/UtilityVM/Files/keep.txt": b"keep",
    "p3/UtilityVM/Files/twin.txt": "p3/UtilityVM/Files/keep.txt",
    "p3/UtilityVM/Files/old.txt": b"old",
    "p3/UtilityVM/Files/sub/in.txt": b"in",
    "p3/UtilityVM/Files/sub/more/in.txt": b"in more",
    f"p3/{BOOT}/BCD": b"boot",
    f"p3/{BOOT}/BCD.LOG": b"log",
    f"p3/{BOOT}/other": b"other",
    "p3/UtilityVM/SystemTemplate.vhdx": b"disk",
}
FEW: Setup = {f"{name}/Files/a.txt": name.encode() for name in ("base", "p1", "p2", "p3")}
"""The same parents, where their content does not matter."""

CHAIN = ["C:\\lay\\p3", "C:\\lay\\p2", "C:\\lay\\p1", "C:\\lay\\base"]
HIVES: tuple[tuple[Any, ...], ...] = (("folders", "Hives"), ("file", "Hives/System_Delta", b"delta"))

CONFIG = "Files/Windows/System32/config"
BASE_HEAD: tuple[tuple[Any, ...], ...] = (
    ("folders", "Files", "Files/Windows", "Files/Windows/System32", CONFIG),
    *(
        ("file", f"{CONFIG}/{name}", name.encode())
        for name in ("DEFAULT", "SAM", "SECURITY", "SOFTWARE", "SYSTEM")
    ),
)
VM_HEAD: tuple[tuple[Any, ...], ...] = (("folders", "UtilityVM", "UtilityVM/Files"),)

LAYERS: Mapping[str, tuple[list[str], str]] = {
    "a layer on four parents": (
        CHAIN,
        tar_of(
            ("folders", "Files", "Files/dir"),
            ("file", "Files/a.txt", b"mine"),
            ("file", "Files/dir/new.txt", b"new", ("stream", b"alternate"), {"ea": True}),
            ("file", "Files/dir/empty", b""),
            ("file", "Files/dir/hidden", b"h", {"attributes": 0x23}),
            ("link", "Files/to-base.txt", "Files/only-base.txt"),
            ("link", "Files/to-p1.txt", "Files/only-p1.txt"),
            ("link", "Files/to-deep.txt", "Files/deep/er/x.txt"),
            ("link", "Files/to-linked.txt", "Files/linked.txt"),
            ("link", "Files/dir/to-own.txt", "Files/a.txt"),
            *HIVES,
        ),
    ),
    "links to what several parents have": (
        CHAIN[1:],
        tar_of(("folders", "Files"), ("link", "Files/b.txt", "Files/a.txt"), *HIVES),
    ),
    "links before their targets": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            ("link", "Files/first.txt", "Files/a.txt"),
            ("file", "Files/a.txt", b"mine, and later"),
            ("link", "Files/second.txt", "Files/a.txt"),
            *HIVES,
        ),
    ),
    "links over what is there": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            ("file", "Files/c.txt", b"c"),
            ("link", "Files/a.txt", "Files/c.txt"),
            ("link", "Files/only-p3.txt", "Files/only-base.txt"),
            *HIVES,
        ),
    ),
    "deletions": (
        CHAIN,
        tar_of(
            ("folders", "Files", "Files/deep"),
            ("gone", "Files/a.txt", "Files/dir", "Files/deep/er", "Files/nothing", "Files/dir/sub"),
            ("file", "Files/deep/new.txt", b"new"),
            *HIVES,
        ),
    ),
    "a directory deleted and made again": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            ("gone", "Files/dir"),
            ("folders", "Files/dir"),
            ("file", "Files/dir/fresh.txt", b"fresh"),
            *HIVES,
        ),
    ),
    "reparse points": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            ("point", "Files/dir", "..\\elsewhere", {"folder": True}),
            ("point", "Files/file", "a.txt", {"folder": False}),
            ("point", "Files/mount", "C:\\target", {"folder": True, "mount": True}),
            ("point", "Files/a.txt", "only-base.txt", {"folder": False}),
            *HIVES,
        ),
    ),
    "names in another case": (
        CHAIN,
        tar_of(
            ("folders", "Files", "Files/DIR"),
            ("file", "Files/A.TXT", b"mine"),
            ("file", "Files/DIR/IN.txt", b"mine"),
            ("gone", "Files/MIXED.TXT", "Files/dir/SUB"),
            ("link", "Files/to-base.txt", "Files/ONLY-BASE.TXT"),
            ("link", "Files/Only-P1.txt", "Files/A.TXT"),
            *HIVES,
        ),
    ),
    "a layer without hives": (CHAIN[:1], tar_of(("folders", "Files"), ("file", "Files/x", b"x"))),
    "nothing but hives": (CHAIN[:1], tar_of(*HIVES, ("file", "Hives/Software_Delta", b"s", {"ea": True}))),
    "a utility VM left as it is": (CHAIN, tar_of(("folders", "Files"), *HIVES, ("folders", "UtilityVM"))),
    "a utility VM with deletions alone": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            *HIVES,
            ("folders", "UtilityVM"),
            ("gone", "UtilityVM/Files/old.txt", "UtilityVM/Files/sub", "UtilityVM/Files/twin.txt"),
        ),
    ),
    "a utility VM with links": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            *HIVES,
            *VM_HEAD,
            ("file", "UtilityVM/Files/new.txt", b"new"),
            ("file", "UtilityVM/Files/keep.txt", b"mine"),
            ("link", "UtilityVM/Files/link-new.txt", "UtilityVM/Files/new.txt"),
            ("link", "UtilityVM/Files/link-old.txt", "UtilityVM/Files/old.txt"),
            ("link", "UtilityVM/Files/link-in.txt", "UtilityVM/Files/sub/more/in.txt"),
            ("link", "UtilityVM/Files/old.txt", "UtilityVM/Files/twin.txt"),
        ),
    ),
    "a utility VM in another case": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            *HIVES,
            *VM_HEAD,
            ("folders", "UtilityVM/Files/SUB"),
            ("file", "UtilityVM/Files/KEEP.TXT", b"mine"),
            ("gone", "UtilityVM/Files/OLD.txt"),
            ("link", "UtilityVM/Files/l.t", "UtilityVM/Files/TWIN.txt"),
        ),
    ),
    "a utility VM with boot files": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            *HIVES,
            *VM_HEAD,
            ("folders", "UtilityVM/Files/EFI", "UtilityVM/Files/EFI/Microsoft", BOOT),
            ("file", f"{BOOT}/BCD", b"my boot"),
            ("file", f"{BOOT}/BCD.LOG1", b"my log", {"attributes": 0x26}),
        ),
    ),
    "a utility VM with points": (
        CHAIN,
        tar_of(
            ("folders", "Files"),
            *HIVES,
            *VM_HEAD,
            ("point", "UtilityVM/Files/keep.txt", "old.txt", {"folder": False}),
            ("point", "UtilityVM/Files/point", "sub", {"folder": True}),
        ),
    ),
    "a utility VM on a parent that has none": (
        ["C:\\lay\\p1", "C:\\lay\\base"],
        tar_of(("folders", "Files"), *HIVES, *VM_HEAD, ("file", "UtilityVM/Files/new.txt", b"new")),
    ),
    "a base layer": (
        [],
        tar_of(
            *BASE_HEAD,
            ("folders", "Files/d", "Files/d/e"),
            ("file", "Files/d/all", b"data", ("s", b"stream"), {"ea": True, "attributes": 0x27}),
            ("file", "Files/d/e/plain", b""),
            ("link", "Files/d/link", "Files/d/all"),
            ("link", "Files/link", "Files/d/link"),
            ("point", "Files/point", "d", {"folder": True}),
            ("point", "Files/d/file-point", "all", {"folder": False}),
        ),
    ),
    "a base layer with a utility VM": (
        [],
        tar_of(
            *BASE_HEAD,
            *VM_HEAD,
            ("folders", "UtilityVM/Files/EFI", "UtilityVM/Files/EFI/Microsoft", BOOT),
            ("file", f"{BOOT}/BCD", b"boot", ("s", b"stream")),
            ("file", f"{BOOT}/BCD.LOG2", b"log"),
            ("file", "UtilityVM/Files/x.txt", b"x"),
            ("link", "UtilityVM/Files/y.txt", "UtilityVM/Files/x.txt"),
        ),
    ),
    "a base layer without hives": ([], tar_of(("folders", "Files"), ("file", "Files/x", b"x"))),
    "a base layer that deletes": ([], tar_of(("folders", "Files"), ("gone", "Files/x"))),
    "a link in a base layer to what is not there": (
        [],
        tar_of(("folders", "Files"), ("link", "Files/x1", "Files/x")),
    ),
    "a link to what nobody has": (
        CHAIN,
        tar_of(("folders", "Files"), *HIVES, ("link", "Files/x1", "Files/no")),
    ),
    "a link out of Files": (CHAIN, tar_of(("folders", "Files"), ("link", "Files/x1", "Hives/x"), *HIVES)),
    "a deletion out of Files": (CHAIN, tar_of(("folders", "Files"), ("gone", "Hives/x"), *HIVES)),
    "a deletion in a utility VM of what is not there": (
        CHAIN,
        tar_of(("folders", "Files"), *HIVES, *VM_HEAD, ("gone", "UtilityVM/Files/no.txt")),
    ),
}


def imported(name: str, **settings: str) -> Scenario:
    """The import of one of `LAYERS`."""
    chain, tar = LAYERS[name]
    operation = {"op": "import", "layer": "C:\\lay\\new", "chain": chain, "tar": tar}
    failing = f", {settings['FAIL'].partition('=')[0]} failing" if "FAIL" in settings else ""
    return Scenario(f"import of {name}{failing}", {**PARENTS, "new": None}, [operation], settings)


FAILING_IMPORTS: Mapping[str, Sequence[str]] = {
    "a layer on four parents": ("NameToGuid#1", "NameToGuid#4", "ImportLayer", "BackupWrite#1"),
    "a utility VM with boot files": ("BackupRead#2", "BackupWrite#4", "ImportLayer", "ProcessUtilityImage"),
    "a base layer": ("BackupWrite#1", "BackupWrite#7", "ProcessBaseImage"),
    "a base layer with a utility VM": ("BackupWrite#12", "ProcessBaseImage", "ProcessUtilityImage"),
}


# -- exports and the calls without content ------------------------------------------------------------


def transport_file(attributes: int, data: bytes | None = None) -> bytes:
    """A file of the transport format: attributes, then perhaps one data stream."""
    head = attributes.to_bytes(4, "little")
    if data is None:
        return head
    return head + (1).to_bytes(4, "little") + bytes(4) + len(data).to_bytes(8, "little") + bytes(4) + data


EXPORTED: Setup = {
    **PARENTS,
    "new/Files/f.txt": transport_file(0x20, b"abc"),
    "new/Files/f2.txt": "new/Files/f.txt",
    "new/Files/ro": transport_file(0x21, b""),
    "new/Files/d/g": transport_file(0x20),
    "new/Files/d.$wcidirs$": transport_file(0x10),
    "new/Files/D2/E/g": transport_file(0x80, b"x" * 70_000),
    "new/Files/D2.$wcidirs$": transport_file(0x12),
    "new/Files/D2/E.$wcidirs$": transport_file(0x10),
    "new/Files.$wcidirs$": transport_file(0x10),
    "new/Hives/System_Delta": b"hive",
    "new/Hives/Software_Delta": b"",
    "new/UtilityVM/Files/u": b"u",
    "new/UtilityVM/Files/v": "new/UtilityVM/Files/u",
}
BASE_FOLDER: Setup = {
    "new/Files/a": b"1",
    "new/Files/B": b"2",
    "new/Files/c/d": b"3",
    "new/Files/a.b": b"",
    "new/Files/l": "new/Files/a",
    "new/Files/$Recycle.Bin/x": b"4",
    "new/UtilityVM/Files/u": b"5",
    "new/UtilityVM/Files/w": "new/UtilityVM/Files/u",
    "new/UtilityVM/x": b"6",
    "new/Hives/z": b"8",
}
VIEW = "\\\\?\\Volume{11111111-2222-3333-4444-555555555555}\\"
NEW = "C:\\lay\\new"


def failing_in_turn(
    name: str, setup: Setup, operations: Sequence[Operation], rules: Iterable[str], **settings: str
) -> list[Scenario]:
    """The scenario, and once more for each of its calls failing."""
    made = [Scenario(name, setup, operations, settings)]
    for rule in rules:
        made.append(
            Scenario(f"{name}, {rule} failing", setup, operations, {**settings, "FAIL": f"{rule}={DENIED}"})
        )
    return made


def _calls() -> list[Scenario]:
    plain = {**FEW, "new/sandbox.vhdx": b""}
    export = [{"op": "export", "layer": NEW, "chain": CHAIN}]
    steps = ("ActivateLayer", "NameToGuid#1", "NameToGuid#6", "PrepareLayer", "UnprepareLayer", "ExportLayer")
    base = [{"op": "export", "layer": NEW, "chain": []}]
    folder = {"layer": NEW, "chain": CHAIN, "s": "C:\\lay\\p1"}
    return [
        *failing_in_turn(
            "export",
            EXPORTED,
            export,
            (*steps, "BackupRead", "DeactivateLayer"),
            TOMBSTONES="a.txt|dir|d\\old",
        ),
        *failing_in_turn(
            "export of a base layer", BASE_FOLDER, base, ("ActivateLayer", "PrepareLayer", "BackupRead")
        ),
        *failing_in_turn(
            "create",
            FEW,
            [{"op": "create", "layer": NEW, "chain": CHAIN}],
            ("NameToGuid#1", "NameToGuid#4", "CreateSandboxLayer"),
        ),
        *failing_in_turn(
            "create read-only", FEW, [{"op": "createlayer", "layer": NEW, "s": "p1"}], ("CreateLayer",)
        ),
        *failing_in_turn("destroy", plain, [{"op": "destroy", "layer": NEW}], ("DestroyLayer",)),
        *failing_in_turn("activate", plain, [{"op": "activate", "layer": NEW}], ("ActivateLayer",)),
        *failing_in_turn(
            "prepare",
            plain,
            [{"op": "prepare", "layer": NEW, "chain": CHAIN}],
            ("NameToGuid#1", "NameToGuid#3", "PrepareLayer"),
        ),
        *failing_in_turn("unprepare", plain, [{"op": "unprepare", "layer": NEW}], ("UnprepareLayer",)),
        *failing_in_turn("deactivate", plain, [{"op": "deactivate", "layer": NEW}], ("DeactivateLayer",)),
        *failing_in_turn(
            "mount path",
            plain,
            [{"op": "mountpath", "layer": NEW}],
            ("GetLayerMountPath#1", "GetLayerMountPath#2"),
            MOUNT_PATH=VIEW,
        ),
        *failing_in_turn("exists", plain, [{"op": "exists", "layer": NEW}], ("LayerExists",)),
        *failing_in_turn("images", {}, [{"op": "images"}], ("GetBaseImages",), IMAGES='{"Images":[]}'),
        *failing_in_turn("name", {}, [{"op": "guid", "s": "n\u00e4me"}], ("NameToGuid",)),
        *failing_in_turn(
            "grant", plain, [{"op": "grant", "layer": NEW + "\\sandbox.vhdx", "s": "vm"}], ("GrantVmAccess",)
        ),
        *failing_in_turn(
            "process a base layer",
            plain,
            [{"op": "processbase", "layer": "C:\\lay\\p1"}],
            ("ProcessBaseImage",),
        ),
        *failing_in_turn(
            "process a VM", plain, [{"op": "processuvm", "layer": "C:\\lay\\p1"}], ("ProcessUtilityImage",)
        ),
        *failing_in_turn(
            "import a folder", plain, [{"op": "importfolder", **folder}], ("NameToGuid#2", "ImportLayer")
        ),
        *failing_in_turn(
            "export a folder", plain, [{"op": "exportfolder", **folder}], ("NameToGuid#2", "ExportLayer")
        ),
        *failing_in_turn(
            "expand",
            plain,
            [{"op": "expand", "layer": NEW, "size": 1 << 35}],
            ("ExpandSandboxSize", "OpenVirtualDisk", "AttachVirtualDisk", "GetLayerMountPath"),
        )[1:],
    ]


HCSSHIM: Sequence[Scenario] = [
    *(imported(name) for name in LAYERS),
    *(imported(name, FAIL=f"{rule}={DENIED}") for name, rules in FAILING_IMPORTS.items() for rule in rules),
    *_calls(),
]
