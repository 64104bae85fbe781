"""``inspect``: an image's or container's documents as JSON."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import click

from winlayers.cli.commands.looking import Looker, looks
from winlayers.cli.context import complete_trees, examples
from winlayers.cli.output import emit_json, write_out

if TYPE_CHECKING:
    from winlayers.store import Store


@click.command(
    epilog=examples(
        "winlayers inspect app:2.0",
        "winlayers inspect web | jq '.[0].MountedAt'",
        "winlayers inspect --raw-config docker://registry.example/team/app:2.0",
    )
)
@click.argument("names", nargs=-1, required=True, metavar="IMAGE|CONTAINER...", shell_complete=complete_trees)
@click.option("--raw", "raw", flag_value="manifest", help="Print the manifest, byte for byte.")
@click.option("--raw-config", "raw", flag_value="config", help="Print the configuration, byte for byte.")
@looks
def inspect(looker: Looker, names: tuple[str, ...], raw: str | None) -> None:
    """Print what is known of images and containers as a JSON array, with docker's names for the fields.

    No layer is read. A container is preferred to an image of the same name; image: or container: in front of
    the name settles it.
    """
    from winlayers.inspection.documents import (
        ImageDocuments,
        container_facts,
        find_container,
        read_documents,
    )

    def look(name: str, store: Store | None) -> dict[str, object] | ImageDocuments:
        container = find_container(name, store) if raw is None else None
        if store is not None and container is not None:
            return container_facts(container, store)
        return read_documents(name, store=store, platform=looker.platform, registry=looker.registry)

    facts: list[dict[str, object]] = []
    for name in names:
        with looker.attempt():
            documents = looker.with_store(name, functools.partial(look, name))
            if isinstance(documents, dict):
                facts.append(documents)
            elif raw is not None:
                document = documents.manifest.raw if raw == "manifest" else documents.config.raw
                write_out(document)
            else:
                facts.append(documents.facts())
    if raw is None:
        emit_json(facts)
