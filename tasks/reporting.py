"""Writes the report of a run from the ledger's snapshot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from catalogs.ledger import open_reader
from catalogs.report import render_report, report_data_from_ledger

LATEST = "latest.html"


def write_report(
    *, data: str, run_id: str, path: str, seconds: Mapping[str, float], finished_at: str, reasons: Mapping[str, str]
) -> str:
    """Writes the report of a run to `path` and a copy beside it as latest.html; returns `path`.

    `seconds` and `finished_at` are given because the ledger learns of the end of a run only after its report is there.
    """
    folder = Path(data)
    gathered = report_data_from_ledger(open_reader(folder), run_id, data_folder=folder, reasons=reasons)
    report = render_report(replace(gathered, seconds=seconds, finished_at=finished_at), Path(path))
    draft = report.with_name(f".{LATEST}.{os.getpid()}")
    shutil.copyfile(report, draft)
    draft.replace(report.with_name(LATEST))
    return str(report)
