"""The command line: ``winlayers``."""
