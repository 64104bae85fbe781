"""``squash``."""

from __future__ import annotations

import click

from winlayers.cli.commands.edits import compression_options, tag_option, tell
from winlayers.cli.context import (
    Settings,
    complete_images,
    complete_layers,
    examples,
    json_option,
    pass_settings,
)


@click.command(
    epilog=examples(
        "winlayers squash app:1 -t app:1-small",
        "winlayers squash app:1 -t app:1-small --last 3",
        "winlayers squash app:1 -t app:1-small --from 3f1c9a5e77d0",
    )
)
@click.argument("image", shell_complete=complete_images)
@tag_option
@click.option(
    "--from",
    "lowest",
    metavar="LAYER",
    shell_complete=complete_layers,
    help="The lowest layer to merge: an id, or a position from 1.  [default: the first above the base]",
)
@click.option("--last", type=click.IntRange(min=2), metavar="N", help="Merge the N topmost layers.")
@click.option("-f", "--force", is_flag=True, help="Also where registry deltas get lost.")
@compression_options
@json_option
@pass_settings
def squash(
    settings: Settings,
    image: str,
    reference: str | None,
    lowest: str | None,
    last: int | None,
    force: bool,
    compression: str,
    level: int | None,
    as_json: bool,
) -> None:
    """Make an image like IMAGE whose upper layers are one.  Prints its reference and digest.

    What it shows stays the same to the last link and stream.  The layers below keep their blobs.
    """
    from winlayers.images.editing.layers import find_layer

    if lowest is not None and last is not None:
        raise click.UsageError("--from and --last say the same; give one of them")
    found = settings.store.image(image)
    first = None if lowest is None else find_layer(found, lowest)
    if last is not None:
        first = len(found.manifest.layers) - last
    made = settings.store.squash(
        found.digest,
        reference,
        first=first,
        force=force,
        compression=compression,
        level=level,
        progress=settings.progress(),
    )
    tell(settings, made, reference, as_json)
