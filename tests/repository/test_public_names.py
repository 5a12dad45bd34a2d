"""Tests hold what is public: what begins with an underscore may change without one of them noticing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from paths import ROOT

ALLOWED = {"_exit", "_forward_pre_hooks", "_python_dispatch"}
"""Names of Python's and torch's own that have no public form."""

_PRIVATE = re.compile(r"_[a-z]\w*")


def private(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every private name of somebody else that a module reaches for."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [alias.name for alias in node.names] + (node.module or "").split(".")
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            names = [] if own else [node.attr]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("setattr", "delattr", "object", "patch"):
            # monkeypatch.setattr(module, "_name", ...), patch.object(module, "_name"), setattr("package.module._name")
            texts = [part.value for part in node.args if isinstance(part, ast.Constant)]
            names = [str(text).rpartition(".")[2] for text in texts]
        yield from ((node.lineno, name) for name in names if _PRIVATE.fullmatch(name) and name not in ALLOWED)


def test_it_finds_what_it_should() -> None:
    text = "from a._b import _c\nm.setattr(a, '_d', 1)\nm.setattr('a._e', 1)\nx._f\nself._g\nx.__class__\nx.h"
    assert [name for _, name in private(ast.parse(text))] == ["_c", "_b", "_d", "_e", "_f"]


def test_tests_reach_for_no_private_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, name in private(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
