"""``layers`` and ``layer export``."""

from __future__ import annotations

import click

from winlayers.cli.context import (
    Settings,
    complete_images,
    complete_layers,
    examples,
    json_option,
    pass_settings,
)
from winlayers.cli.lazy import Entry, LazyGroup
from winlayers.cli.output import echo, emit_json, human_size, table, write_stream


@click.command(epilog=examples("winlayers layers app:2.0", "winlayers layers app:2.0 --json"))
@click.argument("image", shell_complete=complete_images)
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@json_option
@pass_settings
def layers(settings: Settings, image: str, no_trunc: bool, as_json: bool) -> None:
    """List IMAGE's layers, base first."""
    found = settings.store.layers(image)
    if as_json:
        emit_json(
            [
                {
                    "id": info.id,
                    "diff_id": info.diff_id,
                    "chain_id": info.chain_id,
                    "entries": info.entries,
                    "size": info.size,
                    "stream_size": info.stream_size,
                    "blob": info.blob.digest,
                    "blob_size": info.blob.size,
                    "media_type": info.blob.media_type,
                    "present": info.present,
                }
                for info in found
            ]
        )
        return
    if settings.quiet:
        for info in found:
            echo(info.id)
        return
    cut = None if no_trunc else 12
    table(
        ["LAYER ID", "DIFF ID", "ENTRIES", "SIZE", "BLOB SIZE"],
        [
            [
                info.id[:cut],
                info.diff_id.rpartition(":")[2][:cut],
                "-" if info.entries is None else str(info.entries),
                "-" if info.size is None else human_size(info.size),
                human_size(info.blob.size),
            ]
            for info in found
        ],
        right=(2, 3, 4),
    )


@click.command(
    epilog=examples(
        "winlayers layer export 3f1c9a5e77d0 -o layer.tar", "winlayers layer export 3f1c9a5e77d0 | sha256sum"
    )
)
@click.argument("identifier", metavar="ID", shell_complete=complete_layers)
@click.option("-o", "--output", default="-", metavar="FILE|-", help="[default: standard output]")
@pass_settings
def export(settings: Settings, identifier: str, output: str) -> None:
    """Write a layer's uncompressed tar; its SHA-256 is the layer's diff id.

    ID is a layer id, chain id or diff id, or the start of one; or a container, for its changes.
    """
    stream = settings.store.export_layer(identifier)
    try:
        write_stream(stream.read, output)
    finally:
        stream.close()


@click.command(
    cls=LazyGroup,
    table={
        "export": Entry(f"{__name__}:export", "Commands", "Write a layer's uncompressed tar."),
    },
)
def layer() -> None:
    """Work on single layers."""
