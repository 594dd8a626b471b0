"""Every public name says what it promises, and the generated pages of docs/ say what the code says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.architecture.sources import PACKAGES, REPOSITORY, parsed, python_files, tracked_files

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def undocumented(tree: ast.Module) -> list[str]:
    """Returns the public classes, functions and methods of a module that have no docstring; "" for the module."""
    missing = [] if ast.get_docstring(tree) else [""]
    return missing + [name for node in tree.body for name in _undocumented_in(node)]


def _undocumented_in(node: ast.stmt, *, prefix: str = "") -> list[str]:
    if not isinstance(node, Documented) or node.name.startswith("_"):
        return []
    missing = [] if ast.get_docstring(node) or _is_overload(node) else [prefix + node.name]
    if isinstance(node, ast.ClassDef):
        missing += [name for inner in node.body for name in _undocumented_in(inner, prefix=f"{node.name}.")]
    return missing


def _is_overload(node: Documented) -> bool:
    return any(ast.unparse(decorator).endswith("overload") for decorator in node.decorator_list)


def test_every_public_name_has_a_docstring() -> None:
    found = {str(path): undocumented(parsed(path)) for path in python_files(*PACKAGES)}
    assert {path: names for path, names in found.items() if names} == {}


def test_the_rule_sees_a_method_without_a_docstring() -> None:
    tree = ast.parse('"""Module."""\nclass A:\n    """Class."""\n    def shown(self): ...\n    def _hidden(self): ...')
    assert undocumented(tree) == ["A.shown"]


def test_the_generated_pages_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def broken_links(page: Path) -> list[str]:
    """Returns the relative links of a Markdown page that lead nowhere."""
    text = re.sub(r"```.*?```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target.partition("#")[0] for target in targets if "://" not in target and not target.startswith("#")]
    return [target for target in local if not (REPOSITORY / page.parent / target).exists()]


def test_no_page_links_to_a_file_that_is_not_there() -> None:
    pages = [path for path in tracked_files() if path.suffix == ".md" and path.parts[0] not in {"examples", "tests"}]
    found = {str(page): broken_links(page) for page in pages}
    assert {page: links for page, links in found.items() if links} == {}


def test_every_decision_record_has_its_four_parts() -> None:
    records = [path for path in tracked_files() if path.parts[:2] == ("docs", "adr")]
    wanted = ["Context", "Options", "Decision", "What would change our mind"]
    found = {str(path): re.findall(r"^## (.+)$", (REPOSITORY / path).read_text(), re.MULTILINE) for path in records}
    assert len(records) >= 8
    assert {path: parts for path, parts in found.items() if parts != wanted} == {}
