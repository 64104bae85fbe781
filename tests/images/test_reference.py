"""Image references: Docker's grammar and its completion of short names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winlayers.errors import InvalidReferenceError
from winlayers.images.reference import Reference, sanitised

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        # From distribution/reference's own table of normalised names.
        ("test.com/foo", "test.com/foo:latest", "test.com/foo:latest"),
        ("test_com/foo", "docker.io/test_com/foo:latest", "test_com/foo:latest"),
        ("redis", "docker.io/library/redis:latest", "redis:latest"),
        ("library/redis:7", "docker.io/library/redis:7", "redis:7"),
        ("docker.io/redis", "docker.io/library/redis:latest", "redis:latest"),
        ("index.docker.io/user/app:x", "docker.io/user/app:x", "user/app:x"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("Registry/app", "Registry/app:latest", "Registry/app:latest"),
        ("a.b/c/d/e:T_1.x-y", "a.b/c/d/e:T_1.x-y", "a.b/c/d/e:T_1.x-y"),
        (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}", f"app@{DIGEST}"),
        (f"app:1@{DIGEST}", f"docker.io/library/app:1@{DIGEST}", f"app:1@{DIGEST}"),
        ("a__b/c--d", "docker.io/a__b/c--d:latest", "a__b/c--d:latest"),
    ],
)
def test_names_are_completed_as_docker_completes_them(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "App",
        "app:",
        "app:-x",
        "app:" + "x" * 129,
        "a/" * 130 + "b",
        "-app",
        "app-",
        "a___b",
        "a..b",
        "/app",
        "app/",
        "host..com/app",
        "app@sha256:abc",
        "app@md5:" + "a" * 32,
        "a" * 64,
        "app name",
        "app\n",
        "app:tag\n",
        "../app",
        "app:..\\x",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        Reference.parse(text)


@given(st.text(max_size=60))
def test_any_text_either_parses_and_round_trips_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReferenceError:
        return
    assert Reference.parse(str(reference)) == reference


@given(st.text(max_size=300))
def test_a_repository_can_be_made_from_any_text(text: str) -> None:
    reference = Reference.parse(f"{sanitised(text)}:tag")
    assert reference.tag == "tag"
    assert reference.domain == "docker.io"
