"""Writes text to the terminal, or to a file where one is named."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer

from planrunner.errors import UsageError
from planrunner.masking import hushed
from planrunner.shown import visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from planrunner.errors import PlanrunnerError


def out(text: str, path: Path | None = None) -> None:
    """Write text to stdout, or to ``path``; no sensitive value is in it."""
    text = hushed(text)
    if path is None:
        text = visible(text.replace("\r\n", "\n"))
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        # A pipe that nobody reads would keep us waiting for ever.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        os.set_blocking(handle, True)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else f"{text}\n")
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}", remedy="Name a file in a folder that you may write to."
        ) from error


def note(text: str) -> None:
    """Write a line to stderr, where it does not mix with results."""
    typer.echo(visible(hushed(text)), err=True)


def tell_error(error: PlanrunnerError) -> None:
    """Write an error and its remedy to stderr."""
    typer.echo(f"{paint('error:', typer.colors.RED)} {visible(hushed(error.message))}", err=True)
    for line in hushed(error.remedy or "").splitlines():
        typer.echo(f"  {visible(line)}", err=True)


def paint(text: str, colour: str) -> str:
    """Coloured text; plain where NO_COLOR is set. Pipes and files get no colour either way."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg=colour)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def agrees(question: str) -> bool:
    """Ask the person at the terminal; everything but a clear yes is a no."""
    try:
        return typer.confirm(visible(hushed(question)), default=False)
    except typer.Abort:
        return False


def may_ask(*, no_input: bool) -> bool:
    """True when a person sits at the terminal and may be asked."""
    return not no_input and sys.stdin.isatty() and sys.stdout.isatty()
