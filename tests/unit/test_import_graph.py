"""Who may import whom, function-level imports counted: the layers of the design, and no cycle."""

import ast
import importlib.util
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import planrunner

ROOT = Path(planrunner.__file__).parent
BOTO = frozenset({"boto3", "botocore"})
# Where a package begins with one of the prefixes, it may import nothing that begins with the others.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "planrunner.loading": (
        "psycopg",
        "boto3",
        "botocore",
        "typer",
        "planrunner.postgres",
        "planrunner.replication",
        "planrunner.aws",
        "planrunner.engine",
        "planrunner.state",
        "planrunner.cli",
        "planrunner.sandbox",
        "planrunner.steps.",
    ),
    "planrunner.linting": (
        "psycopg",
        "boto3",
        "typer",
        "subprocess",
        "planrunner.postgres",
        "planrunner.replication",
        "planrunner.aws",
        "planrunner.engine",
        "planrunner.state",
        "planrunner.secrets",
        "planrunner.cli",
        "planrunner.steps.",
    ),
    "planrunner.fleet": (
        "psycopg",
        "boto3",
        "botocore",
        "typer",
        "rich",
        "planrunner.postgres",
        "planrunner.replication",
        "planrunner.steps.",
        "planrunner.cli",
        "planrunner.sandbox",
    ),
    "planrunner.engine": (
        "psycopg",
        "boto3",
        "botocore",
        "typer",
        "rich",
        "planrunner.steps",
        "planrunner.cli",
        "planrunner.loading",
        "planrunner.sandbox",
    ),
    "planrunner.steps": (
        "psycopg",
        "boto3",
        "botocore",
        "typer",
        "rich",
        "os",
        "time",
        "planrunner.engine",
        "planrunner.steps",
        "planrunner.cli",
        "planrunner.loading",
        "planrunner.state",
        "planrunner.sandbox",
        "planrunner.registry",
    ),
    **dict.fromkeys(
        (
            *("planrunner.postgres", "planrunner.replication", "planrunner.aws", "planrunner.switching"),
            "planrunner.seren",
        ),
        (
            "typer",
            "rich",
            "planrunner.step",
            "planrunner.steps",
            "planrunner.engine",
            "planrunner.loading",
            "planrunner.state",
            "planrunner.cli",
            "planrunner.sandbox",
            "planrunner.registry",
        ),
    ),
    "planrunner.state": (
        "psycopg",
        "boto3",
        "typer",
        "planrunner.postgres",
        "planrunner.replication",
        "planrunner.aws",
        "planrunner.step",
        "planrunner.steps",
        "planrunner.engine",
        "planrunner.loading",
        "planrunner.cli",
        "planrunner.sandbox",
        "planrunner.registry",
    ),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def at_run_time(tree: ast.AST) -> Iterator[ast.stmt]:
    """Every import statement but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from at_run_time(ast.Module([other], []))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        else:
            yield from at_run_time(node)


def named(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, "imports are absolute"
        base = statement.module or ""
        for alias in statement.names:
            full = f"{base}.{alias.name}"
            yield full if full in MODULES else base


def on_demand(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported when they are first used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "on_demand":
            (name,) = node.args
            assert isinstance(name, ast.Constant), "a name that can be read here"
            yield str(name.value)


def imports(module: str) -> set[str]:
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    found = {name for statement in at_run_time(tree) for name in named(statement)}
    return (found | set(on_demand(tree))) - {module}


def within(name: str, package: str) -> bool:
    return name.startswith(package) if package.endswith(".") else f"{name}.".startswith(f"{package}.")


GRAPH = {module: imports(module) for module in MODULES}


def test_the_graph_was_read() -> None:
    assert "planrunner.state.codec" in GRAPH["planrunner.state.file"]
    assert "planrunner.cli.opening" in GRAPH["planrunner.cli.run"], "function-level imports count"
    assert "planrunner.crossings" in GRAPH["planrunner.steps.cutover_verify"], "imports on demand count"


def test_what_is_imported_on_demand_is_there() -> None:
    for module, path in MODULES.items():
        for name in on_demand(ast.parse(path.read_text("utf-8"))):
            assert importlib.util.find_spec(name) is not None, f"{module} names {name}"


def test_there_is_no_import_cycle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_a_layer_imports_only_what_it_may(package: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module in GRAPH
        if within(module, package)
        for name in sorted(GRAPH[module])
        if any(within(name, banned) for banned in FORBIDDEN[package])
    ]
    assert wrong == []


def test_only_aws_and_the_sandbox_import_boto3() -> None:
    importers = {module for module, names in GRAPH.items() if any(n.split(".")[0] in BOTO for n in names)}
    assert {
        m for m in importers if not within(m, "planrunner.aws") and not within(m, "planrunner.sandbox")
    } == set()


def test_only_the_command_line_imports_typer() -> None:
    importers = {module for module, names in GRAPH.items() if "typer" in names}
    assert {m for m in importers if not within(m, "planrunner.cli")} == set()


def test_nothing_imports_the_command_line() -> None:
    importers = {
        module
        for module, names in GRAPH.items()
        if any(within(n, "planrunner.cli") for n in names) and not within(module, "planrunner.cli")
    }
    assert importers == {"planrunner.__main__"}


def environment_readers() -> set[str]:
    words = {"os.environ", "os.getenv", "environ"}
    found = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in words:
                found.add(module)
    return found


def test_only_those_at_the_edge_read_the_environment() -> None:
    allowed = (
        "planrunner.cli",
        "planrunner.sandbox",
        "planrunner.failpoints",
        "planrunner.pools.worker",
        "planrunner.fleet.errand",
        "planrunner.postgres.tools",
        "planrunner.switching.children",
    )
    assert {m for m in environment_readers() if not any(within(m, a) for a in allowed)} == set()
