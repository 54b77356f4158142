"""``planrunner explain``: what a step does and which options it takes, or what a check is about."""

from typing import Annotated

import typer

from planrunner.cli.completing import explained


def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A step's uses, a check's code (PR0203), or: checks.",
            autocompletion=explained,
        ),
    ],
) -> None:
    """Explain a step and its options, or a check: what it is about and what mends it."""
    from planrunner.cli.screen import out

    if name.casefold() == "checks":
        from planrunner.check_pages import index

        out(index())
    elif name[:2].casefold() == "pr" and name[2:].isdigit():
        out(_check(name))
    else:
        out(_step(name))


def _check(name: str) -> str:
    from planrunner.catalogue import checks
    from planrunner.check_pages import page
    from planrunner.cli.naming import check_code

    return page(checks()[check_code(name)])


def _step(name: str) -> str:
    from difflib import get_close_matches

    from planrunner import registry
    from planrunner.errors import UsageError
    from planrunner.loading.reference import step_page

    names = registry.step_names()
    if name not in names:
        close = get_close_matches(name, names, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(
            f"there is no step {name!r}", remedy=f"{hint}There are: {', '.join(names)}; and codes of checks."
        )
    return step_page(name)
