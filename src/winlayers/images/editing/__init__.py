"""Images made of other images: layers appended, merged or put on another base, configurations changed.

Nothing here changes an image; each verb makes a new one, whose unchanged layers keep their blobs.
"""

from __future__ import annotations

from winlayers.images.editing.append import AppendOptions, TarForm, append_image
from winlayers.images.editing.configure import configure_image
from winlayers.images.editing.rebase import rebase_image
from winlayers.images.editing.runconfig import ConfigChanges
from winlayers.images.editing.squash import squash_image

__all__ = [
    "AppendOptions",
    "ConfigChanges",
    "TarForm",
    "append_image",
    "configure_image",
    "rebase_image",
    "squash_image",
]
