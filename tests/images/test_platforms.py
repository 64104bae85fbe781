"""Platforms: parsing, Windows' version rules, and the choice from an index."""

from __future__ import annotations

import pytest

from winlayers.errors import PlatformError
from winlayers.images.platforms import Platform, choose, matches


@pytest.mark.parametrize(
    ("text", "platform", "shown"),
    [
        ("windows", Platform(), "windows/amd64"),
        ("windows/x86_64", Platform(), "windows/amd64"),
        ("Windows/AArch64", Platform(architecture="arm64"), "windows/arm64"),
        ("windows/amd64:10.0.20348", Platform(os_version="10.0.20348"), "windows/amd64:10.0.20348"),
        ("windows(10.0.17763.1)/amd64", Platform(os_version="10.0.17763.1"), "windows/amd64:10.0.17763.1"),
        ("linux/arm/v7", Platform("linux", "arm", "v7"), "linux/arm/v7"),
    ],
)
def test_platforms_are_read_and_shown(text: str, platform: Platform, shown: str) -> None:
    assert Platform.parse(text) == platform
    assert str(platform) == shown


@pytest.mark.parametrize(
    "text", ["", "/", "windows/", "windows/amd64:", "a/b/c/d", "windows/amd 64", "windows\n"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(PlatformError):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("host", "image", "fits"),
    [
        ("10.0.17763.1", "10.0.17763.5000", True),  # same build, any revision
        ("10.0.17763.1", "10.0.14393.1", False),  # older builds must match
        ("10.0.20348.1", "10.0.17763.1", False),
        ("10.0.26100.1", "10.0.20348.1", True),  # from Windows Server 2022 on, newer hosts take older images
        ("10.0.20348.1", "10.0.26100.1", False),
        ("10.0.20348", "10.0.20348.2227", True),
        ("", "10.0.17763.1", True),
        ("10.0.17763.1", "", True),
        ("10.0", "10.0.17763.1", True),
        ("11.0", "10.0.17763.1", False),
    ],
)
def test_the_build_decides_what_runs_where(host: str, image: str, fits: bool) -> None:
    assert matches(Platform(os_version=host), Platform(os_version=image)) is fits


def test_features_asked_for_must_cover_those_needed() -> None:
    needs = Platform(os_features=("win32k",))
    assert matches(Platform(os_features=("win32k", "more")), needs)
    assert not matches(Platform(os_features=("more",)), needs)
    assert matches(Platform(), needs)


OFFERED = [
    None,
    Platform("linux", "amd64"),
    Platform(os_version="10.0.17763.5329"),
    Platform(os_version="10.0.20348.2227"),
    Platform(os_version="10.0.20348.2322"),
    Platform(architecture="arm64", os_version="10.0.26100.1"),
    Platform("unknown", "unknown"),
]


@pytest.mark.parametrize(
    ("wanted", "position"),
    [
        ("windows/amd64", 4),
        ("windows/amd64:10.0.17763.1", 2),
        ("windows/amd64:10.0.20348", 4),
        ("windows/amd64:10.0.26100.1", 4),
        ("windows/arm64", 5),
        ("linux", 1),
    ],
)
def test_the_best_fit_is_chosen(wanted: str, position: int) -> None:
    assert choose(Platform.parse(wanted), OFFERED, "app") == position


def test_where_nothing_fits_the_message_lists_what_there_is() -> None:
    with pytest.raises(
        PlatformError, match=r"it offers linux/amd64, windows/amd64:10\.0\.17763\.5329"
    ) as caught:
        choose(Platform.parse("windows/arm64:10.0.14393"), OFFERED, "app")
    assert "unknown" not in str(caught.value)
    assert "\n" not in str(caught.value)
