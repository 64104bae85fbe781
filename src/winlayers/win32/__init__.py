"""Windows data formats as pure functions and small classes on bytes: no I/O, any operating system."""
