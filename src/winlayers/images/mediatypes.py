"""Media types of manifests, configurations and layers, OCI's and Docker's.

Sources: OCI image specification ``media-types.md``; distribution ``docs/spec/manifest-v2-2.md``.
"""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD = f"{OCI_LAYER}+zstd"
_OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = f"{DOCKER_LAYER}.gzip"
DOCKER_LAYER_ZSTD = f"{DOCKER_LAYER}.zstd"
_DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

_DOCKER_SCHEMA_1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)

MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
FOREIGN_LAYERS = frozenset(
    {
        _OCI_FOREIGN,
        f"{_OCI_FOREIGN}+gzip",
        f"{_OCI_FOREIGN}+zstd",
        _DOCKER_FOREIGN,
        f"{_DOCKER_FOREIGN}.gzip",
    }
)
"""Layers that may not be distributed: registries need not have them, they carry URLs instead."""
LAYERS = FOREIGN_LAYERS | {
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
}


def is_schema_1(media_type: str) -> bool:
    """Whether *media_type* is of Docker's first manifest format, which has no layer digests to check."""
    return media_type in _DOCKER_SCHEMA_1


def is_docker(manifest_type: str) -> bool:
    """Whether a manifest of that type is of Docker's family (its configuration and layers then are, too)."""
    return manifest_type in (DOCKER_MANIFEST, DOCKER_LIST)


def layer_type(manifest_type: str, compression: str) -> str:
    """The type of a new layer in a manifest of that type; *compression* is ``gzip``, ``zstd`` or ``none``."""
    if is_docker(manifest_type):
        return {"gzip": DOCKER_LAYER_GZIP, "zstd": DOCKER_LAYER_ZSTD, "none": DOCKER_LAYER}[compression]
    return {"gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER}[compression]


def layer_type_in(manifest_type: str, media_type: str) -> str:
    """The type that a layer of *media_type* has in a manifest of that type: the same in the other family.

    A type that the other family has no word for stays.
    """
    twins = dict(_TWINS) if is_docker(manifest_type) else {docker: oci for oci, docker in _TWINS}
    return twins.get(media_type, media_type)


_TWINS = (
    (OCI_LAYER, DOCKER_LAYER),
    (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
    (OCI_LAYER_ZSTD, DOCKER_LAYER_ZSTD),
    (_OCI_FOREIGN, _DOCKER_FOREIGN),
    (f"{_OCI_FOREIGN}+gzip", f"{_DOCKER_FOREIGN}.gzip"),
)
