"""What a wheel lays beside the package: the man page and what shells complete by. ``make docs`` writes it."""

from __future__ import annotations

from pathlib import Path

from typer.completion import get_completion_script

from release.manual import page

ROOT = Path(__file__).parents[1]
SHELLS = {
    "bash": "share/bash-completion/completions/planrunner",
    "zsh": "share/zsh/site-functions/_planrunner",
    "fish": "share/fish/vendor_completions.d/planrunner.fish",
}


def files() -> dict[str, str]:
    """Each file's text, by its path in the repository."""
    completions = {
        path: get_completion_script(prog_name="planrunner", complete_var="_PLANRUNNER_COMPLETE", shell=shell)
        for shell, path in SHELLS.items()
    }
    return {
        "share/man/man1/planrunner.1": page(),
        **{path: text.strip() + "\n" for path, text in completions.items()},
    }


def main() -> None:
    """Write them."""
    for path, text in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
