"""The report on one image."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from winlayers.inspection.report import page
from winlayers.inspection.report.nodes import grow, pack
from winlayers.inspection.tree import Tree, shown_path
from winlayers.inspection.usage import LayerUsage, Usage, measure

_LARGEST = 50
_WASTED = 200
_GOOD = 0.95


def image_report(tree: Tree) -> str:
    """A page that shows where the bytes of *tree* are; see :mod:`winlayers.inspection.usage`."""
    usage = measure(tree)
    body = [
        _cards(tree, usage),
        page.section(
            "map",
            "Where the bytes are",
            "Every rectangle is a file or directory, as large as its data. Colours are layers. "
            "Click to go in, press Escape to go up.",
            page.treemap(_legend(usage)),
        ),
        page.section(
            "layers",
            "Layers",
            "What each layer brings, and how much of it can still be seen in the finished image: "
            "the end of a bar without the layer's colour is wasted.",
            _layers(usage),
        ),
        page.section("waste", "Waste", _waste_lead(usage), _waste(usage)),
        page.section("largest", "Largest files", "Where to look first.", _largest(tree)),
    ]
    data = {
        "kind": "image",
        "tree": pack(grow(_files(tree), tree.name)),
        "colours": [f"layer {layer.layer.number}" for layer in usage.layers],
        "layers": [_layer_data(layer) for layer in usage.layers],
        "visible": usage.visible,
        "data": usage.data,
        "entries": usage.entries,
    }
    return page.page(tree.name, _subtitle(tree), _facts(tree, usage), "\n".join(body), data)


def _files(tree: Tree) -> Iterator[tuple[str, int, int]]:
    """All files with their bytes and layers; of hard links the first in the walk has the data."""
    seen: set[int] = set()
    for entry in tree.walk(tree.root(layer_root=True)):
        if entry.is_directory:
            continue
        size = 0 if entry.inode.id in seen else entry.total_size
        if entry.inode.nlink > 1:
            seen.add(entry.inode.id)
        yield entry.path, size, entry.inode.layer


def _layer_data(usage: LayerUsage) -> dict[str, object]:
    return {
        "number": usage.layer.number,
        "diff_id": usage.layer.diff_id,
        "data": usage.data,
        "visible": usage.visible,
        "wasted": usage.wasted,
        "replaces": usage.replaces,
        "deletes": usage.deletes,
        "files": usage.files,
    }


def _subtitle(tree: Tree) -> str:
    if tree.config is None:
        return page.text(tree.kind)
    platform = tree.config.platform
    return page.text(f"Windows {platform.os_version or ''} · {platform.architecture}".replace("  ", " "))


def _facts(tree: Tree, usage: Usage) -> list[tuple[str, str]]:
    facts = [("Layers", f"{len(usage.layers)}"), ("Entries", f"{usage.entries:,}")]
    if tree.config is not None and tree.config.created:
        facts.append(("Created", page.text(tree.config.created[:10])))
    if tree.manifest is not None:
        facts.append(("Digest", f'<code title="{tree.manifest.digest}">{tree.manifest.digest[7:19]}</code>'))
    return facts


def _cards(tree: Tree, usage: Usage) -> str:
    wasted = usage.data - usage.visible
    bad = usage.efficiency < _GOOD
    cards = [
        page.card("In the finished image", page.size_text(usage.visible), f"{usage.entries:,} entries"),
        page.card("Shipped in layers", page.size_text(usage.data), f"{len(usage.layers)} layers"),
    ]
    blobs = [layer.layer.blob for layer in usage.layers if layer.layer.blob is not None]
    if blobs:
        size = sum(blob.size for blob in blobs)
        cards.append(page.card("Compressed", page.size_text(size), f"{page.percent(size, usage.data)} of it"))
    cards += [
        page.card(
            "Wasted",
            page.size_text(wasted),
            f"{len(usage.wasted):,} file{'' if len(usage.wasted) == 1 else 's'} nobody can see",
            kind="bad" if bad else "",
        ),
        page.card(
            "Efficiency",
            f"{100 * usage.efficiency:.2f} %",
            "of what is shipped can be seen",
            kind="" if bad else "good",
        ),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _legend(usage: Usage) -> str:
    return "".join(
        f"<span>{page.swatch(layer.layer.number)} {page.text(_made_by(layer)[:60])}</span>"
        for layer in usage.layers
    )


def _made_by(usage: LayerUsage) -> str:
    return " ".join(usage.layer.created_by.split()) or "(no history)"


def _layers(usage: Usage) -> str:
    widest = max((layer.data for layer in usage.layers), default=0)
    header = [
        ("#", "number"),
        ("Made by", ""),
        ("", "wide"),
        ("Compressed", "number"),
        ("Data", "number"),
        ("Visible", "number"),
        ("Wasted", "number"),
        ("Replaces", "number"),
        ("Deletes", "number"),
        ("Files", "number"),
        ("Links", "number"),
        ("Deletions", "number"),
    ]
    return page.table("Layers, base first", header, [_layer_row(layer, widest) for layer in usage.layers])


def _layer_row(usage: LayerUsage, widest: int) -> str:
    layer = usage.layer
    colour = f"c{(layer.number - 1) % page.COLOURS}"
    label = f"{page.size_text(usage.visible)} visible, {page.size_text(usage.wasted)} wasted"
    return (
        f'<tr><td class="number">{page.swatch(layer.number)}</td>'
        f'<td class="command" title="{page.text(layer.diff_id)}">{page.text(_made_by(usage))}</td>'
        f'<td class="wide">{page.bar([(usage.visible, colour), (usage.wasted, "waste")], widest, label)}</td>'
        + (page.size_cell(layer.blob.size) if layer.blob is not None else page.size_cell(0, blank=True))
        + page.size_cell(usage.data)
        + page.size_cell(usage.visible)
        + page.size_cell(usage.wasted, blank=True)
        + page.size_cell(usage.replaces, blank=True)
        + page.size_cell(usage.deletes, blank=True)
        + page.number_cell(usage.files)
        + page.number_cell(usage.links)
        + page.number_cell(usage.deletions)
        + "</tr>"
    )


def _waste_lead(usage: Usage) -> str:
    if not usage.wasted:
        return "Nothing is shipped that can't be seen."
    more = f" The {_WASTED} largest of {len(usage.wasted):,}:" if len(usage.wasted) > _WASTED else ""
    return f"Files that one layer ships and another replaces or deletes: paid for, never seen.{more}"


def _waste(usage: Usage) -> str:
    if not usage.wasted:
        return ""
    rows = [
        f'<tr><td class="path">{page.text(shown_path(waste.path))}</td>{page.size_cell(waste.size)}'
        f"<td>{page.swatch(waste.layer + 1)}</td>"
        f"<td>{page.text(waste.how)} by {page.swatch(waste.by + 1)}</td></tr>"
        for waste in usage.wasted[:_WASTED]
    ]
    return page.table(
        "Wasted files", [("Path", ""), ("Size", "number"), ("Shipped in", ""), ("Then", "")], rows
    )


def _largest(tree: Tree) -> str:
    entries = (e for e in tree.walk(tree.root(layer_root=True)) if not e.is_directory)
    found: dict[int, tuple[int, str, int]] = {}
    for entry in heapq.nlargest(4 * _LARGEST, entries, key=lambda e: e.total_size):
        found.setdefault(entry.inode.id, (entry.total_size, entry.shown, entry.inode.layer))
    largest = list(found.values())[:_LARGEST]
    widest = largest[0][0] if largest else 0
    rows = [
        f'<tr><td class="path">{page.text(path)}</td><td>{page.swatch(layer + 1)}</td>'
        f'<td class="wide">'
        f"{page.bar([(size, f'c{layer % page.COLOURS}')], widest, page.size_text(size))}</td>"
        f"{page.size_cell(size)}</tr>"
        for size, path, layer in largest
    ]
    return page.table("Largest files", [("Path", ""), ("Layer", ""), ("", "wide"), ("Size", "number")], rows)
