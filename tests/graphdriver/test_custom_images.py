"""Shared base images of the host."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.graphdriver.conftest import Kit
from winlayers.errors import HcsError, LayerError, StoreError
from winlayers.graphdriver.windows.custom_images import parse_shared_images

FOLDER = "Microsoft_WindowsServerCore_10.0.10586.0"
IMAGES = json.dumps(
    {
        "Images": [
            {
                "Name": "windowsservercore",
                "Version": "10.0.10586.0",
                "Path": f"C:\\ProgramData\\Microsoft\\Windows\\Images\\{FOLDER}",
                "Size": 9_333_000_000,
                "CreatedTime": "2015-10-30T07:28:30.1234567-07:00",
            }
        ]
    }
)
ID = hashlib.sha384(FOLDER.encode()).digest()[:32].hex()


def test_images_become_layers(kit: Kit) -> None:
    kit.service.images = IMAGES
    (image,) = kit.driver.get_custom_image_infos()
    assert kit.service.calls == [("shared_base_images",), ("create", ID, "")]
    assert (image.id, image.name, image.version) == (ID, "windowsservercore", "10.0.10586.0")
    assert image.size == 9_333_000_000
    zone = datetime.timezone(datetime.timedelta(hours=-7))
    assert image.created_time == datetime.datetime(2015, 10, 30, 7, 28, 30, 123456, zone)
    assert (kit.home / ID / "layerID").read_text() == FOLDER
    assert "layerId" not in os.listdir(kit.home / ID)


def test_second_call_makes_nothing(kit: Kit) -> None:
    kit.service.images = IMAGES
    first = kit.driver.get_custom_image_infos()
    kit.service.calls.clear()
    assert kit.driver.get_custom_image_infos() == first
    assert kit.names() == ["shared_base_images"]


def test_interrupted_call_is_finished(kit: Kit) -> None:
    kit.service.images = IMAGES
    kit.driver.create(ID)
    kit.driver.get_custom_image_infos()
    assert (kit.home / ID / "layerID").read_text() == FOLDER


def test_alternate_id_that_can_not_be_kept_undoes_the_layer(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, data: bytes, mode: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("winlayers.graphdriver.windows.chain.write_bytes", fail)
    kit.service.images = IMAGES
    with pytest.raises(StoreError, match="Input/output"):
        kit.driver.get_custom_image_infos()
    assert kit.names() == ["shared_base_images", "create", "destroy"]


def test_errors_of_the_service_pass(kit: Kit) -> None:
    kit.service.fail["shared_base_images"] = HcsError("no", function="GetBaseImages")
    with pytest.raises(HcsError):
        kit.driver.get_custom_image_infos()


@pytest.mark.parametrize("text", ['{"Images": []}', '{"Images": null}', "{}"])
def test_no_images(text: str) -> None:
    assert parse_shared_images(text) == []


def test_fields_may_be_missing_and_keys_have_no_case() -> None:
    (image,) = parse_shared_images('{"images": [{"PATH": "/images/one/", "Other": 1}]}')
    assert (image.name, image.size, image.created_time) == ("", 0, None)
    assert image.id == hashlib.sha384(b"one").hexdigest()[:64]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"Images": {}}', '{"Images": [1]}', '{"Images": [{}]}', '{"Images": [{"Path": 5}]}',
     '{"Images": [{"Path": "/a/.."}]}', '{"Images": [{"Path": "/a", "Size": "1"}]}', "[" * 100_000,
     '{"Images": [{"Path": "/a", "CreatedTime": "yesterday"}]}',
     '{"Images": [{"Path": "/a", "CreatedTime": "2015-99-30T07:28:30Z"}]}'],
)  # fmt: skip
def test_damage_is_one_error(text: str) -> None:
    with pytest.raises(LayerError, match="shared base images"):
        parse_shared_images(text)


@pytest.mark.parametrize(
    ("text", "microsecond"), [("2015-10-30T07:28:30Z", 0), ("2015-10-30T07:28:30.5Z", 500_000)]
)
def test_times(text: str, microsecond: int, tmp_path: Path) -> None:
    (image,) = parse_shared_images(json.dumps({"Images": [{"Path": "/a", "CreatedTime": text}]}))
    expected = datetime.datetime(2015, 10, 30, 7, 28, 30, microsecond, datetime.UTC)
    assert image.created_time == expected
