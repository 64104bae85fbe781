"""``create``, ``ps``, ``mount``, ``umount``, ``changes``, ``commit`` and ``rm``."""

from __future__ import annotations

import click

from winlayers.cli.context import (
    Attempts,
    Settings,
    complete_containers,
    complete_images,
    examples,
    json_option,
    pass_settings,
)
from winlayers.cli.output import age, echo, emit_json, printable, table
from winlayers.containers.record import Container


@click.command(
    epilog=examples(
        "winlayers create app:2.0 --name web", "winlayers create app:2.0 --storage-opt size=40GB --name big"
    )
)
@click.argument("image", shell_complete=complete_images)
@click.option("--name", help="The container's name.  [default: a random one]")
@click.option(
    "--storage-opt", multiple=True, metavar="KEY=VALUE", help="An option of its scratch layer: size."
)
@json_option
@pass_settings
def create(
    settings: Settings, image: str, name: str | None, storage_opt: tuple[str, ...], as_json: bool
) -> None:
    """Make a container: a scratch layer on IMAGE's layers.  Prints its id."""
    options = {}
    for text in storage_opt:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--storage-opt takes KEY=VALUE, not {text!r}")
        options[key] = value
    container = settings.store.create(image, name=name, storage_opt=options)
    if as_json:
        emit_json(_facts(settings, container))
    else:
        echo(container.id)


def _facts(settings: Settings, container: Container) -> dict[str, object]:
    value = container.to_json()
    del value["version"]
    value["mount"] = settings.store.containers.mount_path(container)
    return value


@click.command(epilog=examples("winlayers ps", "winlayers ps --json"))
@click.option("-q", "--quiet", "ids_only", is_flag=True, help="Print ids alone.")
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@click.option(
    "-a", "--all", is_flag=True, expose_value=False, help="For docker's sake: all are listed anyway."
)
@json_option
@pass_settings
def ps(settings: Settings, ids_only: bool, no_trunc: bool, as_json: bool) -> None:
    """List containers, the newest first."""
    found = settings.store.containers.containers()
    if as_json:
        emit_json([_facts(settings, container) for container in found])
        return
    cut = None if no_trunc else 12
    if ids_only or settings.quiet:
        for container in found:
            echo(container.id[:cut])
        return
    mount_path = settings.store.containers.mount_path
    table(
        ["CONTAINER ID", "IMAGE", "CREATED", "NAME", "MOUNTED AT"],
        [
            [
                container.id[:cut],
                container.image or container.image_id.rpartition(":")[2][:12],
                age(container.created),
                container.name,
                mount_path(container) or "-",
            ]
            for container in found
        ],
    )


@click.command(
    epilog=examples("winlayers mount web", "winlayers mount web /mnt/web", 'cd "$(winlayers mount web)"')
)
@click.argument("container", shell_complete=complete_containers)
@click.argument("folder", required=False, type=click.Path(file_okay=False))
@pass_settings
def mount(settings: Settings, container: str, folder: str | None) -> None:
    """Mount CONTAINER's drive C:, writable, and print its path.

    FOLDER must be empty; without it the view appears in a place of the store's own.
    """
    echo(settings.store.mount(container, folder))


@click.command(epilog=examples("winlayers umount web"))
@click.argument(
    "containers", nargs=-1, required=True, metavar="CONTAINER...", shell_complete=complete_containers
)
@pass_settings
def umount(settings: Settings, containers: tuple[str, ...]) -> None:
    """Unmount containers; their changes stay."""
    attempts = Attempts(settings)
    for container in containers:
        with attempts.attempt():
            settings.store.unmount(container)
            if not settings.quiet:
                echo(container)
    attempts.finish()


@click.command(epilog=examples("winlayers changes web", "winlayers changes web --json"))
@click.argument("container", shell_complete=complete_containers)
@json_option
@pass_settings
def changes(settings: Settings, container: str, as_json: bool) -> None:
    """List what CONTAINER changes: A added, C changed, D deleted."""
    found = settings.store.changes(container)
    if as_json:
        emit_json(
            [
                {
                    "kind": change.kind.value,
                    "path": change.path,
                    "size": change.size,
                    "stream_size": change.stream_size,
                    "directory": change.is_directory,
                    "metadata_only": change.metadata_only,
                }
                for change in found
            ]
        )
        return
    for change in found:
        echo(f"{change.kind.value} {printable(change.path)}")


@click.command(
    epilog=examples(
        "winlayers commit web app:2.1",
        'winlayers commit web app:2.1 --message "patched" --author "A. Engineer"',
    )
)
@click.argument("container", shell_complete=complete_containers)
@click.argument("reference", required=False)
@click.option("-a", "--author", default="", help="Who made it.")
@click.option("-m", "--message", default="", help="A comment for the image's history.")
@click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd", "none"]),
    default="gzip",
    show_default=True,
    help="How the new layer is compressed.",
)
@click.option("--level", type=int, help="The compression's level.")
@json_option
@pass_settings
def commit(
    settings: Settings,
    container: str,
    reference: str | None,
    author: str,
    message: str,
    compression: str,
    level: int | None,
    as_json: bool,
) -> None:
    """Make an image of CONTAINER: its changes become a layer on top.  Prints reference and digest.

    The same changes give the same layer.  SOURCE_DATE_EPOCH sets the times that are recorded.
    """
    from winlayers.cli.commands.transfer import image_facts, name_of

    image = settings.store.commit(
        container,
        reference,
        author=author,
        message=message,
        compression=compression,
        level=level,
        progress=settings.progress(),
    )
    if as_json:
        emit_json(image_facts(image))
    else:
        echo(image.id if settings.quiet else name_of(image, reference))


@click.command(epilog=examples("winlayers rm web", "winlayers rm --force web db"))
@click.argument(
    "containers", nargs=-1, required=True, metavar="CONTAINER...", shell_complete=complete_containers
)
@click.option("-f", "--force", is_flag=True, help="Unmount it first where it is mounted.")
@pass_settings
def rm(settings: Settings, containers: tuple[str, ...], force: bool) -> None:
    """Remove containers with their changes."""
    attempts = Attempts(settings)
    for container in containers:
        with attempts.attempt():
            settings.store.remove_container(container, force=force)
            if not settings.quiet:
                echo(container)
    attempts.finish()
