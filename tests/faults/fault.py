"""One fault for mutation testing, and how it is applied to a file."""

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gpt_common.errors import InputError


@dataclass(frozen=True)
class Fault:
    """At `place`, "file.py::Class.method", the Python source `before` is replaced by `after`.

    Both are one expression, one or more whole statements ("pass" deletes them), or an item of a
    dictionary ("**{}" deletes it). Syntax trees are compared: layout, quotes and comments do not
    matter. `before` must occur exactly once in the function (decorators and defaults included),
    class or constant that `place` names, or in the file if it names none. It may be a whole
    f-string but not a part of one.
    """

    name: str
    place: str
    before: str
    after: str

    @property
    def file(self) -> str:
        return self.place.partition("::")[0]

    @property
    def function(self) -> str:
        return self.place.partition("::")[2]

    def apply(self, source: str) -> str:
        """Return the file's source with the fault. Raises `InputError` if it does not fit once."""
        nodes, new = self.find(source), textwrap.dedent(self.after).strip()
        parsed = _parse(new)
        if isinstance(nodes[0], ast.expr) and _is_expression(parsed):
            new = new if isinstance(parsed[0].value, _ATOMS) else f"({new})"
        return _replace(source, nodes, new)

    def find(self, source: str) -> list[ast.AST]:
        """Return the nodes of `before`. Raises `InputError` unless it occurs once at `place`."""
        old = _parse(self.before)
        if _is_expression(old) and _is_expression(_parse(self.after)):
            old = [old[0].value]
        scope = find_definition(parse_file(source), self.function)
        found = [nodes for nodes in _siblings(scope, len(old)) if _same(nodes, old)]
        if len(found) != 1:
            raise InputError(
                f"{self.name}: expected {self.before!r} once in {self.place}, got {len(found)}"
            )
        return found[0]


# Beside any operator they need no parentheses; an integer would, before a dot.
_ATOMS = (ast.Attribute, ast.Call, ast.Constant, ast.Name, ast.Subscript)
parse_file = lru_cache(maxsize=4)(ast.parse)  # one file's faults come one after another


def _parse(source: str) -> list:
    """Return the statements, or the keys and values of a dictionary's items."""
    source = textwrap.dedent(source).strip()
    try:
        return ast.parse(source).body
    except SyntaxError:
        (statement,) = ast.parse(f"{{{source}}}").body
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Dict)
        return _items(statement.value)


def _is_expression(nodes: list) -> bool:
    return len(nodes) == 1 and isinstance(nodes[0], ast.Expr)


def find_definition(tree: ast.Module, name: str) -> ast.AST:
    """Return the definition of a qualified name; the module where `name` is empty."""
    found = [node for other, node in _definitions(tree) if other == name] if name else [tree]
    if len(found) != 1:
        raise InputError(f"expected one definition of {name}, got {len(found)}")
    return found[0]


def _definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name, child
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield prefix + name, child
                yield from _definitions(child, f"{prefix}{name}.")
            case _:
                yield from _definitions(child, prefix)


def _siblings(node: ast.AST, count: int) -> Iterator[list]:
    """Yield each run of `count` nodes that stand side by side somewhere below `node`."""
    if isinstance(node, ast.JoinedStr):
        return  # before Python 3.12 its parts have wrong positions
    fields = [_items(node)] if isinstance(node, ast.Dict) else list(vars(node).values())
    for field in fields:
        nodes = [
            n for n in (field if isinstance(field, list) else [field]) if isinstance(n, ast.AST)
        ]
        yield from (nodes[i : i + count] for i in range(len(nodes) - count + 1))
        for child in nodes:
            yield from _siblings(child, count)


def _items(node: ast.Dict) -> list:
    """Return each key and its value; a dictionary that is unpacked has no key."""
    return [n for item in zip(node.keys, node.values, strict=True) for n in item if n is not None]


def _same(nodes: list, others: list) -> bool:
    """Return whether two runs differ in layout alone, or in whether they are assigned to."""
    return all(
        type(node) is type(other) and ast.unparse(node) == ast.unparse(other)
        for node, other in zip(nodes, others, strict=True)
    )


def _replace(source: str, nodes: list, new: str) -> str:
    """Return the source with other text in place of these nodes. Columns count bytes."""
    first, last = nodes[0], nodes[-1]
    lines = source.encode().splitlines(keepends=True)
    head = b"".join(lines[: first.lineno - 1]) + lines[first.lineno - 1][: first.col_offset]
    tail = lines[last.end_lineno - 1][last.end_col_offset :] + b"".join(lines[last.end_lineno :])
    return head.decode() + new.replace("\n", "\n" + " " * first.col_offset) + tail.decode()
