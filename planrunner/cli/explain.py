"""``planrunner explain``: what a step does and which options it takes."""

from typing import Annotated

import typer


def explain(step: Annotated[str, typer.Argument(metavar="STEP", help="The step's name: its uses.")]) -> None:
    """Explain a step and its options."""
    from difflib import get_close_matches

    from planrunner import registry
    from planrunner.cli.screen import out
    from planrunner.errors import UsageError

    names = registry.step_names()
    if step not in names:
        close = get_close_matches(step, names, 1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(f"there is no step {step!r}", remedy=f"{hint}There are: {', '.join(names)}.")
    from planrunner.loading.reference import step_page

    out(step_page(step))
