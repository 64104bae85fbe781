"""What the commands that look into images share: opening, failing on one of several, sizes."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from winlayers.cli.commands.transfer import registry_options
from winlayers.cli.context import Attempts, Settings, pass_settings, warn
from winlayers.cli.output import human_size
from winlayers.errors import StoreError

if TYPE_CHECKING:
    from winlayers.images.platforms import Platform
    from winlayers.images.registry.options import RegistryOptions
    from winlayers.inspection import Tree
    from winlayers.store import Store

Command = Callable[..., Any]
_T = TypeVar("_T")

WITH_H = {"help_option_names": ["--help"], "max_content_width": 100}
"""The context of commands where ``-h`` means human-readable sizes, as in coreutils."""

human_option = click.option("-h", "--human-readable", "human", is_flag=True, help="Sizes as 1.5MB.")
layer_root_option = click.option(
    "--layer-root", is_flag=True, help="Paths start at the layers' root: Files (drive C:), Hives, UtilityVM."
)


class Looker(Attempts):
    """Opens images for one command, each once."""

    def __init__(self, settings: Settings, platform: str | None, registry: RegistryOptions) -> None:
        super().__init__(settings)
        self.registry = registry
        self._platform = platform
        self._stack = contextlib.ExitStack()
        self._trees: dict[str, Tree] = {}

    @property
    def platform(self) -> Platform | None:
        """The platform asked for."""
        from winlayers.images.platforms import Platform

        return None if self._platform is None else Platform.parse(self._platform)

    def tree(self, image: str) -> Tree:
        """The image's tree."""
        from winlayers.inspection import open_image

        def opened(store: Store | None) -> Tree:
            return open_image(
                image,
                store=store,
                platform=self.platform,
                registry=self.registry,
                progress=self.settings.progress(),
            )

        tree = self._trees.get(image)
        if tree is None:
            tree = self.with_store(image, opened)
            self._trees[image] = self._stack.enter_context(tree)
        return tree

    def with_store(self, image: str, look: Callable[[Store | None], _T]) -> _T:
        """What *look* finds in the store; or without one, where *image* is a place and needs none.

        Who may not write to the store, or whose disk is full, can still look into layouts, archives and
        registries; what is learnt of their blobs is then forgotten.
        """
        from winlayers.inspection.opening import names_a_place

        try:
            return look(self.settings.store)
        except StoreError as error:
            if not names_a_place(image):
                raise
            if not self.settings.quiet:
                warn(f"warning: {error}; looking without a store")
        return look(None)

    def close(self) -> None:
        """Close all that was opened."""
        self._stack.close()

    def finish(self) -> None:
        """Close all that was opened; end with code 1 if something failed."""
        self._stack.close()
        super().finish()


def looks(command: Command) -> Command:
    """Give the command a :class:`Looker` and the options that say what is opened and how."""

    @registry_options
    @click.option("--platform", metavar="OS/ARCH[:VERSION]", help="What to choose where there is a choice.")
    @pass_settings
    @functools.wraps(command)
    def wrapped(
        settings: Settings, /, *args: Any, platform: str | None, registry: RegistryOptions, **kwargs: Any
    ) -> None:
        looker = Looker(settings, platform, registry)
        try:
            command(looker, *args, **kwargs)
        except BaseException:
            looker.close()
            raise
        looker.finish()

    return wrapped


def size_text(size: int, human: bool) -> str:
    """A size for a listing."""
    return human_size(size) if human else str(size)
