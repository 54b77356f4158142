"""What a shell is offered for a word that is not finished: plan files, the steps of a plan, what can be explained."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from planrunner.model import Json

_ENDINGS = (".yaml", ".yml")


def plan_files(incomplete: str) -> list[str]:
    """The YAML files that the word may become. None: then the shell offers what there is, folders too."""
    folder, slash, beginning = incomplete.rpartition("/")
    here = Path(folder + slash or ".")
    with suppress(OSError):
        names = sorted(path.name for path in here.iterdir() if path.suffix in _ENDINGS and path.is_file())
        fitting = [name for name in names if name.startswith(beginning)]
        return [folder + slash + name for name in fitting if beginning or not name.startswith(".")]
    return []


def step_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The steps of the plan that stands on the line already, those of its base too; none where it can't be read."""
    from planrunner.errors import PlanrunnerError
    from planrunner.loading.overlays import assembled

    # An option that waits for its value leaves the plan among what is not parsed yet.
    plan = ctx.params.get("plan") or next(iter(ctx.args), None)
    with suppress(PlanrunnerError, OSError):
        tree = assembled(Path(plan)).tree if plan else None
        return [name for name in _ids(tree) if name.startswith(incomplete)]
    return []


def _ids(tree: "Json") -> list[str]:
    steps = tree.get("steps") if isinstance(tree, dict) else None
    entries = steps if isinstance(steps, list) else []
    ids = [step.get("id") for step in entries if isinstance(step, dict)]
    return [name for name in ids if isinstance(name, str)]


def explained(incomplete: str) -> list[str]:
    """The names of steps and the codes of checks."""
    from planrunner.registry import step_names

    names = [*step_names(), "checks"]
    if incomplete[:2].casefold() == "pr" and not any(name.startswith(incomplete) for name in names):
        from planrunner.catalogue import checks

        # Hundreds of codes are offered only to whoever began one.
        names = [incomplete[:2] + code[2:] for code in checks()]
    return [name for name in names if name.startswith(incomplete)]
