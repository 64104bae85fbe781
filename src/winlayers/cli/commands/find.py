"""``find``: search an image for files."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from winlayers.cli.commands.looking import Looker, layer_root_option, looks
from winlayers.cli.context import complete_trees, examples, json_option
from winlayers.cli.output import echo, emit_json, printable

if TYPE_CHECKING:
    from winlayers.inspection import Entry

_UNITS = {"": 1, "c": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"([+-]?)([0-9]+)([ckMG]?)")
_TYPES = {"f": "-", "d": "d", "l": "lj"}


def _size_test(context: click.Context, parameter: click.Parameter, value: str | None) -> object:
    if value is None:
        return None
    match = _SIZE.fullmatch(value)
    if match is None:
        raise click.BadParameter("a number with +, - or nothing before it and c, k, M or G after it")
    compare = {"+": operator.gt, "-": operator.lt, "": operator.eq}[match[1]]
    return compare, int(match[2]) * _UNITS[match[3]]


@click.command(
    epilog=examples(
        "winlayers find app:2.0 -name '*.dll' -size +1M",
        "winlayers find app:2.0 /Users -type d",
        "winlayers find oci:./layout:3.13 -type f -layer 3",
    )
)
@click.argument("target", metavar="IMAGE[:PATH]", shell_complete=complete_trees)
@click.argument("inner", required=False, metavar="[PATH]")
@click.option(
    "-name", "--name", "-iname", "name", metavar="GLOB", help="Names like GLOB, in any letter case."
)
@click.option(
    "-path", "--path", "-ipath", "path", metavar="GLOB", help="Whole paths like GLOB, in any letter case."
)
@click.option(
    "-type",
    "--type",
    "kind",
    type=click.Choice(sorted(_TYPES)),
    help="f files, d directories, l symbolic links and junctions.",
)
@click.option(
    "-size",
    "--size",
    "size",
    metavar="[+-]N[kMG]",
    callback=_size_test,
    help="More, less or exactly N bytes.",
)
@click.option(
    "-layer",
    "--layer",
    "layer",
    type=click.IntRange(min=1),
    metavar="N",
    help="What comes from layer N, base 1.",
)
@click.option("-maxdepth", "--maxdepth", "depth", type=click.IntRange(0), metavar="N", help="N levels only.")
@click.option("-print0", "--print0", "zero", is_flag=True, help="End each path with a NUL.")
@layer_root_option
@json_option
@looks
def find(
    looker: Looker,
    target: str,
    inner: str | None,
    name: str | None,
    path: str | None,
    kind: str | None,
    size: tuple[Callable[[int, int], bool], int] | None,
    layer: int | None,
    depth: int | None,
    zero: bool,
    layer_root: bool,
    as_json: bool,
) -> None:
    """Print the paths in IMAGE that pass all tests. They can be given to other commands after IMAGE:.

    Sizes are compared as they are; unlike in find(1) nothing is rounded.
    """
    from winlayers.inspection.facts import listing_facts
    from winlayers.inspection.target import parse_target

    image, given = parse_target(target)
    if given is not None and inner is not None:
        raise click.UsageError("the path is given twice")
    tree = looker.tree(image)
    top = tree.find(inner or given or "/", layer_root=layer_root)
    tests: list[Callable[[Entry], bool]] = []
    if name is not None:
        tests.append(_matches(name, lambda entry: entry.name))
    if path is not None:
        tests.append(_matches(path.replace("\\", "/"), lambda entry: entry.shown))
    if kind is not None:
        tests.append(lambda entry: entry.type.value in _TYPES[kind])
    if size is not None:
        compare, wanted = size
        tests.append(lambda entry: not entry.inode.is_directory and compare(entry.size, wanted))
    if layer is not None:
        tests.append(lambda entry: (found := tree.layer_of(entry)) is not None and found.number == layer)
    if depth is not None:
        level = top.path.count("/") + (1 if top.path else 0)
        tests.append(lambda entry: entry.path.count("/") + 1 - level <= depth)
    entries = (entry for entry in tree.walk(top) if all(test(entry) for test in tests))
    if as_json:
        emit_json([listing_facts(tree, entry) for entry in entries])
        return
    for entry in entries:
        if zero:
            click.echo(entry.shown.encode("utf-8", "surrogatepass") + b"\0", nl=False)
        else:
            echo(printable(entry.shown))


def _matches(glob: str, text: Callable[[Entry], str]) -> Callable[[Entry], bool]:
    from winlayers.win32.names import upcase

    pattern = re.compile(fnmatch.translate(upcase(glob)))
    return lambda entry: pattern.match(upcase(text(entry))) is not None
