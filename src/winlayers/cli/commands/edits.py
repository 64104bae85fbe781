"""What ``append``, ``config``, ``squash`` and ``rebase`` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from winlayers.cli.context import Settings
from winlayers.cli.output import echo, emit_json
from winlayers.images.image import Image

Command = TypeVar("Command", bound=Callable[..., Any])


def tag_option(function: Command) -> Command:
    """``-t``: what to call the new image."""
    return click.option("-t", "--tag", "reference", metavar="REF", help="What to call the new image.")(
        function
    )


def compression_options(function: Command) -> Command:
    """``--compression`` and ``--level`` of new layers."""
    kind = click.option(
        "--compression",
        type=click.Choice(["gzip", "zstd", "none"]),
        default="gzip",
        show_default=True,
        help="How new layers are compressed.",
    )
    return kind(click.option("--level", type=int, help="The compression's level.")(function))


def tell(settings: Settings, image: Image, reference: str | None, as_json: bool) -> None:
    """Print the new image's reference and digest."""
    from winlayers.cli.commands.transfer import image_facts, name_of
    from winlayers.images.reference import Reference

    if as_json:
        given = {} if reference is None else {"reference": Reference.parse(reference).familiar}
        emit_json({**image_facts(image), **given})
    else:
        echo(image.id if settings.quiet else name_of(image, reference))
