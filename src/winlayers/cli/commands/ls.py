"""``ls``: list what is in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from winlayers.cli.commands.looking import WITH_H, Looker, human_option, layer_root_option, looks, size_text
from winlayers.cli.context import complete_trees, examples, json_option
from winlayers.cli.output import echo, emit_json, printable, table

if TYPE_CHECKING:
    from winlayers.inspection import Entry, Tree


@click.command(
    context_settings=WITH_H,
    epilog=examples(
        "winlayers ls app:2.0",
        "winlayers ls -l app:2.0:/Windows/System32",
        r"winlayers ls -lRh 'oci:./layout:3.13:C:\Users'",
        "winlayers ls --json docker://registry.example/team/app:2.0:/app",
    ),
)
@click.argument("targets", nargs=-1, required=True, metavar="IMAGE[:PATH]...", shell_complete=complete_trees)
@click.option("-l", "long", is_flag=True, help="Attributes, layer, links, size, write time, link targets.")
@click.option("-R", "--recursive", is_flag=True, help="Also what is below.")
@click.option(
    "-d", "--directory", "itself", is_flag=True, help="Directories themselves, not what is in them."
)
@human_option
@layer_root_option
@json_option
@looks
def ls(
    looker: Looker,
    targets: tuple[str, ...],
    long: bool,
    recursive: bool,
    itself: bool,
    human: bool,
    layer_root: bool,
    as_json: bool,
) -> None:
    r"""List what is in images, in NTFS's order, without mounting or importing them.

    IMAGE is an image, container or layer of the store, or a place: oci:FOLDER[:TAG], oci-archive:FILE,
    docker-archive:FILE, docker://REFERENCE. PATH begins with a slash, a backslash or C:, and its letter case
    does not matter. With -l the first column is the type (d directory, l symbolic link, j junction, r other
    reparse point) and the attributes (a archive, r read-only, h hidden, s system).
    """
    from winlayers.inspection.facts import listing_facts
    from winlayers.inspection.target import parse_target

    listing = _Listing(long, human, headings=recursive or len(targets) > 1)
    facts: list[dict[str, object]] = []
    for text in targets:
        with looker.attempt():
            image, path = parse_target(text)
            tree = looker.tree(image)
            entry = tree.find(path or "/", layer_root=layer_root)
            if as_json:
                found = tree.walk(entry) if recursive else tree.children(entry)
                shown = [entry] if itself or not entry.is_directory else found
                facts += [{"image": image, **listing_facts(tree, e)} for e in shown]
            elif itself or not entry.is_directory:
                listing.rows(tree, [entry], whole=True)
            else:
                listing.directory(tree, entry, text if len(targets) > 1 else entry.shown)
                below = [e for e in tree.walk(entry) if e.is_directory] if recursive else []
                for directory in below:
                    listing.directory(tree, directory, directory.shown)
    if as_json:
        emit_json(facts)


class _Listing:
    def __init__(self, long: bool, human: bool, *, headings: bool) -> None:
        self._long = long
        self._human = human
        self._headings = headings
        self._begun = False

    def directory(self, tree: Tree, directory: Entry, heading: str) -> None:
        if self._headings:
            if self._begun:
                echo()
            echo(f"{printable(heading)}:")
        self._begun = True
        self.rows(tree, tree.children(directory), whole=False)

    def rows(self, tree: Tree, entries: list[Entry], *, whole: bool) -> None:
        if not self._long:
            for entry in entries:
                echo(printable(entry.shown if whole else entry.name))
            return
        if entries:
            header = ["MODE", "LAYER", "LINKS", "SIZE", "WRITTEN", "NAME"]
            table(header, [self._row(tree, entry, whole) for entry in entries], right=(1, 2, 3))

    def _row(self, tree: Tree, entry: Entry, whole: bool) -> list[str]:
        from winlayers.inspection.facts import listing_time, mode_text

        layer = tree.layer_of(entry)
        name = entry.shown if whole else entry.name
        streams = "".join(f" :{stream.name}" for stream in entry.inode.streams)
        target = f" -> {entry.target}" if entry.target is not None else ""
        return [
            mode_text(entry),
            "-" if layer is None else str(layer.number),
            str(entry.inode.nlink),
            "-" if entry.inode.is_directory else size_text(entry.size, self._human),
            listing_time(entry.metadata.write_time),
            f"{name}{target}{streams}",
        ]
