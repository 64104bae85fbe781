"""``df`` and ``prune``: what takes room, and what of it can go."""

from __future__ import annotations

import dataclasses
import sys

import click

from winlayers.cli.context import Settings, examples, json_option, pass_settings, warn
from winlayers.cli.output import echo, emit_json, human_size, table
from winlayers.images.digest import short
from winlayers.images.reference import familiar


@click.command(epilog=examples("winlayers df", "winlayers df --verbose", "winlayers df --json"))
@click.option("-v", "--verbose", is_flag=True, help="Also what each image has alone and shares.")
@json_option
@pass_settings
def df(settings: Settings, verbose: bool, as_json: bool) -> None:
    """Show the room that the store takes, and how much of it prune would free."""
    from winlayers.images.usage import disk_usage, image_usage

    store = settings.store
    rows = disk_usage(store.images, [container.id for container in store.containers.containers()])
    rows.append(store.cache.usage())
    shares = image_usage(store.images) if verbose or as_json else []
    if as_json:
        emit_json(
            {
                "usage": [dataclasses.asdict(row) for row in rows],
                "images": [
                    {
                        "references": [familiar(text) for text in share.image.references],
                        "id": share.image.id,
                        "digest": share.image.digest,
                        "size": share.size,
                        "shared": share.shared,
                        "unique": share.unique,
                        "containers": share.containers,
                    }
                    for share in shares
                ],
            }
        )
        return
    table(
        ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        [
            [
                row.kind.capitalize(),
                str(row.total),
                str(row.active),
                human_size(row.size),
                f"{human_size(row.reclaimable)} ({100 * row.reclaimable // row.size if row.size else 0}%)",
            ]
            for row in rows
        ],
        right=(1, 2, 3, 4),
    )
    if verbose:
        echo()
        table(
            ["IMAGE", "IMAGE ID", "SIZE", "SHARED", "UNIQUE", "CONTAINERS"],
            [
                [
                    familiar(share.image.references[0]) if share.image.references else "<none>",
                    short(share.image.id),
                    human_size(share.size),
                    human_size(share.shared),
                    human_size(share.unique),
                    str(share.containers),
                ]
                for share in shares
            ],
            right=(2, 3, 4, 5),
        )


@click.command(epilog=examples("winlayers prune", "winlayers prune --all --force", "winlayers prune --cache"))
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Also named images that no container stands on."
)
@click.option("--cache", "only_cache", is_flag=True, help="Only what was learnt by looking into images.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@pass_settings
def prune(settings: Settings, everything: bool, only_cache: bool, force: bool, as_json: bool) -> None:
    """Remove images without a name, blobs and layers that nothing needs, and the cache of looks into images.

    What containers stand on, and what other processes are working with, is never removed. The next look into
    an image that is not imported reads it once more.
    """
    from winlayers.images.store import Removed

    if everything and only_cache:
        raise click.UsageError("--all and --cache exclude each other")
    if not force:
        what = "all images that no container stands on" if everything else "all images without a name"
        what = "the cache of looks into images" if only_cache else f"{what}, what is left over, and the cache"
        _ask(f"This removes {what}. Go on?")
    if only_cache:
        removed = Removed(cache_freed=settings.store.cache.clear())
    else:
        removed = settings.store.prune(everything=everything)
    if as_json:
        emit_json(
            {
                "untagged": [familiar(reference) for reference in removed.untagged],
                "deleted": removed.images,
                "layers": removed.layers,
                "blobs": removed.blobs,
                "bytes_freed": removed.bytes_freed,
                "cache_freed": removed.cache_freed,
            }
        )
        return
    for reference in removed.untagged:
        echo(f"Untagged: {familiar(reference)}")
    for identifier in removed.images:
        echo(f"Deleted: {identifier}")
    if not only_cache:
        echo(
            f"Removed {len(removed.layers)} layers and {len(removed.blobs)} blobs,"
            f" {human_size(removed.bytes_freed)} of blobs"
        )
    if only_cache or removed.cache_freed:
        echo(f"Removed {human_size(removed.cache_freed)} of cache")


def _ask(question: str) -> None:
    """Go on only after a yes."""
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        click.echo(err=True)
        warn("nobody answered, so nothing was removed; --force does not ask")
        raise click.exceptions.Exit(1) from None
    warn("nothing was removed")
    raise click.exceptions.Exit(1)
