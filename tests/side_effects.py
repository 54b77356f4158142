"""Finds in the syntax tree of planrunner what changes something outside the process, and the points it passes.

An effect is told by rule: SQL that is not plainly a read, an AWS call by its verb, a child process or a signal to one,
a file that is written, a request to somebody else. What can't be resolved counts as a change.

It is covered where its function passes a point. A function that works in its caller's transaction (one of its
parameters is a session) hands its effects on to whoever calls it, and so does a private function, one level up and
within its module: then every caller has to pass a point, and there has to be one.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

EXECUTING = {"execute", "executemany"}
READING = {"rows", "row", "value"}
# A read by its first word; what comes after it may still change something.
_READS = ("select", "show", "with", "values", "table", "explain", "fetch")
# Of the own session, gone with it.
_OWN = (
    *("set", "reset", "begin", "start", "rollback", "savepoint", "release", "lock", "declare", "close"),
    *("discard", "identify_system", "timeline_history"),
)
_CHANGING = re.compile(
    r"\b(insert\s+into|delete\s+from|merge\s+into|update\s+(?:only\s+)?[{\w\".]+\s+(?:\w+\s+)?set\b"
    r"|pg_create_\w+|pg_drop_\w+|pg_terminate_backend|pg_cancel_backend|setval|nextval|pg_replication_origin_(?!status|progress)\w+"
    r"|pg_replication_slot_advance|pg_wal_replay_(?:pause|resume)|pg_promote|pg_copy_\w+_slot|pg_logical_emit_message|pg_switch_wal|pg_reload_conf"
    r"|pg_logical_slot_get_\w+|lo_(?:create|creat|unlink|import|put|from_bytea|truncate)|lowrite|pg_rotate_logfile|dblink\w*)\b"
)
_VERBS = re.compile(
    r"^(create|modify|reboot|delete|authorize|revoke|change|put|update|reset|copy|add|remove|start|stop|restore|tag"
    r"|untag|attach|detach|set|apply|failover|promote|upload|abort|complete)_[a-z]"
)
_CHILDREN = {"Popen", "run", "check_call", "check_output", "call", "system", "execv", "posix_spawn"}
_SIGNALS = {"kill", "killpg", "send_signal", "terminate"}
_FILES = {
    "write_text",
    "write_bytes",
    "unlink",
    "fsync",
    "fdatasync",
    "symlink_to",
    "hardlink_to",
    "ftruncate",
}
_FILES_OF_OS = {"replace", "rename", "link", "remove", "symlink", "truncate", "fdopen"}
_FILES_OF_SHUTIL = {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"}
_REQUESTS = {"urlopen"}
_SESSION_NAMES = re.compile(r"\b(session|writer|reader|replication|theirs|ours|own|wire|cursor)\b")
_SESSIONS = re.compile(r"\b(Session|Connection|Cursor|ServerCursor|Wire)\b")
# Calls by the attribute that they call.
_CALL_OF: WeakKeyDictionary[ast.Attribute, ast.Call] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Something that changes something, where it stands."""

    module: str
    function: str
    line: int
    kind: str
    what: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function}: {self.kind}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A call of ``failpoint``; a part of the name that is not constant is ``*``."""

    module: str
    function: str
    line: int
    name: str


@dataclass(kw_only=True)
class Module:
    """A parsed module: its functions by qualified name, its constants, what its imports stand for."""

    name: str
    tree: ast.Module
    functions: dict[str, Function] = field(default_factory=dict)
    constants: dict[str, list[ast.expr]] = field(default_factory=lambda: defaultdict(list))
    imports: dict[str, str] = field(default_factory=dict)


class Sources:
    """The modules by dotted name."""

    def __init__(
        self, texts: Mapping[str, str], called_from: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        """``called_from`` says who calls a method that is only known behind a Protocol."""
        self._called_from = called_from or {}
        self.modules = {name: _module(name, text) for name, text in texts.items()}

    @classmethod
    def of(cls, package: Path, called_from: Mapping[str, tuple[str, ...]] | None = None) -> Sources:
        """Those below ``package``; the sandbox is a stand-in for what lies outside and is left out."""
        found = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            if "sandbox" not in parts:
                found[".".join(parts).removesuffix(".__init__")] = path.read_text("utf-8")
        return cls(found, called_from)

    def points(self) -> list[Point]:
        """Every call of ``failpoint``, in order."""
        return [
            Point(module=m.name, function=name, line=call.lineno, name=_point_name(call.args[0]))
            for m in self.modules.values()
            for name, function in m.functions.items()
            for call in _calls(function)
            if _is_point(call)
        ]

    def effects(self) -> list[Effect]:
        """Every effect as it stands."""
        return [
            Effect(module=m.name, function=name, line=line, kind=kind, what=what)
            for m in self.modules.values()
            for name, function in m.functions.items()
            for line, kind, what in self._effects_in(m, name, function)
        ]

    def uncovered(self, excepted: Collection[str] = ()) -> list[Effect]:
        """The effects that pass no point, where they would have to; ``excepted`` names functions that need none."""
        found: dict[Effect, None] = {}
        for effect in self.effects():
            if f"{effect.module}.{effect.function}" in excepted:
                continue
            for left in self._climbed(effect, effect.module, effect.function, set(), climbed=False):
                found[left] = None
        return list(found)

    def _climbed(
        self, effect: Effect, module: str, function: str, seen: set[tuple[str, str]], *, climbed: bool
    ) -> Iterator[Effect]:
        if (module, function) in seen:
            return
        seen.add((module, function))
        m = self.modules[module]
        node = m.functions[function]
        if any(_is_point(call) for call in _calls(node)):
            return
        borrowed = self._borrows(m, function)
        callers = self._helped(module, function, borrowed=borrowed, climbed=climbed)
        if not callers:
            yield Effect(
                module=module,
                function=function,
                line=node.lineno if climbed else effect.line,
                kind=effect.kind,
                what=effect.what if not climbed else f"{effect.what} ({effect.module}:{effect.line})",
            )
        for where, name in callers:
            # A session that is handed on makes no level: the caller's transaction is what counts.
            yield from self._climbed(effect, where, name, seen, climbed=climbed or not borrowed)

    def _borrows(self, m: Module, function: str) -> bool:
        """Whether it works in its caller's transaction; so does a function that stands inside such a one."""
        outer = function.rpartition(".")[0]
        return _borrows_session(m.functions[function]) or (outer in m.functions and self._borrows(m, outer))

    def _helped(self, module: str, function: str, *, borrowed: bool, climbed: bool) -> list[tuple[str, str]]:
        """Whom a function that passes no point helps, one level up: exactly known, or named by the table."""
        named = self._called_from.get(f"{module}.{function}")
        if named is not None:
            return [self._split(one) for one in named]
        callers = self._callers(module, function) if borrowed or not climbed else []
        if borrowed:
            return callers
        # A method of another class may only have the same name.
        return [one for one in callers if one[0] == module] if "." in function else callers

    def _split(self, qualified: str) -> tuple[str, str]:
        owner = max((m for m in self.modules if qualified.startswith(f"{m}.")), key=len)
        return owner, qualified.removeprefix(f"{owner}.")

    def _callers(self, module: str, function: str) -> list[tuple[str, str]]:
        return sorted(self._called_by.get((module, function), ()))

    @property
    def _called_by(self) -> Mapping[tuple[str, str], set[tuple[str, str]]]:
        if not hasattr(self, "_calls_known"):
            self._calls_known = self._find_callers()
        return self._calls_known

    def _find_callers(self) -> dict[tuple[str, str], set[tuple[str, str]]]:
        methods: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for m in self.modules.values():
            for name in m.functions:
                if "." in name:
                    methods[name.rpartition(".")[2]].append((m.name, name))
        found: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
        for m in self.modules.values():
            for name, function in m.functions.items():
                for node in _mentions(function):
                    for target in self._named(m, name, node, methods):
                        if target != (m.name, name):
                            found[target].add((m.name, name))
        return found

    def _named(
        self, m: Module, inside: str, node: ast.AST, methods: Mapping[str, list[tuple[str, str]]]
    ) -> list[tuple[str, str]]:
        """The functions that a name or an attribute may stand for: called, or handed to whoever calls it."""
        if isinstance(node, ast.Name):
            direct = self._function_of(m, node.id)
            nested = [(m.name, f"{inside}.{node.id}")] if f"{inside}.{node.id}" in m.functions else []
            return nested or ([direct] if direct else [])
        if not isinstance(node, ast.Attribute):
            return []
        if isinstance(node.value, ast.Name):
            owner = self.modules.get(m.imports.get(node.value.id, ""))
            if owner is not None:
                return [(owner.name, node.attr)] if node.attr in owner.functions else []
            if node.value.id in {"self", "cls"}:
                own = f"{inside.split('.', maxsplit=1)[0]}.{node.attr}"
                if own in m.functions:
                    return [(m.name, own)]
        return [one for one in methods.get(node.attr, []) if self._fits(one, node)]

    def _fits(self, target: tuple[str, str], called: ast.Attribute) -> bool:
        """Whether a call of a method has as many arguments as that one takes."""
        call = _CALL_OF.get(called)
        if call is None:
            return False
        function = self.modules[target[0]].functions[target[1]]
        if _borrows_session(function) and not any(
            _SESSION_NAMES.search(ast.unparse(one)) for one in call.args
        ):
            return False
        if any(isinstance(one, ast.Starred) for one in call.args):
            return True
        arguments = function.args
        most = len(arguments.posonlyargs) + len(arguments.args) - 1
        given = len(call.args) + len(call.keywords)
        fewest = most - len(arguments.defaults)
        return fewest <= given and (
            arguments.vararg is not None
            or (len(call.args) <= most and given <= most + len(arguments.kwonlyargs))
        )

    def _function_of(self, m: Module, name: str) -> tuple[str, str] | None:
        if name in m.functions:
            return m.name, name
        target = m.imports.get(name, "")
        owner, _, short = target.rpartition(".")
        if owner in self.modules and short in self.modules[owner].functions:
            return owner, short
        return None

    def _effects_in(self, m: Module, name: str, function: Function) -> Iterator[tuple[int, str, str]]:
        for call in _calls(function):
            kind, what = self._kind(m, name, function, call)
            if kind:
                yield call.lineno, kind, what

    def _kind(  # noqa: C901, PLR0911, PLR0912  # one rule after the other, as they are told above
        self, m: Module, name: str, function: Function, call: ast.Call
    ) -> tuple[str, str]:
        called = call.func
        if isinstance(called, ast.Name):
            if called.id == "open" and _writes(call, 1):
                return "file", "open"
            if called.id in _REQUESTS:
                return "request", called.id
            if m.name.startswith("planrunner.aws") and any(map(_by_name, _assigned(function, called.id))):
                return "aws", f"unresolved: {ast.unparse(call)[:80]}"
            return "", ""
        if not isinstance(called, ast.Attribute):
            return "", ""
        if (
            isinstance(called.value, ast.Name)
            and self._named(m, name, called, {})
            and called.value.id != "self"
        ):
            # A function of ours that is only called like that: what it does is seen where it stands.
            return "", ""
        owner = called.value.id if isinstance(called.value, ast.Name) else ""
        if called.attr in EXECUTING or called.attr in READING:
            return self._sql(m, name, function, call, reading=called.attr in READING)
        if called.attr == "copy" and call.args and owner not in {"shutil", "copy", "dict"}:
            return self._sql(m, name, function, call, reading=False)
        if (called.attr == "run" and owner == "subprocess") or called.attr in _CHILDREN - {"run", "call"}:
            return "child", f"{owner}.{called.attr}"
        if called.attr in _SIGNALS and owner != "signal":
            return "child", called.attr
        if called.attr in _REQUESTS or (
            called.attr == "open" and "urllib.request" in m.imports and _unknown_first(call)
        ):
            return "request", called.attr
        if called.attr == "rename" and self._methods("rename") and _server(called.value):
            return "", ""
        of_client = (
            m.name.startswith("planrunner.aws") and owner not in {"self", "cls"} and bool(call.keywords)
        )
        if of_client and _VERBS.match(called.attr) and not self._named(m, name, called, {}):
            return "aws", called.attr
        return _file(called.attr, owner, call)

    def _sql(
        self, m: Module, name: str, function: Function, call: ast.Call, *, reading: bool
    ) -> tuple[str, str]:
        if not call.args:
            return "", ""
        texts: set[str | None] = set()
        for argument in call.args if isinstance(call.func, ast.Attribute) and _many(call) else call.args[:1]:
            texts |= self.texts(m, name, function, argument, set())
        for text in sorted(texts, key=str):
            # Only a session that can't write is asked by rows, row and value, whatever the query is.
            if text is None and not reading:
                return "sql", f"unresolved: {ast.unparse(call)[:80]}"
            if text is not None and changes(text, reading=reading):
                return "sql", " ".join(text.split())[:80]
        return "", ""

    def texts(  # noqa: C901, PLR0911, PLR0912  # one kind of expression after the other
        self, m: Module, name: str, function: Function | None, node: ast.expr, seen: set[int]
    ) -> set[str | None]:
        """The texts that an expression may be; None among them for what can't be told."""
        if id(node) in seen:
            return set()
        seen = {*seen, id(node)}

        def deeper(one: ast.expr) -> set[str | None]:
            return self.texts(m, name, function, one, seen)

        match node:
            case ast.Constant(value=str(text)):
                return {text}
            case ast.Constant():
                return {""}
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return set().union(*map(deeper, parts)) if parts else {""}
            case ast.Starred(value=value) | ast.Subscript(value=value):
                return deeper(value)
            case ast.IfExp(body=one, orelse=other):
                return deeper(one) | deeper(other)
            case ast.BoolOp(values=values):
                return set().union(*map(deeper, values))
            case ast.BinOp(op=ast.Add(), left=one, right=other):
                return _joined([deeper(one), deeper(other)])
            case ast.ListComp(elt=one) | ast.GeneratorExp(elt=one):
                return deeper(one)
            case ast.DictComp(value=one):
                return deeper(one)
            case ast.Dict(values=values):
                return set().union(*map(deeper, values)) if values else {""}
            case ast.Name(id=short):
                return self._of_name(m, name, function, short, seen)
            case ast.Attribute(value=ast.Name(id=short), attr=attr) if (
                m.imports.get(short, "") in self.modules
            ):
                there = self.modules[m.imports[short]]
                return self._of_constant(there, attr, seen)
            case ast.Call():
                return self._of_call(m, name, function, node, seen)
        return {None}

    def _of_call(  # noqa: C901, PLR0911  # one way to put SQL together after the other
        self, m: Module, name: str, function: Function | None, node: ast.Call, seen: set[int]
    ) -> set[str | None]:
        def deeper(one: ast.expr) -> set[str | None]:
            return self.texts(m, name, function, one, seen)

        called = node.func
        if isinstance(called, ast.Attribute):
            if called.attr == "SQL" and node.args:
                return deeper(node.args[0])
            if called.attr in {"Identifier", "Literal", "Placeholder"}:
                return {"x"}
            if called.attr == "format":
                given = [*node.args, *(k.value for k in node.keywords)]
                return _joined([deeper(called.value), *(_known(deeper(one)) for one in given)])
            if called.attr == "join" and node.args:
                return _joined([deeper(node.args[0])])
            if called.attr in {"values", "items", "strip", "as_string"}:
                return deeper(called.value)
        if isinstance(called, ast.Name) and called.id in {"tuple", "list", "reversed", "sorted", "enumerate"}:
            return deeper(node.args[0]) if node.args else {""}
        methods: dict[str, list[tuple[str, str]]] = {}
        if isinstance(called, ast.Attribute):
            methods = {called.attr: self._methods(called.attr)}
        found: set[str | None] = set()
        for where, short in self._named(m, name, called, methods):
            there = self.modules[where]
            found |= self._returned(there, short, seen)
        return found or {None}

    def _methods(self, short: str) -> list[tuple[str, str]]:
        return [
            (m.name, name)
            for m in self.modules.values()
            for name in m.functions
            if name.endswith(f".{short}")
        ]

    def _returned(self, m: Module, name: str, seen: set[int]) -> set[str | None]:
        function = m.functions[name]
        found: set[str | None] = set()
        for node in _own(function):
            if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
                found |= self.texts(m, name, function, node.value, seen)
        return found or {None}

    def _of_name(
        self, m: Module, name: str, function: Function | None, short: str, seen: set[int]
    ) -> set[str | None]:
        found: set[str | None] = set()
        for value in _assigned(function, short) if function is not None else []:
            found |= self.texts(m, name, function, value, seen)
        if found:
            return found
        outer, _, _ = name.rpartition(".")
        if outer in m.functions:
            return self._of_name(m, outer, m.functions[outer], short, seen)
        return self._of_constant(m, short, seen)

    def _of_constant(self, m: Module, short: str, seen: set[int]) -> set[str | None]:
        if short in m.constants:
            return set().union(*(self.texts(m, "", None, one, seen) for one in m.constants[short]))
        target = m.imports.get(short, "")
        owner, _, there = target.rpartition(".")
        if owner in self.modules:
            return self._of_constant(self.modules[owner], there, seen)
        return {None}


def changes(text: str, *, reading: bool) -> bool:
    """Whether a text of SQL is more than a read, or a word to the own session."""
    low = re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*", " ", text.lower()))
    if _CHANGING.search(low):
        return True
    if reading:
        return False
    parts = [part.strip(" \t\n(") for part in low.split(";")]
    return not all(_plain(part) for part in parts if part)


def _plain(part: str) -> bool:
    first = re.match(r"[a-z_]+", part)
    if first is None or (first.group() == "copy" and re.search(r"\bto\s+stdout\b", part)):
        return first is not None
    return first.group() in _READS or first.group() in _OWN


def _known(texts: set[str | None]) -> set[str | None]:
    # What fills a gap is a name, a value or a part of the statement, never its first word.
    return {one or "" for one in texts}


def _joined(parts: list[set[str | None]]) -> set[str | None]:
    if any(None in part for part in parts):
        return {None}
    return {" ".join(str(one) for part in parts for one in sorted(map(str, part)))}


def _file(attr: str, owner: str, call: ast.Call) -> tuple[str, str]:
    if attr == "open" and (
        (owner == "os" and "O_CREAT" in ast.unparse(call)) or (owner != "os" and _writes(call, 0))
    ):
        return "file", f"{owner}.open"
    if attr == "fdopen" and not _writes(call, 1):
        return "", ""
    if attr in {"replace", "rename"} and owner != "os" and len(call.args) == 1 and not call.keywords:
        return "file", f"{owner}.{attr}"
    if (
        attr in _FILES
        or (owner == "os" and attr in _FILES_OF_OS)
        or (owner == "shutil" and attr in _FILES_OF_SHUTIL)
    ):
        return "file", f"{owner}.{attr}"
    return "", ""


def _writes(call: ast.Call, place: int) -> bool:
    modes = [k.value for k in call.keywords if k.arg == "mode"] + call.args[place : place + 1]
    return any(
        not isinstance(m, ast.Constant) or bool(set(str(m.value)) & set("wax+")) for m in modes
    ) and any(
        isinstance(m, ast.IfExp) or (isinstance(m, ast.Constant) and isinstance(m.value, str)) for m in modes
    )


def _many(call: ast.Call) -> bool:
    # Server.execute takes any number of statements; a session's takes one, and what fills it.
    return isinstance(call.func, ast.Attribute) and any(isinstance(one, ast.Starred) for one in call.args)


def _server(node: ast.expr) -> bool:
    # What a session is called on its server has the same word as a file's new name.
    return ast.unparse(node).rpartition(".")[2] in {"source", "target", "server", "world"}


def _unknown_first(call: ast.Call) -> bool:
    return bool(call.args) and not isinstance(call.args[0], ast.Constant)


def _by_name(called: ast.expr) -> bool:
    """A method that is looked up by a name which is put together."""
    return (
        isinstance(called, ast.Call)
        and isinstance(called.func, ast.Name)
        and called.func.id == "getattr"
        and not isinstance(called.args[1], ast.Constant)
    )


def _is_point(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == "failpoint" and bool(call.args)


def _point_name(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(str(one.value) if isinstance(one, ast.Constant) else "*" for one in values)
        case ast.IfExp(body=one, orelse=other):
            return f"{_point_name(one)}|{_point_name(other)}"
    return "*"


@cache
def _own(function: Function) -> tuple[ast.AST, ...]:
    """The nodes of a function, without those of the functions in it; a lambda is its own."""
    return tuple(_walked(function))


def _walked(function: Function) -> Iterator[ast.AST]:
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        yield node
        todo.extend(ast.iter_child_nodes(node))


def _mentions(function: Function) -> Iterator[ast.AST]:
    """The same, each call's own attribute marked as called."""
    for node in _own(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            _CALL_OF[node.func] = node
        yield node


@cache
def _calls(function: Function) -> list[ast.Call]:
    return sorted(
        (n for n in _own(function) if isinstance(n, ast.Call)), key=lambda n: (n.lineno, n.col_offset)
    )


@cache
def _borrows_session(function: Function) -> bool:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return any(a.annotation is not None and _SESSIONS.search(ast.unparse(a.annotation)) for a in every)


@cache
def _assigned(function: Function, short: str) -> list[ast.expr]:
    found: list[ast.expr] = []
    for node in _own(function):
        match node:
            case ast.Assign(targets=targets, value=value):
                found += [value for target in targets if short in _names(target)]
            case ast.AnnAssign(target=target, value=ast.expr() as value) if short in _names(target):
                found.append(value)
            case ast.AugAssign(target=target, value=value) if short in _names(target):
                found.append(value)
            case ast.NamedExpr(target=target, value=value) if short in _names(target):
                found.append(value)
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                if short in _names(target):
                    found.append(value)
    return found


def _names(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def _module(name: str, text: str) -> Module:
    found = Module(name=name, tree=ast.parse(text))
    _collect(found, found.tree.body, "")
    found.functions["<module>"] = _as_function(found.tree)
    for node in ast.walk(found.tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.imports[alias.asname or alias.name] = alias.name
    return found


def _as_function(tree: ast.Module) -> Function:
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return ast.FunctionDef(name="<module>", args=nothing, body=tree.body, decorator_list=[], lineno=1)


def _collect(module: Module, body: list[ast.stmt], prefix: str) -> None:
    for node in body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                module.functions[f"{prefix}{node.name}"] = node
                _nested(module, node.body, f"{prefix}{node.name}.")
            case ast.ClassDef():
                _collect(module, node.body, f"{prefix}{node.name}.")
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    for short in _names(target):
                        module.constants[short].append(value)
            case ast.AnnAssign(target=ast.Name(id=short), value=ast.expr() as value):
                module.constants[short].append(value)


def _nested(module: Module, body: list[ast.stmt], prefix: str) -> None:
    for node in body:
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                module.functions.setdefault(f"{prefix}{inner.name}", inner)
