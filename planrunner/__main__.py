"""``python -m planrunner`` is the command ``planrunner``."""

from planrunner.cli.main import main

if __name__ == "__main__":
    main()
