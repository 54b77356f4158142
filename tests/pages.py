"""What the pages show: their commands, their YAML, their links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# Generated from the commands and schemas themselves; tests of their own compare them.
_GENERATED = "reference"
_SHELLS = frozenset({"bash", "console", "sh", "shell"})
# What a line that is indented as code begins with when it is a command.
_PROGRAMS = frozenset(
    {
        "aws",
        "check-jsonschema",
        "curl",
        "docker",
        "export",
        "git",
        "helm",
        "kubectl",
        "make",
        "mkdocs",
        "openssl",
    }
    | {
        "pg_dump",
        "pg_dumpall",
        "pip",
        "pipx",
        "planrunner",
        "pre-commit",
        "psql",
        "python",
        "python3",
        "sha256sum",
    }
    | {"airflow", "argo", "cat", "jq", "sh", "bash", "ssh", "sudo", "uv"}
)
_FENCE = re.compile(r"^(?P<indent> *)(?P<mark>```+|~~~+)(?P<info>[\w-]*)")
_REMARK = re.compile(r"\s+#\s.*$")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block; ``kind`` is what stands after the fence."""

    page: str
    line: int
    kind: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def pages() -> list[Path]:
    """The README and every page that people write."""
    written = [p for p in sorted(DOCS.rglob("*.md")) if p.relative_to(DOCS).parts[0] != _GENERATED]
    return [ROOT / "README.md", *written]


def blocks(page: Path) -> tuple[list[Block], list[str]]:
    """The fenced blocks of a page, and its other lines."""
    found: list[Block] = []
    others: list[str] = []
    held: list[str] | None = None
    opening: re.Match[str] | None = None
    start = 0
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if held is None:
            if fence:
                held, opening, start = [], fence, number
            else:
                others.append(line)
        elif fence and opening and fence["mark"] == opening["mark"] and not fence["info"]:
            name = str(page.relative_to(ROOT))
            found.append(Block(page=name, line=start, kind=opening["info"], lines=tuple(held)))
            held = None
        else:
            assert opening is not None
            held.append(line[len(opening["indent"]) :])
    assert held is None, f"{page}:{start}: the fence is not closed"
    return found, others


def commands(page: Path) -> list[str]:
    """The commands that a page shows on lines of their own, without remarks, continuations joined."""
    fenced, others = blocks(page)
    found: list[str] = []
    for block in fenced:
        if block.kind in _SHELLS:
            found += _joined(_typed(block))
    indented = [line.strip() if line.startswith("    ") else "" for line in others]
    found += [c for c in _joined(indented) if c.split(" ")[0] in _PROGRAMS]
    return found


def _typed(block: Block) -> list[str]:
    """The lines of a block that are typed: of a console those after the prompt, and their continuations."""
    if block.kind != "console":
        return list(block.lines)
    typed: list[str] = []
    for line in block.lines:
        if line.startswith("$ "):
            typed.append(line[2:])
        elif typed and typed[-1].endswith("\\"):
            typed.append(line)
        else:
            typed.append("")
    return typed


def _joined(lines: list[str]) -> list[str]:
    found: list[str] = []
    open_line = ""
    for line in lines:
        text = open_line + _REMARK.sub("", line.strip())
        if text.endswith("\\"):
            open_line = text[:-1].rstrip() + " "
            continue
        open_line = ""
        if text and not text.startswith("#"):
            found.append(text)
    return found


def inline_commands(page: Path) -> list[str]:
    """The commands that a page names in its sentences."""
    _, others = blocks(page)
    return re.findall(r"`(planrunner [a-z][^`]*|make [a-z][^`]*)`", "\n".join(others))


def links(page: Path) -> Iterator[str]:
    """The relative links of a page."""
    _, others = blocks(page)
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(others)):
        if not re.match(r"[a-z]+:", target):
            yield target
