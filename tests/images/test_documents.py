"""Manifests, indexes and configurations: what is read, kept and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winlayers.errors import ImageError, PlatformError
from winlayers.images import mediatypes
from winlayers.images.config import ImageConfig, derive, now
from winlayers.images.digest import chain_ids, digest_of
from winlayers.images.documents import Descriptor, Index, Manifest, manifest_bytes, parse_document
from winlayers.images.jsonfields import MAX_DOCUMENT, Fields

A, B = digest_of(b"a"), digest_of(b"b")


def manifest(**changes: Any) -> dict[str, Any]:
    """A correct manifest, with some fields replaced (None: removed)."""
    value: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": {"mediaType": mediatypes.OCI_CONFIG, "digest": A, "size": 1},
        "layers": [{"mediaType": mediatypes.OCI_LAYER_GZIP, "digest": B, "size": 1}],
        **changes,
    }
    return {key: field for key, field in value.items() if field is not None}


def parse(value: object, media_type: str = "") -> Manifest | Index:
    """Parse *value* as the document that it is."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_document(raw, media_type, "it")


def test_a_manifest_keeps_its_bytes() -> None:
    raw = b" " + json.dumps(manifest(unknown=[1])).encode() + b"\n"
    parsed = parse(raw, mediatypes.OCI_MANIFEST)
    assert isinstance(parsed, Manifest)
    assert parsed.raw == raw
    assert parsed.digest == digest_of(raw)
    assert [layer.digest for layer in parsed.layers] == [B]


def test_the_type_comes_from_the_document_or_from_outside_or_is_guessed() -> None:
    assert parse(manifest(mediaType=None)).media_type == mediatypes.OCI_MANIFEST
    assert (
        parse(manifest(mediaType=None), mediatypes.DOCKER_MANIFEST).media_type == mediatypes.DOCKER_MANIFEST
    )
    assert parse(manifest(), "text/plain").media_type == mediatypes.OCI_MANIFEST
    index = parse({"schemaVersion": 2, "manifests": [{"mediaType": "x", "digest": A, "size": 3}]})
    assert isinstance(index, Index)
    assert index.media_type == mediatypes.OCI_INDEX


@pytest.mark.parametrize(
    ("document", "media_type", "message"),
    [
        (b"{", "", "not JSON"),
        (b"[]", "", "not a JSON object"),
        (b"[" * 100_000, "", "not JSON"),
        (b'{"schemaVersion": 2, "config": NaN}', "", "not JSON"),
        (b"\xff\xfe", "", "not JSON"),
        (b" " * (MAX_DOCUMENT + 1), "", "larger than"),
        ({}, "", "schemaVersion"),
        (manifest(schemaVersion=1), "", "schema 1"),
        (manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (manifest(), mediatypes.DOCKER_MANIFEST, "was announced as"),
        (manifest(manifests=[]), "", "manifest and an index at once"),
        (manifest(mediaType=mediatypes.OCI_INDEX), "", "the fields of another"),
        (manifest(mediaType="application/x"), "", "no image manifest"),
        (manifest(layers=[]), "", "no layers"),
        (manifest(layers=None), "", "layers is missing"),
        (manifest(layers={}), "", "layers is not a list"),
        (manifest(layers=["x"]), "", "not a JSON object"),
        (manifest(config=None), "", "mediaType is missing"),
        (manifest(config={"mediaType": "application/x", "digest": A, "size": 1}), "", "artifact"),
        (manifest(layers=[{"mediaType": "application/x", "digest": A, "size": 1}]), "", "no layer"),
        (
            manifest(layers=[{"mediaType": mediatypes.OCI_LAYER, "digest": "sha256:../x", "size": 1}]),
            "",
            "digest",
        ),
        (manifest(layers=[{"mediaType": mediatypes.OCI_LAYER, "digest": A, "size": -1}]), "", "size"),
        (manifest(layers=[{"mediaType": mediatypes.OCI_LAYER, "digest": A, "size": True}]), "", "size"),
        (manifest(layers=[{"mediaType": mediatypes.OCI_LAYER, "digest": A, "size": 1 << 63}]), "", "size"),
        (manifest(layers=manifest()["layers"] * 1001), "", "1001 layers"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(document: object, media_type: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        parse(document, media_type)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(manifest())), json_values)
def test_any_field_of_any_type_is_read_or_refused(key: str, value: object) -> None:
    raw = json.dumps(manifest(**{key: value})).encode()
    try:
        parse_document(raw, "", "it")
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are right


def test_descriptors_keep_what_they_do_not_know() -> None:
    value = {
        "mediaType": mediatypes.OCI_MANIFEST,
        "digest": A,
        "size": 7,
        "urls": ["https://example.com/a"],
        "annotations": {"k": "v"},
        "platform": {
            "architecture": "amd64",
            "os": "windows",
            "os.version": "10.0.1.2",
            "os.features": ["win32k"],
        },
        "artifactType": "x",
    }
    assert Descriptor.from_fields(Fields(value, "it")).to_json() == value


def test_new_manifests_are_read_again() -> None:
    config = Descriptor(mediatypes.DOCKER_CONFIG, A, 1)
    layer = Descriptor(mediatypes.DOCKER_LAYER_GZIP, B, 2)
    parsed = parse(manifest_bytes(mediatypes.DOCKER_MANIFEST, config, [layer], {"lost": "in Docker's"}))
    assert isinstance(parsed, Manifest)
    assert (parsed.config, parsed.layers, parsed.annotations) == (config, (layer,), {})


def test_chain_ids_are_those_of_the_specification() -> None:
    assert chain_ids([A, B]) == [A, digest_of(f"{A} {B}".encode())]
    assert chain_ids([]) == []


CONFIG = {
    "os": "windows",
    "architecture": "amd64",
    "os.version": "10.0.20348.1",
    "rootfs": {"type": "layers", "diff_ids": [A]},
    "history": [{"created_by": "x"}, {"empty_layer": True}],
    "config": {"Env": ["A=b"], "ArgsEscaped": True},
    "vendor": {"deep": [1, 2, {"x": None}]},
    "container": "gone",
}


def config(**changes: Any) -> ImageConfig:
    """A correct configuration, with some fields replaced."""
    return ImageConfig.parse(json.dumps({**CONFIG, **changes}).encode(), "it")


def test_a_derived_configuration_keeps_what_it_does_not_know() -> None:
    def change(run: dict[str, object]) -> None:
        run["Cmd"] = ["x"]

    derived = json.loads(derive(config(), diff_ids=[A, B], history=[{"created_by": "y"}], change_run=change))
    assert derived["os.version"] == "10.0.20348.1"
    assert derived["vendor"] == CONFIG["vendor"]
    assert derived["config"] == {"Env": ["A=b"], "ArgsEscaped": True, "Cmd": ["x"]}
    assert derived["rootfs"] == {"type": "layers", "diff_ids": [A, B]}
    assert "container" not in derived
    assert config().value == CONFIG


def test_the_time_is_the_one_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert now() == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "tomorrow")
    with pytest.raises(ImageError, match="SOURCE_DATE_EPOCH"):
        now()


def test_only_windows_images_of_as_many_layers_pass() -> None:
    one = parse(manifest())
    assert isinstance(one, Manifest)
    config().check_against(one, "it")
    with pytest.raises(PlatformError, match="an image for linux"):
        config(os="linux").check_against(one, "it")
    with pytest.raises(ImageError, match="1 layers, but the configuration names 2"):
        config(rootfs={"type": "layers", "diff_ids": [A, B]}).check_against(one, "it")


@pytest.mark.parametrize(
    "changes",
    [
        {"rootfs": {"type": "layers+base", "diff_ids": [A]}},
        {"rootfs": None},
        {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
        {"rootfs": {"type": "layers", "diff_ids": A}},
        {"history": {}},
        {"os.features": "win32k"},
    ],
)
def test_malformed_configurations_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        config(**changes)
