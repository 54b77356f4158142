"""A process that has everything imported and forks one command of planrunner's after another: each as a user runs it.

Each line of its input is an order: the words of the command, variables over its environment, the file for what it
says, and a script that is executed before. It answers with the command's exit code.
"""

import json
import os
import sys

import boto3
import jinja2.sandbox
import jsonschema
import psycopg
import rich.live
import stamina

from planrunner import failpoints
from planrunner.cli import main
from planrunner.engine import launch, looking, preview, report, runner

# Imported so that a command finds them.
READY = (boto3, jinja2, jsonschema, psycopg, rich, stamina, launch, looking, preview, report, runner)


def performed(order: dict[str, object]) -> int:
    """Run one command in this process; its exit code."""
    said = os.open(str(order["out"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, said), (2, said)):
        os.dup2(source, target)
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    # They are read once, when the module is imported.
    failpoints._armed = failpoints._parse(os.environ.get("PLANRUNNER_FAILPOINTS", ""))
    sys.argv = ["planrunner", *order["words"]]  # type: ignore[misc]
    try:
        exec(str(order["script"]), {"launch": launch})
        main.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def serve() -> None:
    """Perform order after order until there are no more."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(performed(order))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201


if __name__ == "__main__":
    serve()
