"""Where the executable begins: the command ``planrunner``, whose children find the environment as it was."""

import os


def _as_it_was() -> None:
    """The bootloader leads the loader to the bundle's libraries; psql and pg_dump are to take the machine's own."""
    before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    os.environ.pop("LD_LIBRARY_PATH", None)
    if before is not None:
        os.environ["LD_LIBRARY_PATH"] = before


if __name__ == "__main__":
    _as_it_was()
    from planrunner.cli.main import main

    main()
