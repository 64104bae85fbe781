"""The portable layer service: a layer is its tar plus an index, and views are made from these.

- :mod:`~winlayers.layers.portable.service`: the :class:`LayerService` itself;
- :mod:`~winlayers.layers.portable.store`: folders, locks, atomic publication;
- :mod:`~winlayers.layers.portable.index`: what one layer's tar holds and where;
- :mod:`~winlayers.layers.portable.view`: a chain of indexes merged by NTFS's rules;
- :mod:`~winlayers.layers.portable.mounts`: views as file systems;
- :mod:`~winlayers.layers.portable.scratch`: a writable layer's changes as a new tar.
"""
