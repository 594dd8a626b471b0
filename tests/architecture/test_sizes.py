"""Files and functions stay small enough to be read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.architecture.sources import PACKAGES, REPOSITORY, parsed, python_files

LONGEST_FILE = 400
LONGEST_FUNCTION = 60


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns the lines of a function from `def` to its end, its docstring left out."""
    end = function.end_lineno or function.lineno
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or first.lineno) - first.lineno + 1 if has_docstring else 0
    return end - function.lineno + 1 - docstring


def long_functions(tree: ast.Module, *, limit: int) -> list[str]:
    """Returns "name (lines)" for each function that is longer than the limit."""
    return [
        f"{node.name} ({lines_of(node)} lines)"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > limit
    ]


def too_long(path: Path, *, limit: int) -> bool:
    return len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) > limit


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    assert [str(path) for path in python_files() if too_long(path, limit=LONGEST_FILE)] == []


def test_no_function_is_longer_than_sixty_lines() -> None:
    found = {str(path): long_functions(parsed(path), limit=LONGEST_FUNCTION) for path in python_files(*PACKAGES)}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_rule_sees_a_long_function() -> None:
    tree = ast.parse("def f():\n    '''Doc.'''\n" + "    x = 1\n" * 60)
    assert long_functions(tree, limit=LONGEST_FUNCTION) == ["f (61 lines)"]
