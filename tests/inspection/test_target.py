"""How a path in an image is written."""

from __future__ import annotations

import pytest

from winlayers.errors import InvalidNameError
from winlayers.inspection.target import Target, parse_target, split_inner


@pytest.mark.parametrize(
    ("text", "image", "path"),
    [
        ("app", "app", None),
        ("app:2.0", "app:2.0", None),
        ("app:2.0:/", "app:2.0", "/"),
        ("app:2.0:/Windows/win.ini", "app:2.0", "/Windows/win.ini"),
        ("app:/Windows", "app", "/Windows"),
        (r"app:\Windows", "app", r"\Windows"),
        (r"app:2.0:C:\Windows", "app:2.0", r"C:\Windows"),
        ("app:2.0:c:/Windows", "app:2.0", "c:/Windows"),
        ("app:2.0:C:", "app:2.0", "C:"),
        ("oci:/srv/layout:3.13", "oci:/srv/layout:3.13", None),
        ("oci:/srv/layout:3.13:/Windows", "oci:/srv/layout:3.13", "/Windows"),
        ("oci:./layout:/Windows", "oci:./layout", "/Windows"),
        (r"oci:C:\layout:3.13:C:\Windows", r"oci:C:\layout:3.13", r"C:\Windows"),
        ("docker://host:5000/team/app:2", "docker://host:5000/team/app:2", None),
        ("docker://host:5000/team/app:2:/Users", "docker://host:5000/team/app:2", "/Users"),
        ("oci-archive:/tmp/app.tar:/Users", "oci-archive:/tmp/app.tar", "/Users"),
        ("docker-archive:app.tar:app:1:/Users", "docker-archive:app.tar:app:1", "/Users"),
        ("./layout:3.13:/Users", "./layout:3.13", "/Users"),
        ("/srv/layout:3.13:/Users", "/srv/layout:3.13", "/Users"),
        (r"C:\layouts\app:3.13:\Windows", r"C:\layouts\app:3.13", r"\Windows"),
        (r"C:\layouts\app", r"C:\layouts\app", None),
        ("container:web:/app", "container:web", "/app"),
        ("sha256:0123456789ab:/app", "sha256:0123456789ab", "/app"),
        ("app@sha256:0123:/app", "app@sha256:0123", "/app"),
        ("web:/Users/notes.txt:Zone.Identifier", "web", "/Users/notes.txt:Zone.Identifier"),
    ],
)
def test_splitting(text: str, image: str, path: str | None) -> None:
    assert parse_target(text) == Target(image, path)


@pytest.mark.parametrize(
    ("path", "parts", "stream"),
    [
        ("/", [], ""),
        ("", [], ""),
        ("C:", [], ""),
        (r"C:\Windows\System32", ["Windows", "System32"], ""),
        ("/Windows//./System32/../Fonts/", ["Windows", "Fonts"], ""),
        ("/../../x", ["x"], ""),
        ("/a/b.txt:Zone.Identifier", ["a", "b.txt"], "Zone.Identifier"),
        ("/a/b.txt:Zone.Identifier:$DATA", ["a", "b.txt"], "Zone.Identifier"),
        ("Hives/SAM", ["Hives", "SAM"], ""),
    ],
)
def test_inside(path: str, parts: list[str], stream: str) -> None:
    assert split_inner(path) == (parts, stream)


@pytest.mark.parametrize("path", ["D:/x", r"d:\x", "/a:b/c", "/a/:stream", "/a/b:c:d"])
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(InvalidNameError):
        split_inner(path)
