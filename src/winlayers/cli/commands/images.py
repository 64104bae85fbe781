"""``images``, ``tag`` and ``rmi``."""

from __future__ import annotations

import click

from winlayers.cli.context import Attempts, Settings, complete_images, examples, json_option, pass_settings
from winlayers.cli.output import age, echo, emit_json, human_size, table
from winlayers.images.digest import short
from winlayers.images.image import Image
from winlayers.images.reference import Reference, familiar

_Row = tuple[str, str, str | None]


def _rows(image: Image, wanted: str | None = None) -> list[_Row]:
    """An image's repository, tag and reference, once for each reference that *wanted* means, if given."""
    only = None if wanted is None else Reference.parse(wanted)
    tagged = wanted is not None and ":" in wanted.rpartition("/")[2]
    rows: list[_Row] = []
    for text in image.references:
        reference = Reference.parse(text)
        if only is None or (
            reference.repository == only.repository and (not tagged or reference.tag == only.tag)
        ):
            rows.append((reference.familiar_repository, reference.tag or "<none>", reference.familiar))
    return rows or ([("<none>", "<none>", None)] if only is None and not image.references else [])


@click.command(epilog=examples("winlayers images", "winlayers images app", "winlayers images --json"))
@click.argument("wanted", required=False, metavar="[REPOSITORY[:TAG]]", shell_complete=complete_images)
@click.option("--digests", is_flag=True, help="Show manifest digests.")
@click.option("--no-trunc", is_flag=True, help="Show whole ids.")
@click.option("-q", "--quiet", "ids_only", is_flag=True, help="Print ids alone.")
@json_option
@pass_settings
def images(
    settings: Settings, wanted: str | None, digests: bool, no_trunc: bool, ids_only: bool, as_json: bool
) -> None:
    """List the images in the store, or those of one repository."""
    found = [(image, rows) for image in settings.store.images.images() if (rows := _rows(image, wanted))]
    if as_json:
        emit_json([_facts(image, *row) for image, rows in found for row in rows])
        return
    if ids_only or settings.quiet:
        for image, _ in found:
            echo(image.id if no_trunc else short(image.id))
        return
    header = [
        "REPOSITORY",
        "TAG",
        *(["DIGEST"] if digests else []),
        "IMAGE ID",
        "OS VERSION",
        "CREATED",
        "SIZE",
    ]
    lines = []
    for image, rows in found:
        for repository, tag_name, _ in rows:
            lines.append(
                [
                    repository,
                    tag_name,
                    *([image.digest] if digests else []),
                    image.id if no_trunc else short(image.id),
                    image.config.platform.os_version or "-",
                    age(image.config.created),
                    human_size(image.size),
                ]
            )
    table(header, lines)


def _facts(image: Image, repository: str, tag_name: str, reference: str | None) -> dict[str, object]:
    platform = image.config.platform
    return {
        "reference": reference,
        "repository": repository,
        "tag": tag_name,
        "digest": image.digest,
        "id": image.id,
        "created": image.config.created,
        "size": image.size,
        "architecture": platform.architecture,
        "os_version": platform.os_version,
        "layers": len(image.manifest.layers),
    }


@click.command(epilog=examples("winlayers tag app:2.0 registry.example/team/app:2.0"))
@click.argument("image", shell_complete=complete_images)
@click.argument("reference")
@pass_settings
def tag(settings: Settings, image: str, reference: str) -> None:
    """Give IMAGE the further name REFERENCE."""
    settings.store.tag(image, reference)


@click.command(epilog=examples("winlayers rmi app:2.0", "winlayers rmi 5f2a9c1b"))
@click.argument("names", nargs=-1, required=True, metavar="IMAGE...", shell_complete=complete_images)
@click.option("-f", "--force", is_flag=True, help="Also what containers stand on: it becomes unnamed.")
@json_option
@pass_settings
def rmi(settings: Settings, names: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Remove references, and each image with its last one.

    Blobs and layers go when no other image and no container needs them.
    """
    attempts = Attempts(settings)
    results = []
    for name in names:
        with attempts.attempt():
            removed = settings.store.remove_image(name, force=force)
            results.append(
                {
                    "untagged": [familiar(reference) for reference in removed.untagged],
                    "deleted": removed.images,
                    "layers": removed.layers,
                    "blobs": removed.blobs,
                    "bytes_freed": removed.bytes_freed,
                }
            )
            if not as_json:
                for reference in removed.untagged:
                    echo(f"Untagged: {familiar(reference)}")
                for identifier in removed.images:
                    echo(f"Deleted: {identifier}")
    if as_json:
        emit_json(results)
    attempts.finish()
