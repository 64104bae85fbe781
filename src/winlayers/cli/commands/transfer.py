"""``load`` and ``save``: images in and out."""

from __future__ import annotations

import click

from winlayers.cli.context import Settings, examples, json_option, pass_settings
from winlayers.cli.output import echo, emit_json
from winlayers.images.image import Image
from winlayers.images.reference import familiar


def image_facts(image: Image) -> dict[str, object]:
    """What commands that make or take an image tell of it in JSON."""
    return {
        "reference": familiar(image.references[0]) if image.references else None,
        "digest": image.digest,
        "id": image.id,
    }


def name_of(image: Image, given: str | None = None) -> str:
    """``reference@digest``, which is a whole reference again; the digest alone for an unnamed image."""
    from winlayers.images.reference import Reference

    reference = str(Reference.parse(given)) if given is not None else None
    if reference not in image.references:
        reference = image.references[0] if image.references else None
    return image.digest if reference is None else f"{familiar(reference)}@{image.digest}"


@click.command(
    epilog=examples(
        "winlayers load oci:./layouts/python-app:3.13",
        "winlayers load ./layouts/python-app",
        "winlayers load --name app:test oci:./layout:latest",
    )
)
@click.argument("source")
@click.option("--name", metavar="REF", help="What to call the image.  [default: what the source calls it]")
@click.option("--all", "everything", is_flag=True, help="Load every image that the source holds.")
@click.option("--platform", metavar="OS/ARCH[:VERSION]", help="What to choose where there is a choice.")
@json_option
@pass_settings
def load(
    settings: Settings, source: str, name: str | None, everything: bool, platform: str | None, as_json: bool
) -> None:
    """Bring the image in SOURCE into the store, and print its reference and digest.

    SOURCE is oci:FOLDER[:TAG], or a bare folder that holds an OCI image layout.
    """
    from winlayers.images.platforms import Platform

    if everything and name is not None:
        raise click.UsageError("--name gives one image a name; it can't be used with --all")
    images = settings.store.load_all(
        source,
        name=name,
        platform=None if platform is None else Platform.parse(platform),
        progress=settings.progress(),
        single=not everything,
    )
    if as_json:
        emit_json([image_facts(image) for image in images] if everything else image_facts(images[0]))
        return
    for image in images:
        echo(image.id if settings.quiet else name_of(image, name))


@click.command(epilog=examples("winlayers save app:2.0 oci:./layout:2.0"))
@click.argument("image")
@click.argument("target")
@click.option("--foreign", is_flag=True, help="Also send layers that may not be distributed.")
@json_option
@pass_settings
def save(settings: Settings, image: str, target: str, foreign: bool, as_json: bool) -> None:
    """Write IMAGE to TARGET, every blob as it came, and print the manifest's digest.

    TARGET is oci:FOLDER:TAG; the layout is made if it is not there.
    """
    descriptor = settings.store.save(image, target, foreign=foreign, progress=settings.progress())
    if as_json:
        emit_json({"target": target, "digest": descriptor.digest, "size": descriptor.size})
    else:
        echo(descriptor.digest)
