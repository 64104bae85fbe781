"""Completion in shells: of commands, options, images, containers and layers.

A shell runs ``winlayers`` with ``_WINLAYERS_COMPLETE`` set, and reads the proposals; the scripts that make
it do so are printed by ``winlayers completion``.  zsh and fish are click's; bash is not, for click's breaks
at the colons of references; PowerShell is not in click.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from winlayers.errors import WinlayersError

if TYPE_CHECKING:
    from winlayers.store import Store

VARIABLE = "_WINLAYERS_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell")
_TAB = "\t"

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion type value
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
    COMPREPLY=()
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done
    case ${COMPREPLY[0]} in
        *[:/]) [ ${#COMPREPLY[@]} -gt 1 ] || compopt -o nospace ;;
    esac
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = $commandAst.CommandElements | Where-Object { $_.Extent.StartOffset -lt $cursorPosition }
    $env:COMP_WORDS = @($words | ForEach-Object { "$_" }) -join "`n"
    $env:COMP_CWORD = $wordToComplete
    $env:%(complete_var)s = "powershell_complete"
    try {
        & %(prog_name)s | ForEach-Object {
            $value, $text = $_ -split "`t", 2
            if (-not $text) { $text = $value }
            [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $text)
        }
    } finally {
        Remove-Item Env:COMP_WORDS, Env:COMP_CWORD, Env:%(complete_var)s -ErrorAction SilentlyContinue
    }
}
"""


class BashComplete(ShellComplete):
    """Completion for bash, by the line up to the cursor.

    Readline takes a colon or an equal sign for the end of a word, too: what is before it is on the line
    already, and a proposal must not repeat it.
    """

    name = "bash"
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The complete words after the program's name, and the incomplete one."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        if not words or line[-1:].isspace():
            return words, ""
        return words[:-1], words[-1]

    def complete(self) -> str:
        """The proposals, a line each, without what is on the line already."""
        args, incomplete = self.get_completion_args()
        breaks = set(os.environ.get("COMP_WORDBREAKS", "")) & set(":=")
        cut = max((incomplete.rfind(character) + 1 for character in breaks), default=0)
        items = self.get_completions(args, incomplete)
        return "\n".join(f"{item.type},{_after(str(item.value), incomplete[:cut])}" for item in items)


def _after(value: str, prefix: str) -> str:
    return value.removeprefix(prefix)


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell: words in COMP_WORDS, a line each; the one being typed in COMP_CWORD."""

    name = "powershell"
    source_template = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """The complete words after the program's name, and the incomplete one."""
        words = [_unquoted(word) for word in os.environ.get("COMP_WORDS", "").splitlines()[1:]]
        incomplete = _unquoted(os.environ.get("COMP_CWORD", ""))
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def complete(self) -> str:
        """The proposals, a line each; none for files, which PowerShell then completes itself."""
        items = self.get_completions(*self.get_completion_args())
        return "\n".join(self.format_completion(item) for item in items if item.type == "plain")

    def format_completion(self, item: CompletionItem) -> str:
        """A value, and its help behind a tab."""
        return f"{item.value}{_TAB}{item.help}" if item.help else str(item.value)


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word


def register() -> None:
    """Let click know of the shells that it does not know, or not well."""
    add_completion_class(BashComplete)
    add_completion_class(PowerShellComplete)


def script(command: click.Command, shell: str) -> str:
    """The script that sets up completion in *shell*."""
    register()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}; there is one for {', '.join(SHELLS)}")
    completer = kind(command, {}, "winlayers", VARIABLE)
    return completer.source_template % completer.source_vars()


# -- places --

_WITH_PATHS = ("oci:", "oci-archive:", "docker-archive:")
_TRANSPORTS = (*_WITH_PATHS, "docker://")


def places(incomplete: str) -> list[CompletionItem]:
    """Transports that begin with what was typed, and files behind them; the shell completes other files."""
    transport, colon, path = incomplete.partition(":")
    if colon:
        prefix = f"{transport}:"
        return [CompletionItem(prefix + name) for name in _paths(path)] if prefix in _WITH_PATHS else []
    named = [name for name in _TRANSPORTS if incomplete and name.startswith(incomplete)]
    if named:
        return [CompletionItem(name) for name in (*named, *_paths(incomplete))]
    return [CompletionItem(incomplete, type="file")]


def _paths(start: str) -> list[str]:
    """The files and folders whose path begins with *start*; hidden ones only where a dot was typed."""
    folder, base = os.path.split(start)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    found = [e for e in entries if e.name.startswith(base) and (base or not e.name.startswith("."))]
    return [os.path.join(folder, e.name) + ("/" if e.is_dir() else "") for e in found]


# -- what the store has --


def proposals(
    context: click.Context, incomplete: str, *kinds: Callable[[Store], Iterable[str]]
) -> list[CompletionItem]:
    """The names in the store that begin with what was typed; none where there is no store, or it is damaged.

    Args:
        kinds: give the names, such as :func:`images`.
    """
    from winlayers.store import default_root, open_store
    from winlayers.storefolder import is_store

    root = context.find_root().params.get("root") or default_root()
    try:
        if not is_store(root):
            return []
        store = open_store(root)
        names = dict.fromkeys(name for kind in kinds for name in kind(store))
    except (WinlayersError, OSError):
        return []  # no place for errors: the command will tell
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def images(store: Store) -> list[str]:
    """The references, as people write them; of the index alone, no image is read."""
    from winlayers.images.documents import REF_NAME
    from winlayers.images.reference import familiar

    found = (image.annotations.get(REF_NAME) for image in store.images.content.manifests())
    return sorted(familiar(name) for name in found if name is not None)


def containers(store: Store) -> list[str]:
    """The containers' names."""
    return sorted(container.name for container in store.containers.containers())


def layers(store: Store) -> list[str]:
    """The image layers' ids, as ``layers`` prints them."""
    return sorted(identifier[:12] for identifier in store.images.layer_ids())
