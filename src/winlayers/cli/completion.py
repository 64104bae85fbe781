"""Completion in shells: click's for bash, zsh and fish, and one for PowerShell.

A shell runs ``winlayers`` with ``_WINLAYERS_COMPLETE`` set, and reads the proposals; the scripts that make
it do so are printed by ``winlayers completion``.
"""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class, get_completion_class

VARIABLE = "_WINLAYERS_COMPLETE"
SHELLS = ("bash", "zsh", "fish", "powershell")
_TAB = "\t"

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $env:COMP_WORDS = @($commandAst.CommandElements | ForEach-Object { "$_" }) -join "`n"
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


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell: words in COMP_WORDS, a line each; the one being typed in COMP_CWORD."""

    name = "powershell"
    source_template = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """The complete words after the program's name, and the incomplete one."""
        words = os.environ.get("COMP_WORDS", "").splitlines()[1:]
        incomplete = os.environ.get("COMP_CWORD", "")
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """A value, and its help behind a tab."""
        return f"{item.value}{_TAB}{item.help}" if item.help else str(item.value)


def register() -> None:
    """Let click know of PowerShell."""
    add_completion_class(PowerShellComplete)


def script(command: click.Command, shell: str) -> str:
    """The script that sets up completion in *shell*."""
    register()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}; there is one for {', '.join(SHELLS)}")
    completer = kind(command, {}, "winlayers", VARIABLE)
    # Not .source(): for bash that runs bash to look at its version.
    return completer.source_template % completer.source_vars()
