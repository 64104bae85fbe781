"""``append``."""

from __future__ import annotations

import click

from winlayers.cli.commands.edits import compression_options, tag_option, tell
from winlayers.cli.context import Settings, complete_images, examples, json_option, pass_settings


@click.command(
    epilog=examples(
        r"winlayers append base:1 ./build -t app:1 --dest 'C:\app'",
        "winlayers append base:1 app.tar.gz config/ -t app:1 --dest /app",
        "winlayers append app:1 layer.tar -t app:2 --layer",
        "tar c -C build . | winlayers append base:1 - -t app:1",
        "SOURCE_DATE_EPOCH=1700000000 winlayers append base:1 ./build -t app:1",
    )
)
@click.argument("image", shell_complete=complete_images)
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    metavar="SOURCE...",
    type=click.Path(exists=True, allow_dash=True),
)
@tag_option
@click.option("--dest", default="", metavar="FOLDER", help="Where on drive C: it goes.  [default: its root]")
@click.option(
    "--plain",
    "form",
    flag_value="plain",
    help="SOURCE tars are files, as tar(1) packs them.  [default: told from what is in them]",
)
@click.option(
    "--layer", "form", flag_value="layer", help="SOURCE tars are Windows layers, taken as they are."
)
@click.option("--sddl", help="The security descriptor of all that is new, instead of what it would inherit.")
@click.option("-a", "--author", default="", help="Who made it.")
@click.option("-m", "--message", default="", help="A comment for the image's history.")
@compression_options
@json_option
@pass_settings
def append(
    settings: Settings,
    image: str,
    sources: tuple[str, ...],
    reference: str | None,
    dest: str,
    form: str | None,
    sddl: str | None,
    author: str,
    message: str,
    compression: str,
    level: int | None,
    as_json: bool,
) -> None:
    """Put folders and tars onto IMAGE, each as a layer.  Prints the new image's reference and digest.

    SOURCE is a folder, or a tar that may be compressed; - is a tar on standard input.
    New files and folders inherit their security from the folder that they come into; folders that are there
    keep all that they have.  The same sources give the same layers, and the same image if SOURCE_DATE_EPOCH
    is set.
    """
    from winlayers.images.editing import AppendOptions, TarForm

    options = AppendOptions(destination=dest, form=TarForm(form or "guess"), sddl=sddl)
    made = settings.store.append(
        image,
        sources,
        reference,
        options,
        author=author,
        message=message,
        compression=compression,
        level=level,
        progress=settings.progress(),
    )
    tell(settings, made, reference, as_json)
