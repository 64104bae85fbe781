"""The layer service of a Windows host: HCS through ctypes.

- :mod:`~winlayers.layers.native.service`: the :class:`LayerService` itself;
- :mod:`~winlayers.layers.native.vmcompute`, :mod:`~winlayers.layers.native.compute`: the calls into
  ``vmcompute.dll``, for layers and for compute systems;
- :mod:`~winlayers.layers.native.reader`, :mod:`~winlayers.layers.native.writer`,
  :mod:`~winlayers.layers.native.basewriter`, :mod:`~winlayers.layers.native.utilityvm`: layers to and from
  their folders and the transport format;
- :mod:`~winlayers.layers.native.files`, :mod:`~winlayers.layers.native.safefile`,
  :mod:`~winlayers.layers.native.privileges`, :mod:`~winlayers.layers.native.host`: Win32 and NT;
- :mod:`~winlayers.layers.native.ffi`, :mod:`~winlayers.layers.native.errors`: signatures, and what failures
  become.

Everything can be imported on any operating system; calls need Windows.  What was verified how is in
``docs/windows.md``.
"""
