"""The descriptors of what a layer made on Linux adds: what Windows gives a new file where it comes to lie."""

from __future__ import annotations


class Descriptors:
    """The descriptors of new files and directories."""

    def __init__(self, inherit_from: str | None, file_sddl: str | None, directory_sddl: str | None) -> None:
        """Prepare them.

        Args:
            inherit_from: SDDL of a directory, to inherit from where the real one's descriptor isn't known;
                None: then there is no descriptor.
            file_sddl, directory_sddl: the very descriptor for all new files and directories.

        Raises:
            SddlError: one is malformed.
        """
        self._default = _bytes(inherit_from)
        self._file = _bytes(file_sddl)
        self._directory = _bytes(directory_sddl)

    def of(self, parent: bytes | None, *, is_directory: bool) -> bytes | None:
        """The descriptor of a new file or directory.

        Args:
            parent: that of the directory which it comes to lie in; None: not known.
            is_directory: whether it is a directory itself.
        """
        given = self._directory if is_directory else self._file
        if given is not None:
            return given
        parent = self._default if parent is None else parent
        if parent is None:
            return None
        from winlayers.win32.security import inherit  # heavy, and not needed for a mere import

        return inherit(parent, is_directory=is_directory)


def _bytes(sddl: str | None) -> bytes | None:
    if sddl is None:
        return None
    from winlayers.win32.security import sddl_to_bytes

    return sddl_to_bytes(sddl)
