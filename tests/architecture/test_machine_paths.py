"""No file of the project names a folder of the machine it was written on."""

from __future__ import annotations

import re

import pytest

from tests.architecture.sources import REPOSITORY, tracked_files

# Invented users, for tests of the scrubbing of private paths.
INVENTED = "alice|bob|me|someone|user|you"
MACHINE_PATH = re.compile(rf"(?<![\w.}}*~])/(root|work|workspace|(home|Users)/(?!({INVENTED})\b))/?\w")
SCRATCH_PATH = re.compile(r"(?<![\w.}*~])/tmp/\w")


def machine_paths(text: str, *, pattern: re.Pattern[str] = MACHINE_PATH) -> list[str]:
    """Returns the lines of a text that name a folder of somebody's machine."""
    return [line.strip()[:200] for line in text.splitlines() if pattern.search(line)]


def test_no_file_names_a_machine_path() -> None:
    """Weight files and pictures are searched too: headers carry what their writers knew."""
    found = {}
    for path in tracked_files():
        content = (REPOSITORY / path).read_bytes()
        text = content.decode("latin-1" if b"\0" in content else "utf-8", errors="replace")
        found[str(path)] = machine_paths(text)
        if path.parts[0] != "tests":
            found[str(path)] += machine_paths(text, pattern=SCRATCH_PATH)
    assert {path: lines for path, lines in found.items() if lines} == {}


# Put together here, so that this file names no such folder either.
SEEN = ["open('|work|lorax|x')", "cd |root|lorax", "see |home|carol|models", "|workspace|a"]
PASSED = ["C:|home|alice|x", "|home|alice|loras", "framework|root|x", "~|work|x"]


@pytest.mark.parametrize("line", [line.replace("|", "/") for line in SEEN])
def test_the_rule_sees(line: str) -> None:
    assert machine_paths(line) == [line]


@pytest.mark.parametrize("line", [line.replace("|", "/") for line in PASSED])
def test_the_rule_lets_pass(line: str) -> None:
    assert machine_paths(line) == []
