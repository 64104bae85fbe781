"""What skopeo and umoci make of edited images."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support import require_tool
from winlayers.images.editing import AppendOptions, ConfigChanges
from winlayers.images.image import Image
from winlayers.store import Store


def test_peers_read_what_was_made(
    store: Store, app: Image, bases: tuple[Image, Image], tree: Path, tmp_path: Path
) -> None:
    skopeo, umoci = require_tool("skopeo"), require_tool("umoci")
    store.append("app:1", [tree], "made:append", AppendOptions(destination="app"))
    store.configure("app:1", ConfigChanges(env=("A=1",), cmd="dir"), "made:config")
    store.squash("app:1", "made:squash")
    store.rebase("app:1", "base:2", "made:rebase")
    for tag in ("append", "config", "squash", "rebase"):
        image = store.image(f"made:{tag}")
        store.save(f"made:{tag}", f"oci:{tmp_path / 'out'}:{tag}")
        name = f"oci:{tmp_path / 'out'}:{tag}"
        found = json.loads(_run(skopeo, "inspect", name))
        assert found["Layers"] == [layer.digest for layer in image.manifest.layers]
        assert json.loads(_run(skopeo, "inspect", "--config", name))["rootfs"]["diff_ids"] == list(
            image.config.diff_ids
        )
        copy = f"oci:{tmp_path / 'copy'}:{tag}"
        _run(skopeo, "--override-os", "windows", "copy", "-q", name, copy)
        assert store.load(copy, name=f"again:{tag}").digest == image.digest
        stat = json.loads(_run(umoci, "stat", "--image", f"{tmp_path / 'out'}:{tag}", "--json"))
        assert len(stat["history"]) == len(image.config.history)
        _run(
            umoci, "raw", "unpack", "--rootless", "--image", f"{tmp_path / 'out'}:{tag}", str(tmp_path / tag)
        )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
