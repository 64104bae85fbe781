"""``cat``: print files of an image."""

from __future__ import annotations

import sys

import click

from winlayers.cli.commands.looking import Looker, layer_root_option, looks
from winlayers.cli.context import complete_trees, examples
from winlayers.cli.output import STANDARD_OUTPUT, naming, write_out


@click.command(
    epilog=examples(
        "winlayers cat app:2.0:/Windows/win.ini",
        "winlayers cat app:2.0:/Users/Public/notes.txt:Zone.Identifier",
        "winlayers cat docker://registry.example/team/app:2.0:/app/config.json",
    )
)
@click.argument(
    "targets", nargs=-1, required=True, metavar="IMAGE:PATH[:STREAM]...", shell_complete=complete_trees
)
@layer_root_option
@looks
def cat(looker: Looker, targets: tuple[str, ...], layer_root: bool) -> None:
    """Print files, or alternate data streams of files, one after another.

    A layer that is still compressed is read through an index made at the first look, so that only a few MiB
    around the file are decompressed.
    """
    from winlayers.inspection.target import parse_target

    for text in targets:
        with looker.attempt():
            image, path = parse_target(text)
            if path is None:
                raise click.UsageError(f"which file of {image}? Write IMAGE:/PATH")
            tree = looker.tree(image)
            entry, stream = tree.find_stream(path, layer_root=layer_root)
            for chunk in tree.chunks(entry, stream):
                write_out(chunk)
    with naming(STANDARD_OUTPUT):
        sys.stdout.flush()
