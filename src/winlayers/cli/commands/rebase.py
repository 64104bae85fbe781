"""``rebase``."""

from __future__ import annotations

import click

from winlayers.cli.commands.edits import tag_option, tell
from winlayers.cli.context import Settings, complete_images, examples, json_option, pass_settings


@click.command(
    epilog=examples(
        "winlayers rebase app:1 --onto servercore:2024-07 -t app:1-patched",
        "winlayers rebase app:1 --old-base servercore:2024-06 --onto servercore:2024-07 -t app:1-patched",
        "winlayers rebase app:1 --old-base 3f1c9a5e77d0 --onto servercore:2024-07 -t app:1-patched",
    )
)
@click.argument("image", shell_complete=complete_images)
@click.option(
    "--onto",
    "new_base",
    required=True,
    metavar="NEWBASE",
    help="The image to put it on.",
    shell_complete=complete_images,
)
@click.option(
    "--old-base",
    metavar="OLDBASE",
    shell_complete=complete_images,
    help="The image that it stands on, or the topmost of its layers that are the base's."
    "  [default: by annotations, or by what the store has]",
)
@tag_option
@click.option(
    "-f", "--force", is_flag=True, help="Also where the layers touch files that differ between the bases."
)
@json_option
@pass_settings
def rebase(
    settings: Settings,
    image: str,
    new_base: str,
    old_base: str | None,
    reference: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Put IMAGE's own layers, as they are, on another base.  Prints the new image's reference and digest.

    It is refused where these layers replace, delete or link files of the old base that are others in the new
    one: they were made for what was there.
    """
    made = settings.store.rebase(
        image, new_base, reference, old_base=old_base, force=force, progress=settings.progress()
    )
    tell(settings, made, reference, as_json)
