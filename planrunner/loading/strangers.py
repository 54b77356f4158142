"""Variables of the environment that look meant for a plan and reach none: most likely misspelt."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from planrunner.errors import UsageError
from planrunner.loading.document import shown, suggestion
from planrunner.loading.overlays import assembled
from planrunner.loading.variables import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


def strangers(plans: Sequence[Path], environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each PLANRUNNER_VAR_NAME that names a variable of none of the plans; never its value."""
    given = sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX))
    declared = sorted({name for path in plans for name in _declared(path)}) if given else []
    for variable in given:
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name not in declared:
            known = suggestion(name, declared, label="Declared")
            yield f"{shown(variable)} is set, and no plan declares that variable. {known}"


def _declared(path: Path) -> Sequence[str]:
    try:
        tree = assembled(path).tree
    except UsageError:
        return ()
    declared = cast("Mapping[str, object]", tree).get("vars") if isinstance(tree, dict) else None
    return list(declared) if isinstance(declared, dict) else ()
