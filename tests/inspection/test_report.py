"""The reports: their numbers against the indexes, nothing hostile or foreign in them, drawn by a browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inspection.layers import DIRECTORY, File, layer_tar, write_image
from tests.support import require
from winlayers.inspection import Tree, open_image
from winlayers.inspection.diff import diff_trees
from winlayers.inspection.report import diff_report, image_report
from winlayers.inspection.report.nodes import grow, pack
from winlayers.inspection.report.page import embed, percent, size_text
from winlayers.inspection.usage import measure
from winlayers.layers.service import ChangeKind
from winlayers.win32.security import sddl_to_bytes

HOSTILE = "</script><script>alert(1)</script>&<b>"


def data_of(page: str) -> Any:
    """What the page gives its script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def nodes(packed: list[Any]) -> Iterator[list[Any]]:
    """All nodes below and with one."""
    yield packed
    for child in packed[3] or ():
        yield from nodes(child)


def size_of(packed: list[Any]) -> int:
    return sum(packed[2][1::2])


def check_sums(packed: list[Any]) -> None:
    """Every directory is the sum of what is in it, colour by colour."""
    for node in nodes(packed):
        if node[3]:
            assert node[1] == sum(child[1] for child in node[3])
            colours: dict[int, int] = {}
            for child in node[3]:
                for colour, size in zip(child[2][::2], child[2][1::2], strict=True):
                    colours[colour] = colours.get(colour, 0) + size
            assert dict(zip(node[2][::2], node[2][1::2], strict=True)) == colours


class Checker(HTMLParser):
    """Notes what a page refers to, and that its elements nest."""

    VOID = frozenset(("meta", "input", "br", "rect"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs), "inline code or style"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check_page(page: str) -> None:
    """One file, allowed to do nothing but run its own script."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.references == []
    assert not checker.tags & {"link", "iframe", "object", "embed", "img", "form", "base"}
    assert "url(" not in page
    assert "@import" not in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none';")
    for element in ("style", "script"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy[1]


def test_the_numbers_are_the_indexes(tree: Tree) -> None:
    page = image_report(tree)
    check_page(page)
    data, usage = data_of(page), measure(tree)
    assert (data["visible"], data["data"], data["entries"]) == (usage.visible, usage.data, usage.entries)
    for told, layer in zip(data["layers"], usage.layers, strict=True):
        assert told["visible"] == layer.visible
        assert told["wasted"] == layer.wasted
        assert told["data"] == layer.data
    check_sums(data["tree"])
    assert size_of(data["tree"]) == usage.visible
    by_layer = dict(zip(data["tree"][2][::2], data["tree"][2][1::2], strict=True))
    assert by_layer == {n: layer.visible for n, layer in enumerate(usage.layers) if layer.visible}
    files = {e.inode.id for e in tree.walk(tree.root(layer_root=True)) if not e.is_directory}
    names = [e for e in tree.walk(tree.root(layer_root=True)) if not e.is_directory]
    assert data["tree"][1] == len(names) >= len(files)
    for shown in ("Apply image", size_text(usage.visible), "étalon-模式.sys", "sort.nls"):
        assert html.escape(shown) in page


def test_the_numbers_of_a_difference(tmp_path: Path) -> None:
    old_access, new_access = (sddl_to_bytes(f"O:{who}G:SYD:(A;;FA;;;SY)") for who in ("BA", "SY"))
    old = [("Files", DIRECTORY)] + [
        (f"Files/{n}", File(bytes(100 + n), security=old_access)) for n in range(8)
    ]
    new = [("Files", DIRECTORY)]
    new += [(f"Files/{n}", File(bytes(100 + n), security=old_access)) for n in range(3)]
    new += [("Files/3", File(bytes(7), security=old_access)), ("Files/9", File(bytes(9)))]
    new += [(f"Files/{n}", File(bytes(100 + n), security=new_access)) for n in range(4, 7)]
    names = [
        write_image(tmp_path / "l", tag, [layer_tar(what)]) for tag, what in (("old", old), ("new", new))
    ]
    with (
        open_image(names[0], cache=tmp_path / "c") as left,
        open_image(names[1], cache=tmp_path / "c") as right,
    ):
        found = diff_trees(left, right)
        page = diff_report(left, right, found)
    check_page(page)
    data = data_of(page)
    assert data["counts"] == {
        "added": 1,
        "added_bytes": 9,
        "deleted": 1,
        "deleted_bytes": 107,
        "changed": 1,
        "changed_before": 103,
        "changed_after": 7,
        "metadata_only": 3,
    }
    assert data["security"] == 3
    check_sums(data["tree"])
    check_sums(data["changes"])
    assert dict(zip(data["changes"][2][::2], data["changes"][2][1::2], strict=True)) == {
        1: 9,
        2: 103,
        3: 107,
        4: 104 + 105 + 106,
    }
    assert size_of(data["tree"]) - size_of(data["changes"]) == 100 + 101 + 102
    assert "3 descriptors changed in 1 way." in page
    assert page.count("owner Administrators") == 1
    assert page.count('data-is="changed') == sum(d.kind is ChangeKind.MODIFY for d in found)


def test_no_difference(tree: Tree) -> None:
    page = diff_report(tree, tree, diff_trees(tree, tree))
    check_page(page)
    assert "both are the same" in page
    assert data_of(page)["changes"] == ["what changed", 0, [], []]


def test_names_are_only_text(tmp_path: Path) -> None:
    """As far as NTFS lets hostile names be; the history is under no such rule."""
    names = ["&amp;'quoted' {{x}} ${y}", "\ud800lone", "\u202eevil.exe", "a" * 250]
    entries = [("Files", DIRECTORY), *((f"Files/{n}", File(bytes(2000 + len(n)))) for n in names)]
    name = write_image(tmp_path / "l", "x", [layer_tar(entries), layer_tar([("Files", DIRECTORY)])])
    with open_image(name, cache=tmp_path / "c") as tree:
        layer = tree.layers[0]
        object.__setattr__(layer, "created_by", HOSTILE)
        tree.name = HOSTILE
        page = image_report(tree)
        with open_image(name, cache=tmp_path / "c") as other:
            other.name = HOSTILE
            check_page(diff_report(tree, other, diff_trees(tree, other)))
    check_page(page)
    page.encode("utf-8")
    assert "alert(1)</script>" not in page
    assert "\u202e" not in page
    assert "\\ud800lone" in page


def test_large_trees_are_put_together() -> None:
    entries = [(f"d{n % 50}/e{n % 7}/f{n}", 1 + n % 1000, n % 3) for n in range(60_000)]
    packed: Any = pack(grow(entries, "root"))
    check_sums(packed)
    assert size_of(packed) == sum(size for _, size, _ in entries)
    assert packed[1] == 60_000
    assert sum(1 for _ in nodes(packed)) < 5000


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b/c", "b/d", "b/e/f", "g/h"]), st.integers(0, 9), st.integers(0, 2))
    )
)
def test_sums_always_hold(entries: list[tuple[str, int, int]]) -> None:
    unique = {path: (path, size, colour) for path, size, colour in entries}
    packed: Any = pack(grow(unique.values(), "root"))
    check_sums(packed)
    assert size_of(packed) == sum(size for _, size, _ in unique.values())


@given(st.recursive(st.text(), st.lists))
def test_data_can_stand_in_html(value: object) -> None:
    text = embed(value)
    assert json.loads(text) == value
    assert "<" not in text
    assert text.isascii()


def test_texts() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 999_499, 999_600, 12_345_678)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "999 kB",
        "1.0 MB",
        "12.3 MB",
    ]
    assert [percent(1, 3), percent(1, 100_000), percent(0, 5), percent(0, 0)] == [
        "33.3 %",
        "under 0.1 %",
        "0.0 %",
        "0 %",
    ]


# -- a browser --


def rendered(page: str, folder: Path, place: str = "") -> str:
    """The page's elements once its script has run, in Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require(program, "chromium is not installed")
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",  # it is small in many containers
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000",
        "--virtual-time-budget=5000",
        "--dump-dom",
    ]
    done = subprocess.run(
        [str(program), *flags, f"{file.as_uri()}{place}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    assert 'data-ready="yes"' in done.stdout
    return done.stdout


def labels(dom: str) -> list[str]:
    """What the map's rectangles that can be chosen are called."""
    drawn = dom[dom.index('id="treemap"') : dom.index('id="side"')]
    return [html.unescape(label) for label in re.findall(r'role="button"[^>]*aria-label="([^"]*)"', drawn)]


def test_a_browser_draws_the_image(tree: Tree, tmp_path: Path) -> None:
    dom = rendered(image_report(tree), tmp_path)
    usage = measure(tree)
    assert {label.partition(",")[0] for label in labels(dom)} == {"Files", "UtilityVM", "Hives"}
    assert f"{usage.visible:,} bytes" in dom
    assert ">kernel32.dll<" in dom
    assert dom.count("<rect") > 20


def test_a_browser_goes_where_the_address_says(tree: Tree, tmp_path: Path) -> None:
    dom = rendered(image_report(tree), tmp_path, "#tree/Files/Windows/System32")
    found = labels(dom)
    assert any(label.startswith(("cmd-copy.exe", "cmd.exe")) for label in found)
    assert '<button type="button" aria-current="location">System32</button>' in dom
    largest = max(
        e.total_size
        for e in tree.walk(tree.find("/Windows/System32"))
        if not e.is_directory and e.inode.nlink == 1
    )
    assert size_text(largest) in dom


def test_a_browser_draws_the_difference(tree: Tree, tmp_path: Path, sample: str, cache: Path) -> None:
    name = write_image(
        tmp_path / "l", "x", [layer_tar([("Files", DIRECTORY), ("Files/new", File(bytes(500)))])]
    )
    with open_image(name, cache=tmp_path / "c") as other:
        found = diff_trees(tree, other)
        dom = rendered(diff_report(tree, other, found), tmp_path, "#changes")
    assert re.search(r'data-tree="changes" aria-pressed="true"', dom)
    total = len(re.findall(r"<tr data-is", dom))
    assert f"{total} of {total}" in dom


def test_keys_and_clicks(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's script, with another behind it that presses and clicks."""
    from winlayers.inspection.report import page

    driver = """
    ;(() => {
      const seen = [];
      const place = () => seen.push(document.querySelector("#crumbs [aria-current]").textContent);
      const tiles = () => [...document.querySelectorAll("#treemap [role=button]")];
      const press = (key) => document.activeElement.dispatchEvent(
        new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      tiles()[0].focus(); place();
      press("Enter"); place();
      const first = document.activeElement; press("ArrowRight");
      seen.push(first !== document.activeElement && tiles().includes(document.activeElement));
      seen.push(document.getElementById("about").textContent.includes("bytes"));
      press("Escape"); place();
      tiles()[0].dispatchEvent(new MouseEvent("click", { bubbles: true })); place();
      const listed = [...document.querySelectorAll("#inside button")];
      listed.find((b) => b.textContent.startsWith("Windows/")).click(); place();
      document.querySelector("#crumbs button").click(); place();
      document.getElementById("theme").click();
      seen.push(document.documentElement.dataset.theme);
      document.title = JSON.stringify(seen);
    })();
    """
    asset = page._asset
    monkeypatch.setattr(page, "_asset", lambda name: asset(name) + (driver if name == "page.js" else ""))
    dom = rendered(image_report(tree), tmp_path)
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    name = tree.name
    assert json.loads(html.unescape(title[1])) == [
        name,
        "Files",
        True,
        True,
        name,
        "Files",
        "Windows",
        name,
        "dark",
    ]
