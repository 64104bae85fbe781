"""Changes to what containers start with: the ``config`` object of an image's configuration.

What is not asked for stays as it is, unknown fields too.  Command lines are what docker makes of them: JSON
is a list of arguments; anything else is one command line for the image's shell, which Windows gets as it is
(``ArgsEscaped``).  Sources: moby ``daemon/builder/dockerfile/dispatchers.go`` and ``dispatchers_windows.go``
for command lines, for the command that a new entry point takes away, and for variable names, which differ
in letter case without being different; OCI image specification ``config.md``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping

from winlayers.errors import ImageError

RunConfig = dict[str, object]

DEFAULT_SHELL = ("cmd", "/S", "/C")
"""What runs command lines in Windows images that name no shell."""

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_VERSION = re.compile(r"\d{1,10}(\.\d{1,10}){1,3}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanges:
    """What to change; the defaults change nothing.  "" takes a field away.

    Attributes:
        env: ``NAME=VALUE`` texts, set in place of what has the name in any letter case.
        unset_env: names.
        cmd, entrypoint, shell: command lines: JSON lists, or (not *shell*) a line for the image's shell.
            A new entry point takes the command away, unless there is a new one.
        user: ``ContainerUser``, ``DOMAIN\\user``.
        workdir: an absolute path.
        labels, unset_labels: ``KEY=VALUE`` texts; keys.
        args_escaped: whether the first argument is a command line, escaped already; None: as *cmd* and
            *entrypoint* make it.
        exposed_ports, unexposed_ports: ``80``, ``80/tcp``, ``8000-8010/udp``.
        volumes, unset_volumes: paths.
        stop_signal: what stops containers.
        os_version: Windows' version that the image is for.
        author: who made the image.
    """

    env: tuple[str, ...] = ()
    unset_env: tuple[str, ...] = ()
    cmd: str | None = None
    entrypoint: str | None = None
    shell: str | None = None
    user: str | None = None
    workdir: str | None = None
    labels: tuple[str, ...] = ()
    unset_labels: tuple[str, ...] = ()
    args_escaped: bool | None = None
    exposed_ports: tuple[str, ...] = ()
    unexposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    unset_volumes: tuple[str, ...] = ()
    stop_signal: str | None = None
    os_version: str | None = None
    author: str | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to change."""
        return any(value not in (None, ()) for value in dataclasses.astuple(self))

    def apply(self, document: dict[str, object]) -> None:
        """Change a configuration.

        Raises:
            ImageError: a change is malformed, or the configuration is where it would be made.
        """
        if self.os_version is not None:
            if self.os_version and not _VERSION.fullmatch(self.os_version):
                raise ImageError(
                    f"{self.os_version!r} is no version of Windows", hint="such as 10.0.20348.2227"
                )
            _set(document, "os.version", self.os_version)
        if self.author is not None:
            _set(document, "author", self.author)
        run = document.get("config")
        changed: RunConfig = dict(run) if isinstance(run, dict) else {}
        self._apply_to_run(changed)
        if changed or run is not None:
            document["config"] = changed

    def _apply_to_run(self, run: RunConfig) -> None:
        for name in self.unset_env:
            _unset_env(run, name)
        for variable in self.env:
            _set_env(run, variable)
        _change_map(run, "Labels", dict(map(_pair, self.labels)), self.unset_labels)
        for field, added, removed in (
            ("ExposedPorts", _ports(self.exposed_ports), list(_ports(self.unexposed_ports))),
            ("Volumes", {path: {} for path in self.volumes}, self.unset_volumes),
        ):
            _change_map(run, field, added, removed)
        for field, value in (
            ("User", self.user),
            ("WorkingDir", self.workdir),
            ("StopSignal", self.stop_signal),
        ):
            if value is not None:
                _set(run, field, value)
        self._apply_command_lines(run)

    def _apply_command_lines(self, run: RunConfig) -> None:
        if self.shell is not None:
            _set(run, "Shell", _arguments(self.shell, "shell") if self.shell else "")
        escaped = None
        if self.entrypoint is not None:
            value, escaped = _command_line(self.entrypoint, run, "entrypoint")
            _set(run, "Entrypoint", value)
            if self.cmd is None:
                run.pop("Cmd", None)
        if self.cmd is not None:
            value, cmd_escaped = _command_line(self.cmd, run, "cmd")
            _set(run, "Cmd", value)
            escaped = cmd_escaped if escaped is None else escaped or cmd_escaped
        if self.args_escaped is not None:
            escaped = self.args_escaped
        if escaped:
            run["ArgsEscaped"] = True
        elif escaped is not None:
            run.pop("ArgsEscaped", None)


def _set(target: dict[str, object], key: str, value: object) -> None:
    """Set a field; an empty value takes it away."""
    if value:
        target[key] = value
    else:
        target.pop(key, None)


# -- command lines --


def _command_line(text: str, run: Mapping[str, object], what: str) -> tuple[list[str], bool | None]:
    """The arguments, and whether they are escaped already (None: there are none)."""
    if not text.strip():
        return [], None
    if text.lstrip().startswith("["):
        return _arguments(text, what), False
    shell = run.get("Shell")
    words = [str(word) for word in shell] if isinstance(shell, list) and shell else list(DEFAULT_SHELL)
    return [f"{' '.join(words)} {text.strip()}"], True


def _arguments(text: str, what: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ImageError(f"{what} is no JSON list of texts: {text}") from error
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ImageError(f"{what} is no JSON list of texts: {text}")
    return value


# -- variables --


def same_name(one: str, other: str) -> bool:
    """Whether two names are of one variable to Windows."""
    return one.casefold() == other.casefold()


def env_of(run: Mapping[str, object]) -> list[str]:
    """The variables, ``NAME=VALUE``.

    Raises:
        ImageError: they are malformed.
    """
    value = run.get("Env")
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImageError("the configuration's Env is no list of texts")
    return value


def name_of(variable: str) -> str:
    """The name in ``NAME=VALUE``; a name may begin with ``=``, as those of Windows' drives do."""
    return variable[:1] + variable[1:].partition("=")[0]


def _set_env(run: RunConfig, variable: str) -> None:
    name = name_of(variable)
    if not name or len(name) == len(variable):
        raise ImageError(f"not a variable: {variable!r}", hint="write NAME=VALUE")
    current = env_of(run)
    positions = [i for i, known in enumerate(current) if same_name(name_of(known), name)]
    if positions:
        kept = [known for i, known in enumerate(current) if i not in positions[1:]]
        kept[positions[0]] = variable
        run["Env"] = kept
    else:
        run["Env"] = [*current, variable]


def _unset_env(run: RunConfig, name: str) -> None:
    current = env_of(run)
    if current:
        _set(run, "Env", [known for known in current if not same_name(name_of(known), name)])


# -- maps --


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ImageError(f"not a label: {text!r}", hint="write KEY=VALUE")
    return key, value


def _change_map(run: RunConfig, field: str, added: Mapping[str, object], removed: Iterable[str]) -> None:
    removed = list(removed)
    if not added and not removed:
        return
    value = run.get(field)
    if value is not None and not isinstance(value, dict):
        raise ImageError(f"the configuration's {field} is no JSON object")
    changed = {key: known for key, known in (value or {}).items() if key not in removed}
    _set(run, field, {**changed, **added})


def _ports(texts: Iterable[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in texts:
        match = _PORT.fullmatch(text)
        first = int(match[1]) if match is not None else 0
        last = int(match[2] or first) if match is not None else 0
        if match is None or not 0 < first <= last <= 65535:
            raise ImageError(f"not a port: {text!r}", hint="write 80, 80/tcp or 8000-8010/udp")
        for number in range(first, last + 1):
            found[f"{number}/{(match[3] or 'tcp').lower()}"] = {}
    return found
