"""A view as a file system in user space, spoken straight to the kernel: no library, no compiled code.

The modules, lowest first:

- :mod:`.protocol`: the messages of ``/dev/fuse`` as bytes;
- :mod:`.lower`: what a view holds, by inode number;
- :mod:`.record`: what a scratch layer changes, kept in SQLite;
- :mod:`.cowfile`: changed files' data, over the view's;
- :mod:`.tree`, :mod:`.directories`, :mod:`.metadata`: the two merged, and what can be done to them;
- :mod:`.server`: answers the kernel's requests;
- :mod:`.device`: opens ``/dev/fuse`` and mounts it, with or without root;
- :mod:`.daemon`: the process that serves one mount;
- :mod:`.changes`: the record, told as a scratch layer's changes;
- :mod:`.mounter`: the kind of mount itself.
"""
