"""``info``."""

from __future__ import annotations

import os

import click

from winlayers._version import __version__
from winlayers.cli.context import Settings, examples, json_option, pass_settings
from winlayers.cli.output import echo, emit_json


@click.command(epilog=examples("winlayers info", "winlayers info --json"))
@json_option
@pass_settings
def info(settings: Settings, as_json: bool) -> None:
    """Tell about the store, its graph driver, and the kind of mounts that is used here and why."""
    store = settings.store
    facts: list[tuple[str, str | int]] = [
        ("Version", __version__),
        ("Root", os.fspath(store.root)),
        ("Images", len(store.images.images())),
        ("Containers", len(store.containers.containers())),
        ("Storage driver", store.driver.name),
    ]
    for name, value in store.driver.status():  # texts, as docker's drivers give them
        if value:
            facts.append((name, int(value) if name == "Layers" else value))
    if as_json:
        emit_json({name.lower().replace(" ", "_"): fact for name, fact in facts})
        return
    for name, fact in facts:
        echo(f"{name}: {fact}")
