"""``cp``: copy files and directories out of an image."""

from __future__ import annotations

import os
import sys

import click

from winlayers.cli.commands.looking import Looker, layer_root_option, looks
from winlayers.cli.context import complete_trees, examples, warn
from winlayers.cli.output import STANDARD_OUTPUT, naming


@click.command(
    epilog=examples(
        "winlayers cp app:2.0:/app/app.exe .",
        "winlayers cp app:2.0:/Windows/System32/config hives",
        "winlayers cp app:2.0:/app - | tar tv",
        "winlayers cp --follow app:2.0:/current ./current",
    )
)
@click.argument("source", metavar="IMAGE:PATH", shell_complete=complete_trees)
@click.argument("destination", metavar="DEST|-")
@click.option("-L", "--follow", is_flag=True, help="If PATH is a link, copy what it leads to.")
@layer_root_option
@looks
def cp(looker: Looker, source: str, destination: str, follow: bool, layer_root: bool) -> None:
    """Copy a file, or a directory with all in it, to the host.

    If DEST is a folder, the copy is made in it. If DEST is - a tar is written to standard output, with all
    that Windows knows of the files in it; a copy on the host keeps data, times, the read-only bit and links.
    """
    from winlayers.inspection.copying import copy_out, write_tar
    from winlayers.inspection.target import parse_target

    image, path = parse_target(source)
    if path is None:
        if parse_target(destination)[1] is not None:
            raise click.UsageError(
                "cp copies out of images; to put files in, use append, or mount a container and copy there"
            )
        raise click.UsageError(f"what of {image}? Write IMAGE:/PATH; IMAGE:/ is everything")
    tree = looker.tree(image)
    entry = tree.find(path, follow=follow, layer_root=layer_root)
    if destination != "-":
        if destination.endswith(("/", os.sep)) and not os.path.isdir(destination):
            raise click.UsageError(f"there is no folder {destination}")
        copy_out(tree, entry, destination, warn)
        return
    if sys.stdout.isatty():
        raise click.UsageError("a tar is not written to a terminal; redirect it")
    with naming(STANDARD_OUTPUT):
        sys.stdout.flush()
        write_tar(tree, entry, sys.stdout.buffer, warn)
        sys.stdout.buffer.flush()
