"""``stat``: all that is known of a path in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from winlayers.cli.commands.looking import Looker, layer_root_option, looks
from winlayers.cli.context import complete_trees, examples, json_option
from winlayers.cli.output import echo, emit_json, human_size, printable

if TYPE_CHECKING:
    from winlayers.inspection import Entry, Tree


@click.command(
    epilog=examples(
        "winlayers stat app:2.0:/Windows/System32/ntdll.dll", "winlayers stat --json app:2.0:/Users/Public"
    )
)
@click.argument("targets", nargs=-1, required=True, metavar="IMAGE:PATH...", shell_complete=complete_trees)
@click.option("-L", "--follow", is_flag=True, help="If PATH is a link, show what it leads to.")
@layer_root_option
@json_option
@looks
def stat(looker: Looker, targets: tuple[str, ...], follow: bool, layer_root: bool, as_json: bool) -> None:
    """Show attributes, times, security descriptor, streams, extended attributes, links and layer of a path.

    Times are in UTC, to the 100 nanoseconds that NTFS keeps. The descriptor is in SDDL, with what it means.
    """
    from winlayers.inspection.facts import entry_facts
    from winlayers.inspection.target import parse_target

    facts = []
    for number, text in enumerate(targets):
        with looker.attempt():
            image, path = parse_target(text)
            tree = looker.tree(image)
            entry = tree.find(path or "/", follow=follow, layer_root=layer_root)
            if as_json:
                facts.append({"image": image, **entry_facts(tree, entry)})
                continue
            if number:
                echo()
            _show(tree, entry)
    if as_json:
        emit_json(facts if len(targets) > 1 else facts[0] if facts else None)


def _show(tree: Tree, entry: Entry) -> None:
    from winlayers.inspection.accessdiff import compare_access
    from winlayers.inspection.facts import entry_facts

    facts: dict[str, Any] = entry_facts(tree, entry)
    _line("Path", facts["path"])
    _line("Type", facts["type"])
    if not entry.inode.is_directory:
        _line("Size", f"{entry.size} ({human_size(entry.size)})")
    _line("Attributes", f"{facts['attributes_value']:#x} {' '.join(facts['attributes'])}")
    for name, value in facts["times"].items():
        _line(f"{name.capitalize()} time", value["text"] or "unset")
    if facts["reparse"] is not None:
        _line("Reparse tag", str(facts["reparse"]["tag"]))
        _line("Target", entry.target or "")
    for stream in facts["streams"]:
        _line("Stream", f":{stream['name']} {stream['size']} bytes")
    for ea in facts["extended_attributes"]:
        _line("EA", f"{ea['name']} {ea['value']}" + (f" flags {ea['flags']:#x}" if ea["flags"] else ""))
    if len(facts["links"]) > 1:
        for link in facts["links"]:
            _line("Link", link)
    layer = facts["layer"]
    if layer is not None:
        _line("Layer", f"{layer['number']} {layer['created_by']}".rstrip())
        _line("Diff id", layer["diff_id"] or "-")
    _line("Security", facts["security"] or "none recorded")
    for access in compare_access(entry.metadata.security, entry.metadata.security):
        _line("", f"{access.sddl}  {access.words}")


def _line(label: str, text: str) -> None:
    heading = f"{label}:" if label else ""
    echo(f"{heading:<15}{printable(text)}")
