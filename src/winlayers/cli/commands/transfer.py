"""``load``, ``save``, ``pull``, ``push`` and ``copy``: images in and out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import click

from winlayers.cli.context import (
    Settings,
    complete_images,
    complete_places,
    examples,
    json_option,
    pass_settings,
    quiet_option,
)
from winlayers.cli.output import echo, emit_json
from winlayers.images.image import Image
from winlayers.images.platforms import Platform
from winlayers.images.reference import Reference, familiar
from winlayers.images.registry.options import RegistryOptions

Command = Callable[..., Any]


def image_facts(image: Image) -> dict[str, object]:
    """What commands that make or take an image tell of it in JSON."""
    return {
        "reference": familiar(image.references[0]) if image.references else None,
        "digest": image.digest,
        "id": image.id,
    }


def name_of(image: Image, given: str | None = None) -> str:
    """``reference@digest``, which is a whole reference again; the digest alone for an unnamed image."""
    reference = str(Reference.parse(given)) if given is not None else None
    if reference not in image.references:
        reference = image.references[0] if image.references else None
    return image.digest if reference is None else f"{familiar(reference).partition('@')[0]}@{image.digest}"


class PlatformType(click.ParamType[Platform]):
    """``windows/amd64[:os.version]``."""

    name = "OS/ARCH[:VERSION]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Platform:
        """The platform; a malformed one is wrong usage."""
        from winlayers.errors import PlatformError

        if isinstance(value, Platform):
            return value
        try:
            return Platform.parse(value)
        except PlatformError as error:
            self.fail(str(error), param, ctx)


platform_option = click.option(
    "--platform",
    type=PlatformType(),
    metavar=PlatformType.name,
    help="What to choose where there is a choice.",
)
foreign_option = click.option(
    "--foreign", is_flag=True, help="Also send layers that may not be distributed to a registry."
)
blobs_option = click.option(
    "--no-keep-blobs",
    "keep_blobs",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Keep no compressed layers: less disk, but the image can't be saved or pushed as it came.",
)


def registry_options(command: Command) -> Command:
    """Add the options that say how registries are reached; the command gets ``registry``."""
    import functools

    @click.option("--creds", envvar="WINLAYERS_CREDS", metavar="USER:PASSWORD", help="Instead of docker's.")
    @click.option(
        "--insecure", is_flag=True, help="Allow plain HTTP and certificates that can't be verified."
    )
    @click.option(
        "--ca",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Certificates to trust as well.",
    )
    @click.option(
        "--parallel", type=click.IntRange(1, 32), default=4, show_default=True, help="Blobs moved at once."
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, creds: str | None, insecure: bool, ca: str | None, parallel: int, **kwargs: Any
    ) -> Any:
        return command(*args, registry=RegistryOptions(creds, insecure, ca, parallel), **kwargs)

    return wrapped


def tell(settings: Settings, image: Image, given: str | None, as_json: bool) -> None:
    """Print what image has come to be in the store."""
    if as_json:
        emit_json(image_facts(image))
    else:
        echo(image.id if settings.quiet else name_of(image, given))


def _docker_archive(file: str, image: str) -> str:
    """The target that docker's ``save -o FILE IMAGE`` means; an image named by its id gets no name."""
    if ":" in file:
        raise click.UsageError(f"a file with a colon in its name can't be written: {file}")
    named = "/" in image or ":" in image or "." in image
    return f"docker-archive:{file}" + (f":{image}" if named and "@" not in image else "")


def _one_of(argument: str | None, option: str | None, name: str, flag: str) -> str:
    """What was given either as an argument or, as docker has it, with an option."""
    if argument is not None and option is not None:
        raise click.UsageError(f"give {name} or {flag}, not both")
    if argument is None and option is None:
        raise click.UsageError(f"Missing argument '{name}'.")
    return argument or option or ""


@click.command(
    epilog=examples(
        "winlayers load oci:./layouts/python-app:3.13",
        "winlayers load ./python-app.tar",
        "winlayers load --name app:test oci:./layout:latest",
        "docker save app | winlayers load -",
    )
)
@click.argument("source", required=False, shell_complete=complete_places)
@click.option(
    "-i",
    "--input",
    "file",
    shell_complete=complete_places,
    metavar="FILE",
    help="The same as SOURCE, as docker has it.",
)
@click.option("--name", metavar="REF", help="What to call the image.  [default: what the source calls it]")
@click.option("--all", "everything", is_flag=True, help="Load every image that the source holds.")
@platform_option
@blobs_option
@quiet_option
@json_option
@registry_options
@pass_settings
def load(
    settings: Settings,
    source: str | None,
    file: str | None,
    name: str | None,
    everything: bool,
    platform: Platform | None,
    keep_blobs: bool,
    as_json: bool,
    registry: RegistryOptions,
) -> None:
    """Bring the image in SOURCE into the store, and print its reference and digest.

    \b
    SOURCE is
      oci:FOLDER[:TAG]            an OCI image layout
      oci-archive:FILE[:TAG]      one in a tar
      docker-archive:FILE[:REF]   what docker save wrote
      docker://REF                an image in a registry
      a folder or archive, told by looking at it; - is standard input
    """
    source = _one_of(source, file, "SOURCE", "--input")
    if everything and name is not None:
        raise click.UsageError("--name gives one image a name; it can't be used with --all")
    images = settings.store.load_all(
        source,
        name=name,
        platform=platform,
        keep_blobs=keep_blobs,
        registry=registry,
        progress=settings.progress(),
        single=not everything,
    )
    if as_json and everything:
        emit_json([image_facts(image) for image in images])
        return
    for image in images:
        tell(settings, image, name, as_json)


@click.command(
    epilog=examples(
        "winlayers save app:2.0 oci:./layout:2.0",
        "winlayers save app:2.0 docker-archive:app.tar:app:2.0",
        "winlayers save app:2.0 oci-archive:-:2.0 | ssh host winlayers load -",
        "winlayers save -o app.tar app:2.0",
    )
)
@click.argument("image", shell_complete=complete_images)
@click.argument("target", required=False, shell_complete=complete_places)
@click.option(
    "-o",
    "--output",
    "file",
    shell_complete=complete_places,
    metavar="FILE",
    help="The same as docker-archive:FILE:IMAGE, as docker has it.",
)
@foreign_option
@quiet_option
@json_option
@registry_options
@pass_settings
def save(
    settings: Settings,
    image: str,
    target: str | None,
    file: str | None,
    foreign: bool,
    as_json: bool,
    registry: RegistryOptions,
) -> None:
    """Write IMAGE to TARGET, every blob as it came, and print the manifest's digest.

    \b
    TARGET is
      oci:FOLDER:TAG              an OCI image layout, which may be there already
      oci-archive:FILE[:TAG]      one in a new tar; - is standard output
      docker-archive:FILE[:REF]   for docker load; layers uncompressed
      docker://REF                a registry
    """
    archive = None if file is None else _docker_archive(file, image)
    target = _one_of(target, archive, "TARGET", "--output")
    descriptor = settings.store.save(
        image, target, foreign=foreign, registry=registry, progress=settings.progress()
    )
    if as_json:
        emit_json({"target": target, "digest": descriptor.digest, "size": descriptor.size})
    elif ":-" not in target:
        echo(descriptor.digest)


@click.command(
    epilog=examples(
        "winlayers pull mcr.microsoft.com/windows/nanoserver:ltsc2022",
        "winlayers pull --platform windows/amd64:10.0.17763 mcr.microsoft.com/windows/servercore:ltsc2019",
        "winlayers pull localhost:5000/team/app:2.0 --name app:2.0",
    )
)
@click.argument("reference")
@click.option("--name", metavar="REF", help="What to call the image.  [default: REFERENCE]")
@platform_option
@blobs_option
@quiet_option
@json_option
@registry_options
@pass_settings
def pull(
    settings: Settings,
    reference: str,
    name: str | None,
    platform: Platform | None,
    keep_blobs: bool,
    as_json: bool,
    registry: RegistryOptions,
) -> None:
    """Bring the image REFERENCE from its registry into the store, and print its reference and digest.

    An image that is pulled by its digest is called by it.  Credentials are those of docker, podman, skopeo
    and crane auth login.  Mirrors and certificates are configured as for containerd, in
    /etc/containerd/certs.d/REGISTRY/hosts.toml.
    """
    image = settings.store.pull(
        reference,
        name=name,
        platform=platform,
        keep_blobs=keep_blobs,
        registry=registry,
        progress=settings.progress(),
    )
    tell(settings, image, name, as_json)


@click.command(
    epilog=examples(
        "winlayers push registry.example/team/app:2.0", "winlayers push app:2.0 localhost:5000/team/app:2.0"
    )
)
@click.argument("image", shell_complete=complete_images)
@click.argument("reference", required=False)
@foreign_option
@quiet_option
@json_option
@registry_options
@pass_settings
def push(
    settings: Settings,
    image: str,
    reference: str | None,
    foreign: bool,
    as_json: bool,
    registry: RegistryOptions,
) -> None:
    """Send IMAGE to the registry that REFERENCE (or its own name) says, and print the manifest's digest.

    Blobs that are there already, here or in another repository of that registry, are not sent.
    """
    descriptor = settings.store.push(
        image, reference, foreign=foreign, registry=registry, progress=settings.progress()
    )
    if as_json:
        emit_json({"target": reference or image, "digest": descriptor.digest, "size": descriptor.size})
    else:
        echo(descriptor.digest)


@click.command(
    epilog=examples(
        "winlayers copy docker://mcr.microsoft.com/windows/nanoserver:ltsc2022 oci:./nano:ltsc2022",
        "winlayers copy oci-archive:app.tar docker://localhost:5000/app:2.0",
        "winlayers copy --all docker://mcr.microsoft.com/windows/nanoserver:ltsc2022 oci:./nano:all",
    )
)
@click.argument("source", shell_complete=complete_places)
@click.argument("target", shell_complete=complete_places)
@click.option(
    "-a",
    "--all",
    "everything",
    is_flag=True,
    help="Copy the whole index, for all platforms, its digest kept.",
)
@platform_option
@foreign_option
@click.option("--src-creds", metavar="USER:PASSWORD", help="Those of SOURCE's registry alone.")
@click.option("--dest-creds", metavar="USER:PASSWORD", help="Those of TARGET's registry alone.")
@quiet_option
@json_option
@registry_options
@pass_settings
def copy(
    settings: Settings,
    source: str,
    target: str,
    everything: bool,
    platform: Platform | None,
    foreign: bool,
    src_creds: str | None,
    dest_creds: str | None,
    as_json: bool,
    registry: RegistryOptions,
) -> None:
    """Copy an image from SOURCE to TARGET, every blob as it is, without a store.

    Both are named as for load and save.  Where SOURCE is for several platforms, one image is chosen of them;
    with --all they all are copied, and what else lies beside them.
    """
    from winlayers.images.exporter import copy as copy_image

    if everything and platform is not None:
        raise click.UsageError("--all copies every platform; it can't be used with --platform")
    descriptor = copy_image(
        source,
        target,
        platform=platform,
        everything=everything,
        foreign=foreign,
        registry=dataclasses.replace(registry, credentials=src_creds or registry.credentials),
        target_registry=dataclasses.replace(registry, credentials=dest_creds or registry.credentials),
        progress=settings.progress(),
    )
    if as_json:
        emit_json({"source": source, "target": target, "digest": descriptor.digest, "size": descriptor.size})
    elif ":-" not in target:
        echo(descriptor.digest)
