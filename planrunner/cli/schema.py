"""``planrunner schema``: the JSON Schema of plan files, for editors."""

import json

from planrunner.cli.options import OutFile


def schema(out: OutFile = None) -> None:
    """Print the JSON Schema of plan files."""
    from planrunner.cli import screen
    from planrunner.loading.schema import plan_schema

    screen.out(json.dumps(plan_schema(), indent=2, ensure_ascii=False), out)
