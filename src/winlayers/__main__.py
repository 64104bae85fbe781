"""``python -m winlayers``."""

from winlayers.cli.main import main

if __name__ == "__main__":
    main()
