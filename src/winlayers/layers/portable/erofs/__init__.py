"""EROFS images of views: metadata of our own making that points into the layers' tars.

:mod:`~winlayers.layers.portable.erofs.format` is the on-disk format,
:mod:`~winlayers.layers.portable.erofs.writer` puts inodes and directories down, and
:mod:`~winlayers.layers.portable.erofs.image` makes the image of a view.
"""
