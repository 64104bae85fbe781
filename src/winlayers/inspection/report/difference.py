"""The report on what differs between two trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from winlayers.inspection.accessdiff import compare_access
from winlayers.inspection.diff import ASPECTS, Difference, collapse
from winlayers.inspection.report import page
from winlayers.inspection.report.nodes import grow, pack
from winlayers.inspection.tree import Entry, Layer, Tree
from winlayers.layers.service import ChangeKind

_ROWS = 2000
_GROUPS = 100
_PATHS = 50
_SAME, _ADDED, _CHANGED, _DELETED, _METADATA = range(5)
_COLOUR_NAMES = ("unchanged", "added", "changed", "deleted", "metadata only")
_SIGNS = {
    ChangeKind.ADD: ("added", "+"),
    ChangeKind.DELETE: ("deleted", "−"),
    ChangeKind.MODIFY: ("changed", "~"),
}
_DATA = frozenset(("data", "streams", "type"))


def diff_report(before: Tree, after: Tree, differences: Sequence[Difference]) -> str:
    """A page that shows what *differences* (from :func:`winlayers.inspection.diff.diff_trees`) there are."""
    counts = _count(differences)
    security = _security_groups(differences)
    body = [
        _cards(before, after, counts, sum(len(group.paths) for group in security)),
        page.section(
            "map",
            "Where it changed",
            "Every rectangle is a file or directory, as large as its data, before or after.",
            page.treemap(_legend(), _switch()),
        ),
        page.section("layers", "Layers", _layers_lead(before, after), _layers(before, after)),
        page.section("changes", "Changes", _changes_lead(differences), _changes(differences)),
        page.section("security", "Security", _security_lead(security), _security(security)),
    ]
    data = {
        "kind": "diff",
        "tree": pack(grow(_files(before, after, differences, everything=True), "all files")),
        "changes": pack(grow(_files(before, after, differences, everything=False), "what changed")),
        "colours": _COLOUR_NAMES,
        "counts": dataclasses.asdict(counts),
        "security": sum(len(group.paths) for group in security),
    }
    title = f"{_short(before.name)} → {_short(after.name)}"
    facts = [
        ("Before", f"{page.text(before.name)} ({before.kind})"),
        ("After", f"{page.text(after.name)} ({after.kind})"),
    ]
    return page.page(title, "What differs, in files, metadata and security", facts, "\n".join(body), data)


def _short(name: str) -> str:
    """A name for the title: ids are cut as elsewhere."""
    return name[:12] if len(name) == 64 and set(name) <= set("0123456789abcdef") else name


# -- figures --


@dataclasses.dataclass(slots=True)
class Counts:
    """Paths and bytes by kind of change."""

    added: int = 0
    added_bytes: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    changed: int = 0
    changed_before: int = 0
    changed_after: int = 0
    metadata_only: int = 0


def _count(differences: Sequence[Difference]) -> Counts:
    counts = Counts()
    for difference in differences:
        if difference.kind is ChangeKind.ADD:
            counts.added += 1
            counts.added_bytes += difference.size_after
        elif difference.kind is ChangeKind.DELETE:
            counts.deleted += 1
            counts.deleted_bytes += difference.size_before
        elif _DATA & set(difference.aspects):
            counts.changed += 1
            counts.changed_before += difference.size_before
            counts.changed_after += difference.size_after
        else:
            counts.metadata_only += 1
    return counts


def _cards(before: Tree, after: Tree, counts: Counts, security: int) -> str:
    change = counts.changed_after - counts.changed_before
    net = counts.added_bytes - counts.deleted_bytes + change
    cards = [
        page.card("Added", f"{counts.added:,}", f"{page.size_text(counts.added_bytes)}", kind="added"),
        page.card(
            "Deleted", f"{counts.deleted:,}", f"{page.size_text(counts.deleted_bytes)}", kind="deleted"
        ),
        page.card("Changed data", f"{counts.changed:,}", f"{_signed(change)}", kind="changed"),
        page.card("Metadata alone", f"{counts.metadata_only:,}", "times, attributes, security", kind="meta"),
        page.card("Security changes", f"{security:,}", "descriptors that say something else"),
        page.card("Net", _signed(net), "in all paths, hard links each"),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _signed(size: int) -> str:
    sign = "+" if size > 0 else "−" if size < 0 else "±"
    return f"{sign}{page.size_text(abs(size))}"


# -- the map --


def _colour(difference: Difference) -> int:
    if difference.kind is ChangeKind.ADD:
        return _ADDED
    if difference.kind is ChangeKind.DELETE:
        return _DELETED
    return _CHANGED if _DATA & set(difference.aspects) else _METADATA


def _files(
    before: Tree, after: Tree, differences: Sequence[Difference], *, everything: bool
) -> Iterator[tuple[str, int, int]]:
    told = set()
    counted = _Counted()
    for difference in differences:
        told.add(difference.path)
        if not difference.entry.is_directory:
            sizes = (counted.size(before, difference.before), counted.size(after, difference.after))
            yield difference.path, max(sizes), _colour(difference)
    if everything:
        for entry in after.walk(after.root(layer_root=True)):
            if not entry.is_directory and entry.path not in told:
                yield entry.path, counted.size(after, entry), _SAME


class _Counted:
    """Sizes of files, those with several names counted once."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def size(self, tree: Tree, entry: Entry | None) -> int:
        if entry is None:
            return 0
        key = (id(tree), entry.inode.id)
        if key in self._seen:
            return 0
        if entry.inode.nlink > 1:
            self._seen.add(key)
        return entry.total_size


def _legend() -> str:
    return "".join(
        f'<span><span class="swatch k{number}"></span> {name}</span>'
        for number, name in enumerate(_COLOUR_NAMES)
    )


def _switch() -> str:
    return (
        '<div class="switch" role="group" aria-label="What the map shows">'
        '<button type="button" data-tree="tree" aria-pressed="true">all files</button>'
        '<button type="button" data-tree="changes" aria-pressed="false">only changes</button></div>'
    )


# -- layers --


def _layers_lead(before: Tree, after: Tree) -> str:
    shared = {layer.diff_id for layer in before.layers} & {layer.diff_id for layer in after.layers} - {""}
    return f"{len(shared)} of {len(before.layers)} and {len(after.layers)} layers are the same."


def _layers(before: Tree, after: Tree) -> str:
    olds, news = {x.diff_id for x in before.layers}, {x.diff_id for x in after.layers}
    rows = [_layer_row("gone", "deleted", x) for x in before.layers if x.diff_id not in news or not x.diff_id]
    for layer in after.layers:
        same = layer.diff_id in olds and layer.diff_id
        rows.append(_layer_row("same" if same else "new", "same" if same else "added", layer))
    header = [("", ""), ("#", "number"), ("Made by", ""), ("Compressed", "number"), ("Diff id", "")]
    return page.table("Layers of both", header, rows)


def _layer_row(word: str, kind: str, layer: Layer) -> str:
    made_by = " ".join(layer.created_by.split()) or "(no history)"
    size = page.size_cell(layer.blob.size) if layer.blob is not None else page.size_cell(0, blank=True)
    diff_id = page.text(layer.diff_id)
    return (
        f'<tr><td><span class="chip {kind}">{word}</span></td><td class="number">{layer.number}</td>'
        f'<td class="command">{page.text(made_by)}</td>{size}'
        f'<td><code title="{diff_id}">{diff_id[7:19] or "–"}</code></td></tr>'
    )


# -- changes --


def _changes_lead(differences: Sequence[Difference]) -> str:
    shown = sum(1 for _ in collapse(differences))
    if not shown:
        return "There are none: both are the same."
    if shown > _ROWS:
        return f"The first {_ROWS:,} of {shown:,}; added and deleted directories as one line each."
    return f"{shown:,} lines; added and deleted directories as one each."


def _changes(differences: Sequence[Difference]) -> str:
    if not differences:
        return ""
    rows: list[str] = []
    for difference, count, size in collapse(differences):
        if len(rows) == _ROWS:
            break
        rows.append(_change_row(difference, count, size))
    used = {aspect for difference in differences for aspect in difference.aspects}
    chips = ["added", "deleted", "changed", *(aspect for aspect in ASPECTS if aspect in used)]
    buttons = "".join(
        f'<button type="button" class="chip" data-filter="{name}" aria-pressed="false">{name}</button>'
        for name in chips
    )
    tools = (
        '<div class="filter"><input id="search" type="search" placeholder="Filter by path" '
        f'aria-label="Filter by path">{buttons}<span id="shown" aria-live="polite"></span></div>'
    )
    header = [("", ""), ("Path", ""), ("What", ""), ("Before", "number"), ("After", "number")]
    return tools + page.table("Changes", header, rows, kind="changes")


def _change_row(difference: Difference, count: int, size: int) -> str:
    word, sign = _SIGNS[difference.kind]
    what = "".join(f'<span class="chip">{aspect}</span>' for aspect in difference.aspects)
    if count > 1:
        what = f"{count:,} entries"
    old = size if difference.kind is ChangeKind.DELETE else difference.size_before
    new = size if difference.kind is ChangeKind.ADD else difference.size_after
    shown = difference.entry.shown
    mark = difference.entry.is_directory and not shown.endswith("/")
    plain_directory = difference.entry.is_directory and count == 1
    return (
        f'<tr data-is="{word} {" ".join(difference.aspects)}">'
        f'<td><span class="chip {word}" title="{word}">{sign}<span class="unseen">{word}</span></span></td>'
        f'<td class="path">{page.text(shown)}{"/" if mark else ""}</td>'
        f"<td>{what}</td>{page.size_cell(old, blank=plain_directory or difference.kind is ChangeKind.ADD)}"
        f"{page.size_cell(new, blank=plain_directory or difference.kind is ChangeKind.DELETE)}</tr>"
    )


# -- security --


@dataclasses.dataclass(slots=True)
class _Group:
    """Paths whose descriptors changed in the same way."""

    before: bytes | None
    after: bytes | None
    paths: list[str] = dataclasses.field(default_factory=list)


def _security_groups(differences: Sequence[Difference]) -> list[_Group]:
    groups: dict[tuple[bytes | None, bytes | None], _Group] = {}
    for difference in differences:
        if (
            "security" in difference.aspects
            and difference.before is not None
            and difference.after is not None
        ):
            pair = (difference.before.metadata.security, difference.after.metadata.security)
            groups.setdefault(pair, _Group(*pair)).paths.append(difference.entry.shown)
    return sorted(groups.values(), key=lambda group: (-len(group.paths), group.paths[0]))


def _security_lead(groups: Sequence[_Group]) -> str:
    if not groups:
        return "No descriptor says anything else than before."
    paths = sum(len(group.paths) for group in groups)
    more = f"; the {_GROUPS} commonest" if len(groups) > _GROUPS else ""
    plural = "s" if len(groups) > 1 else ""
    return f"{paths:,} descriptor{'s' if paths > 1 else ''} changed in {len(groups):,} way{plural}{more}."


def _security(groups: Sequence[_Group]) -> str:
    return "".join(_security_group(group) for group in groups[:_GROUPS])


def _security_group(group: _Group) -> str:
    marks = {"+": "added", "-": "deleted", " ": "same"}
    lines = compare_access(group.before, group.after)
    listed = "".join(
        f'<tr class="{marks[line.sign]}"><td class="sign">{line.sign.replace("-", "−")}</td>'
        f"<td><code>{page.text(line.sddl)}</code></td><td>{page.text(line.words)}</td></tr>"
        for line in lines
    )
    if group.before is None or group.after is None:
        word = "recorded now, none before" if group.before is None else "recorded before, none now"
        listed = f'<tr><td class="sign"></td><td colspan="2" class="quiet">{word}</td></tr>{listed}'
    shown = "".join(f"<li>{page.text(path)}</li>" for path in group.paths[:_PATHS])
    if len(group.paths) > _PATHS:
        shown += f'<li class="quiet">and {len(group.paths) - _PATHS:,} more</li>'
    first = page.text(group.paths[0])
    rest = f" and {len(group.paths) - 1:,} more" if len(group.paths) > 1 else ""
    return (
        f'<article class="access"><details><summary><span class="path">{first}</span>'
        f'<span class="quiet">{rest}</span></summary><ul class="paths">{shown}</ul></details>'
        f'<div class="scroll"><table><tbody>{listed}</tbody></table></div></article>'
    )
