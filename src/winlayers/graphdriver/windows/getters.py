"""Opens single files of a layer, for tar-split."""

from __future__ import annotations

from typing import BinaryIO

from winlayers.errors import LayerError
from winlayers.graphdriver.contract import FileGetCloser
from winlayers.graphdriver.windows.transport import remove_exported
from winlayers.layers.rooted import Root
from winlayers.layers.service import LayerService


class ServiceFiles(FileGetCloser):
    """The files of a layer as the layer service opens them (on Windows with the backup privilege)."""

    def __init__(self, service: LayerService, layer_id: str) -> None:
        self._service = service
        self._layer_id = layer_id

    def get(self, path: str) -> BinaryIO:
        return self._service.open_file(self._layer_id, path)

    def close(self) -> None:
        """Nothing is held."""


class FolderFiles(FileGetCloser):
    """The files of a temporary folder that a layer was exported to; closing removes the folder."""

    def __init__(self, folder: str, layer_id: str) -> None:
        self._folder = folder
        self._layer_id = layer_id
        self._root = Root(folder)

    def get(self, path: str) -> BinaryIO:
        try:
            return self._root.open_file(path)
        except OSError as error:
            raise LayerError(f"can't read: {error.strerror}", layer=self._layer_id, path=path) from error

    def close(self) -> None:
        # The handle goes first: Windows removes no folder that is open.
        self._root.close()
        remove_exported(self._folder)
