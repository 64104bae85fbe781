"""Differences: against a model, against themselves, and each aspect one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inspection.layers import DIRECTORY, TIME, File, Link, layer_tar, write_image
from winlayers.inspection import Tree, open_image
from winlayers.inspection.accessdiff import compare_access, describe_ace, same_access
from winlayers.inspection.diff import ASPECTS, Difference, collapse, diff_trees
from winlayers.layers.service import ChangeKind
from winlayers.store import Store
from winlayers.win32.attributes import FileAttributes
from winlayers.win32.reparse import SymbolicLink
from winlayers.win32.security import SecurityDescriptor, sddl_to_bytes

OLD = sddl_to_bytes("O:BAG:SYD:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)")
NEW = sddl_to_bytes("O:BAG:SYD:PAI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;;0x1301bf;;;WD)")

Model = dict[str, File]


def image(folder: Path, tag: str, *layers: dict[str, File | Link | None]) -> str:
    tars = [layer_tar([("Files", DIRECTORY), *layer.items()]) for layer in layers]
    return write_image(folder, tag, tars)


def differences(folder: Path, before: str, after: str, **options: object) -> list[Difference]:
    with open_image(before, cache=folder / "cache") as old, open_image(after, cache=folder / "cache") as new:
        return diff_trees(old, new, **options)  # type: ignore[arg-type]  # passed through


BASE = File(b"data", FileAttributes.ARCHIVE, TIME, OLD, None, (("s", b"stream"),))
LINK = File(b"", security=OLD, reparse=SymbolicLink.to("a").to_bytes())


@pytest.mark.parametrize(
    ("before", "after", "aspects"),
    [
        (BASE, BASE, None),
        (BASE, dataclasses.replace(BASE, data=b"DATA"), ("data",)),
        (BASE, dataclasses.replace(BASE, data=b"longer"), ("data",)),
        (BASE, dataclasses.replace(BASE, data=b""), ("data",)),
        (BASE, dataclasses.replace(BASE, streams=(("s", b"STREAM"),)), ("streams",)),
        (BASE, dataclasses.replace(BASE, streams=()), ("streams",)),
        (BASE, dataclasses.replace(BASE, streams=(("S", b"stream"),)), None),
        (BASE, dataclasses.replace(BASE, attributes=FileAttributes.HIDDEN), ("attributes",)),
        (BASE, dataclasses.replace(BASE, write_time=TIME + 1), ("times",)),
        (BASE, dataclasses.replace(BASE, security=NEW), ("security",)),
        (BASE, dataclasses.replace(BASE, security=None), ("security",)),
        (LINK, dataclasses.replace(LINK, reparse=SymbolicLink.to("b").to_bytes()), ("reparse",)),
    ],
)
def test_each_aspect(tmp_path: Path, before: File, after: File, aspects: tuple[str, ...] | None) -> None:
    old = image(tmp_path / "l", "old", {"Files/x": before})
    new = image(tmp_path / "l", "new", {"Files/x": after})
    found = differences(tmp_path, old, new)
    if aspects is None:
        assert found == []
        return
    (difference,) = found
    assert (difference.kind, difference.path, difference.aspects) == (ChangeKind.MODIFY, "Files/x", aspects)
    assert differences(tmp_path, old, new, ignore=aspects) == []


def test_kinds_and_letter_case(tmp_path: Path) -> None:
    directory = dataclasses.replace(DIRECTORY)
    old = image(tmp_path / "l", "old", {"Files/a": BASE, "Files/d": directory, "Files/d/x": BASE})
    new = image(
        tmp_path / "l", "new", {"Files/A": BASE, "Files/d": BASE, "Files/n": directory, "Files/n/y": BASE}
    )
    found = [(d.path, d.kind, d.aspects) for d in differences(tmp_path, old, new)]
    assert found == [
        ("Files/A", ChangeKind.MODIFY, ("name",)),
        ("Files/d", ChangeKind.MODIFY, ("type", "streams", "attributes", "security")),
        ("Files/d/x", ChangeKind.DELETE, ()),
        ("Files/n", ChangeKind.ADD, ()),
        ("Files/n/y", ChangeKind.ADD, ()),
    ]
    reverse = [(d.path, d.kind) for d in differences(tmp_path, new, old)]
    assert reverse == [
        ("Files/a", ChangeKind.MODIFY),
        ("Files/d", ChangeKind.MODIFY),
        ("Files/d/x", ChangeKind.ADD),
        ("Files/n", ChangeKind.DELETE),
        ("Files/n/y", ChangeKind.DELETE),
    ]


def test_collapsing(tmp_path: Path) -> None:
    files: dict[str, File | Link | None] = {"Files/n": DIRECTORY, "Files/n/m": DIRECTORY}
    files |= {f"Files/n/m/{n}": File(bytes(n)) for n in range(5)}
    old = image(tmp_path / "l", "old", {"Files/na": File(b"x")})
    new = image(tmp_path / "l", "new", files)
    shown = [
        (d.path, d.kind.value, count, size) for d, count, size in collapse(differences(tmp_path, old, new))
    ]
    assert shown == [("Files/n", "A", 7, 10), ("Files/na", "D", 1, 1)]


names = st.sampled_from(["a", "B", "c.txt", "Дом", "étalon", "z"])
contents = st.builds(
    File,
    data=st.binary(max_size=3),
    attributes=st.sampled_from([FileAttributes.ARCHIVE, FileAttributes.HIDDEN]),
    write_time=st.sampled_from([TIME, TIME + 5]),
    security=st.sampled_from([None, OLD, NEW]),
    streams=st.sampled_from([(), (("s", b"1"),), (("s", b"2"),)]),
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A tree: directories named 0, 1 and so on, two deep, with files in them."""
    tree: Model = {}
    for outer in draw(st.lists(st.sampled_from("012"), unique=True)):
        tree[f"Files/{outer}"] = File(None, security=draw(st.sampled_from([None, OLD])))
        for inner in draw(st.lists(st.sampled_from("xy"), unique=True)):
            tree[f"Files/{outer}/{inner}"] = DIRECTORY
            for name in draw(st.lists(names, unique=True, max_size=3)):
                tree[f"Files/{outer}/{inner}/{name}"] = draw(contents)
    return tree


def as_model(tree: Tree, path: str) -> File:
    entry = tree.find(path, layer_root=True)
    data = None if entry.is_directory else tree.read(entry)
    streams = tuple((s.name, tree.read(entry, s.name)) for s in entry.inode.streams)
    metadata = entry.metadata
    attributes = metadata.attributes if data is not None else FileAttributes.ARCHIVE
    return File(data, attributes, metadata.write_time, metadata.security, None, streams)


@settings(max_examples=60, deadline=None)
@given(models(), models())
def test_applied_to_the_older_tree_they_give_the_newer(
    tmp_path_factory: pytest.TempPathFactory, before: Model, after: Model
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    old, new = image(folder / "l", "old", {**before}), image(folder / "l", "new", {**after})
    with open_image(old, cache=folder / "cache") as left, open_image(new, cache=folder / "cache") as right:
        assert diff_trees(left, left) == []
        found = diff_trees(left, right)
        model = dict(before)
        for difference in found:
            if difference.kind is ChangeKind.DELETE:
                del model[difference.path]
            else:
                assert (difference.path in model) == (difference.kind is ChangeKind.MODIFY)
                model[difference.path] = as_model(right, difference.path)
        assert model == after
        assert len(found) == len({d.path for d in found})
        assert all(difference.aspects for difference in found if difference.kind is ChangeKind.MODIFY)
        assert all(set(difference.aspects) <= set(ASPECTS) for difference in found)
        mirrored = {(d.path, d.aspects) for d in diff_trees(right, left) if d.kind is ChangeKind.MODIFY}
        assert mirrored == {(d.path, d.aspects) for d in found if d.kind is ChangeKind.MODIFY}


def test_shared_layers_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base: dict[str, File | Link | None] = {f"Files/{n}": File(bytes([n]) * 1000) for n in range(30)}
    old = image(tmp_path / "l", "old", base)
    new = image(tmp_path / "l", "new", base, {"Files/5": File(b"changed")})
    with open_image(old, cache=tmp_path / "c") as left, open_image(new, cache=tmp_path / "c") as right:
        monkeypatch.setattr(left.view, "read", lambda *arguments: pytest.fail("the older image was read"))
        monkeypatch.setattr(right.view, "read", lambda *arguments: pytest.fail("the newer image was read"))
        assert [d.path for d in diff_trees(left, right)] == ["Files/5"]


def test_equal_data_in_different_layers_is_equal(tmp_path: Path) -> None:
    files: dict[str, File | Link | None] = {f"Files/{n}": File(bytes([n]) * 1000) for n in range(10)}
    old = image(tmp_path / "l", "old", files)
    new = image(tmp_path / "l", "new", {"Files/0": File(bytes(1000))}, dict(reversed(files.items())))
    assert differences(tmp_path, old, new) == []
    changed = image(tmp_path / "l", "changed", {**files, "Files/3": File(bytes([9]) * 1000)})
    assert [d.path for d in differences(tmp_path, old, changed)] == ["Files/3"]
    assert differences(tmp_path, old, changed, data=False) == []


def test_a_container_against_its_image(store: Store, sample: str) -> None:
    store.load(sample, name="app:1")
    store.create("app:1", name="web")
    drive = Path(store.mount("web"))
    (drive / "app" / "app.config.json").write_bytes(b"{}")
    (drive / "new").mkdir()
    (drive / "new" / "file").write_bytes(b"1")
    (drive / "Windows" / "win.ini").unlink()
    store.unmount("web")
    with open_image("app:1", store=store) as old, open_image("web", store=store) as new:
        found = {(d.path, d.kind.value) for d in diff_trees(old, new, ignore=["times"])}
    said = {(c.path.strip("/"), c.kind.value) for c in store.changes("web")}
    assert ("Files/app/app.config.json", "C") in found
    assert ("Files/Windows/win.ini", "D") in found
    assert {("Files/new", "A"), ("Files/new/file", "A")} <= found
    # What the driver reports beyond that are directories whose times alone changed.
    assert {path for path, kind in said if kind != "C"} == {path for path, kind in found if kind != "C"}


class TestAccess:
    def test_lines(self) -> None:
        lines = [(line.sign, line.sddl, line.words) for line in compare_access(OLD, NEW)]
        assert lines == [
            (" ", "O:BA", "owner Administrators"),
            (" ", "G:SY", "group SYSTEM"),
            ("+", "D:P", "does not inherit from the directory above"),
            (" ", "(A;OICIID;FA;;;SY)", "allow SYSTEM full control (inherited, for folders and files below)"),
            (
                " ",
                "(A;OICIID;FA;;;BA)",
                "allow Administrators full control (inherited, for folders and files below)",
            ),
            (
                "-",
                "(A;OICIID;0x1200a9;;;BU)",
                "allow Users read & execute (inherited, for folders and files below)",
            ),
            ("+", "(A;;0x1301bf;;;WD)", "allow Everyone modify"),
        ]

    def test_none_and_malformed(self) -> None:
        assert {line.sign for line in compare_access(None, NEW)} == {"+"}
        assert {line.sign for line in compare_access(OLD, None)} == {"-"}
        assert compare_access(None, None) == []
        assert [line.words for line in compare_access(b"junk", None)] == ["malformed"]
        assert not same_access(b"junk", OLD)

    def test_layout_does_not_count(self) -> None:
        descriptor = SecurityDescriptor.from_bytes(OLD)
        moved = dataclasses.replace(descriptor).to_bytes()
        assert same_access(OLD, moved)

    @pytest.mark.parametrize(
        ("sddl", "words"),
        [
            ("D:(D;;FA;;;WD)", "deny Everyone full control"),
            ("D:(A;OICIIO;GA;;;CO)", "allow CREATOR OWNER full control (for folders and files below only)"),
            ("D:(A;CI;0x1200a9;;;AC)", "allow ALL APPLICATION PACKAGES read & execute (for folders below)"),
            ("D:(A;OI;GXGR;;;BU)", "allow Users read & execute (for files below)"),
            ("D:(A;;0x20000;;;S-1-5-93-2-2)", "allow ContainerUser rights 0x20000"),
            ("D:(A;;FR;;;S-1-5-21-1-2-3-500)", "allow S-1-5-21-1-2-3-500 read"),
        ],
    )
    def test_words(self, sddl: str, words: str) -> None:
        acl = SecurityDescriptor.from_bytes(sddl_to_bytes(sddl)).dacl
        assert acl is not None
        assert describe_ace(acl.aces[0]) == words
