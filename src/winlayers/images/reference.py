"""Image references: ``[registry/]repository[:tag][@digest]``.

The grammar and the completion of short names are Docker's (source: distribution/reference ``regexp.go`` and
``normalize.go``): ``nano`` is ``docker.io/library/nano``; a first part with a dot, a colon or a capital, or
``localhost``, is a registry.
"""

from __future__ import annotations

import dataclasses
import re

from winlayers.errors import InvalidReferenceError
from winlayers.images.digest import is_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_MAX_NAME = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference.

    Attributes:
        domain: the registry, with its port.
        path: the repository in it.
        tag: the tag; None only where a digest stands alone.
        digest: the manifest's digest, where given.
    """

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read *text*; without tag and digest the tag is ``latest``.

        Raises:
            InvalidReferenceError: it is no reference.
        """
        rest, at, digest = text.partition("@")
        if at and not is_digest(digest):
            raise _invalid(text, "what follows the @ is no digest")
        name, tag = rest, None
        colon = rest.rfind(":")
        if colon > rest.rfind("/"):
            name, tag = rest[:colon], rest[colon + 1 :]
            if not _TAG.fullmatch(tag):
                raise _invalid(text, "a tag has up to 128 letters, digits, dots, dashes and underscores")
        domain, path = _split_domain(name)
        if not _DOMAIN.fullmatch(domain):
            raise _invalid(text, f"{domain!r} is no registry's name")
        if not _PATH.fullmatch(path):
            hint = "a repository's name is in lower case" if path != path.lower() else "for example app:1.0"
            raise _invalid(text, hint)
        if len(domain) + 1 + len(path) > _MAX_NAME:
            raise _invalid(text, f"a name has at most {_MAX_NAME} characters")
        if re.fullmatch(r"[0-9a-f]{64}", name):
            raise _invalid(text, "64 hexadecimal digits are an id")
        if tag is None and not at:
            tag = DEFAULT_TAG
        return cls(domain, path, tag, digest or None)

    @property
    def repository(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The repository as people write it: without Docker's default registry and ``library/``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        return self.path.removeprefix(_OFFICIAL) if self.path.count("/") == 1 else self.path

    @property
    def familiar(self) -> str:
        """The reference as people write it."""
        return self.familiar_repository + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")

    def __str__(self) -> str:
        return self.repository + self._suffix()


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = DEFAULT_DOMAIN, name
    else:
        domain, path = first, rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path


def _invalid(text: str, hint: str) -> InvalidReferenceError:
    return InvalidReferenceError(f"not an image reference: {text[:300]!r}", hint=hint)


def familiar(text: str) -> str:
    """A stored reference as people write it; what is no reference stays as it is."""
    try:
        return Reference.parse(text).familiar
    except InvalidReferenceError:
        return text


def sanitised(text: str) -> str:
    """A repository's name made from any text (a folder's or file's name)."""
    name = re.sub(r"[^a-z0-9]+", lambda m: m[0][0] if m[0][0] in "._-" else "-", text.lower()).strip("._-")
    return name[:200].rstrip("._-") or "image"
