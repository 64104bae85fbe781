"""``history``: how an image was made."""

from __future__ import annotations

import click

from winlayers.cli.commands.looking import WITH_H, Looker, looks
from winlayers.cli.context import complete_trees, examples, json_option
from winlayers.cli.output import age, emit_json, human_size, table

_WIDTH = 60


@click.command(
    context_settings=WITH_H,
    epilog=examples("winlayers history app:2.0", "winlayers history --no-trunc oci:./layout:3.13"),
)
@click.argument("image", shell_complete=complete_trees)
@click.option("-h/-H", "--human/--no-human", "human", default=True, help="Sizes as 1.5MB.  [default: -h]")
@click.option("--no-trunc", is_flag=True, help="Show all of what made each layer.")
@json_option
@looks
def history(looker: Looker, image: str, human: bool, no_trunc: bool, as_json: bool) -> None:
    """Show the steps that made IMAGE, the newest first. No layer is read.

    SIZE is the data in the layer where the store has it; BLOB SIZE is the compressed layer.
    """
    from winlayers.inspection.documents import read_documents

    documents = looker.with_store(
        image,
        lambda store: read_documents(image, store=store, platform=looker.platform, registry=looker.registry),
    )
    steps = list(reversed(documents.history()))
    if as_json:
        emit_json(
            [
                {
                    "created": step.created or None,
                    "created_by": step.created_by,
                    "comment": step.comment,
                    "author": step.author,
                    "empty_layer": step.empty,
                    "diff_id": step.diff_id or None,
                    "blob": None if step.blob is None else step.blob.digest,
                    "blob_size": 0 if step.blob is None else step.blob.size,
                    "size": 0 if step.empty else step.size,
                }
                for step in steps
            ]
        )
        return

    def size_of(size: int | None) -> str:
        if size is None:
            return "-"
        return human_size(size) if human else str(size)

    table(
        ["LAYER", "CREATED", "CREATED BY", "SIZE", "BLOB SIZE", "COMMENT"],
        [
            [
                step.diff_id.rpartition(":")[2][:12] or "<empty>",
                age(step.created),
                _cut(step.created_by, no_trunc),
                size_of(0 if step.empty else step.size),
                size_of(0 if step.blob is None else step.blob.size),
                _cut(step.comment, no_trunc),
            ]
            for step in steps
        ],
        right=(3, 4),
    )


def _cut(text: str, whole: bool) -> str:
    text = " ".join(text.split())
    return text if whole or len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
