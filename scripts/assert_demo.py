"""Checks what the demo left behind: every file of the catalogue in exactly one state, and in the right one.

Asks the program, as a user would (`lorax … --json`), and compares with examples/digits/index.json, which lists what the
catalogue holds. With --write keeps a summary of what was published; with --same-as demands that it did not change.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "digits"
LORAX = Path(sys.executable).with_name("lorax")

SPECIAL = {
    "all_nan.safetensors": ("quarantined", "non-finite"),
    "download_page.safetensors": ("quarantined", "html-page"),
    "old_pickle.pt": ("quarantined", "pickle"),
    "truncated.safetensors": ("quarantined", "truncated"),
    "bold_copy.safetensors": ("skipped", "duplicate"),
    "mystery.safetensors": ("skipped", "base-undecided"),
    "no_derivatives_striped.safetensors": ("skipped", "no-derivatives"),
    "pokemon_sd15.safetensors": ("skipped", "other-base"),
}
"""What has to become of the files that no conversion comes from."""
CONVERTED = {"published", "passed", "rejected"}
LEAST_PUBLISHED_SHARE = 0.5


def ask(*arguments: str) -> Any:  # noqa: ANN401 - parsed JSON
    """Returns the parsed answer of a `lorax` command."""
    run = subprocess.run([LORAX, *arguments, "--json"], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def expected_entries() -> list[str]:
    """Returns the paths, relative to the catalogue, of everything that the catalogue holds."""
    index = json.loads((EXAMPLE / "index.json").read_text())
    paths = [Path(record["path"]) for part in ("adapters", "bad") for record in index[part]]
    return sorted(path.relative_to("catalogue").as_posix() for path in paths)


def problems_of(rows: list[dict[str, Any]], expected: list[str]) -> list[str]:
    """Returns everything that is wrong with the states of the entries, one sentence each."""
    found = Counter(row["entry_id"] for row in rows)
    problems = [f"{path}: has {found[path]} states, expected exactly one" for path in expected if found[path] != 1]
    problems += [f"{path}: has a state but is not in index.json" for path in sorted(set(found) - set(expected))]
    problems += [
        f"{path}: expected in the catalogue but not listed in index.json" for path in SPECIAL if path not in expected
    ]
    for row in rows:
        path, state, reason = row["entry_id"], row["state"], row["reason"]
        if path in SPECIAL:
            if (state, reason) != SPECIAL[path]:
                problems.append(f"{path}: is {state} ({reason}), expected {' '.join(SPECIAL[path])}: {row['text']}")
        elif state not in CONVERTED:
            problems.append(f"{path}: is {state} ({reason}), expected a conversion: {row['text']}")
    return problems


def published(rows: list[dict[str, Any]]) -> list[str]:
    """Returns the entries that were published, sorted."""
    return sorted(row["entry_id"] for row in rows if row["state"] == "published")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns what a second run may not change: states, publications, and how often anything was done."""
    counts = ask("query", "SELECT kind, count(*) AS events FROM event WHERE kind NOT LIKE 'run_%' GROUP BY kind")
    return {
        "states": sorted((row["entry_id"], row["state"], row["reason"]) for row in rows),
        "publications": sorted(row["conversion_id"] for row in ask("query", "published")),
        "events": {row["kind"]: row["events"] for row in counts if row["kind"] != "entry_seen"},
    }


def main() -> None:
    """Exits with every problem found, or prints the table of states."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", type=Path, help="keep a summary of what was done in this file")
    options.add_argument("--same-as", type=Path, help="demand that nothing was done since this summary was written")
    chosen = options.parse_args()
    rows = ask("query", "states")
    status = ask("status")
    expected = expected_entries()
    problems = problems_of(rows, expected)
    if sum(status["states"].values()) != len(expected):
        problems.append(f"lorax status counts {status['states']}, expected {len(expected)} entries in all")
    sound = len(expected) - len(SPECIAL)
    if len(published(rows)) < LEAST_PUBLISHED_SHARE * sound:
        problems.append(f"{len(published(rows))} of {sound} sound adapters were published: fewer than expected")
    if not status["report"] or not Path(status["report"]).is_file():
        problems.append(f"the report is not there: {status['report']}")
    done = json.loads(json.dumps(summary(rows)))
    if chosen.same_as and done != json.loads(chosen.same_as.read_text()):
        problems.append(f"the second run changed something: {done} is not {chosen.same_as.read_text()}")
    if problems:
        sys.exit("\n".join(problems))
    if chosen.write:
        chosen.write.write_text(json.dumps(done))
    sys.stdout.write(f"{len(expected)} entries, each in one state: {json.dumps(status['states'])}\n")


if __name__ == "__main__":
    main()
