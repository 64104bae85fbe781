"""What image tests share: layouts made on the spot, some of them wrong, and a store's state as one digest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from winlayers.images.digest import digest_of
from winlayers.images.documents import REF_NAME
from winlayers.testing.sample_image import TAG, write_sample_image

_NOT_STATE = {"locks", "lock"}


def sample_layout(folder: Path, **options: Any) -> str:
    """Write the sample image; return its transport name."""
    write_sample_image(folder, **options)
    return f"oci:{folder}:{TAG}"


def tree_digest(root: Path) -> str:
    """A digest over all files below *root*: names, content, link targets; locks left out."""
    hasher = hashlib.sha256()
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _NOT_STATE)
        for name in sorted(files):
            path = Path(folder, name)
            if name in _NOT_STATE or name.endswith(".lock"):
                continue
            hasher.update(f"{path.relative_to(root)}\0".encode("utf-8", "surrogateescape"))
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()


def everything(root: Path) -> dict[str, tuple[int, bytes]]:
    """All below *root*, lock files and all: each path's type and mode, and a file's content."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = (
                path.lstat().st_mode,
                path.read_bytes() if name in files else b"",
            )
    return found


def read_json(path: Path) -> Any:
    """The JSON in *path*."""
    return json.loads(path.read_bytes())


class Layout:
    """An OCI layout to be tampered with."""

    def __init__(self, folder: Path, tag: str = TAG) -> None:
        self.folder = folder
        self.tag = tag
        self.name = f"oci:{folder}:{tag}"

    def blob(self, digest: str) -> Path:
        """Where a blob is."""
        return self.folder / "blobs" / digest.replace(":", "/")

    @property
    def descriptor(self) -> dict[str, Any]:
        """The tagged image's entry in the index."""
        found: dict[str, Any] = next(
            d
            for d in read_json(self.folder / "index.json")["manifests"]
            if d.get("annotations", {}).get(REF_NAME) == self.tag
        )
        return found

    @property
    def manifest(self) -> dict[str, Any]:
        """The image's manifest."""
        found: dict[str, Any] = read_json(self.blob(self.descriptor["digest"]))
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration."""
        found: dict[str, Any] = read_json(self.blob(self.manifest["config"]["digest"]))
        return found

    def layer(self, index: int) -> Path:
        """Where a layer's blob is."""
        return self.blob(self.manifest["layers"][index]["digest"])

    def put(self, data: bytes) -> dict[str, Any]:
        """Store a blob; return its digest and size."""
        digest = digest_of(data)
        self.blob(digest).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def change_config(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the configuration; manifest and index follow."""
        config = self.config
        change(config)
        stored = self.put(json.dumps(config).encode())
        self.change_manifest(lambda manifest: manifest["config"].update(stored))

    def change_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the manifest; the index follows."""
        manifest = self.manifest
        change(manifest)
        self.change_index(self.put(json.dumps(manifest).encode()))

    def change_index(self, fields: dict[str, Any]) -> None:
        """Change the image's entry in the index."""
        index = read_json(self.folder / "index.json")
        for entry in index["manifests"]:
            if entry.get("annotations", {}).get(REF_NAME) == self.tag:
                entry.update(fields)
        (self.folder / "index.json").write_text(json.dumps(index))
