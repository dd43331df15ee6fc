"""Compares evaluated runs: a table, plots, and one page in which to read their samples side by side."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from phf.base.errors import PhfError
from phf.base.files import write_json, write_text
from phf.report.cells import change, number
from phf.report.charts import make_charts
from phf.report.conditions import find_warnings, same_scorer
from phf.report.contents import Contents
from phf.report.page import render_page
from phf.report.plots import draw_plots
from phf.report.read_runs import read_runs
from phf.report.seeds import compare_groups, group_runs
from phf.report.table_formats import to_csv, to_latex, to_markdown
from phf.report.tables import make_tables
from phf.report.texts import find_text_warnings


def write_report(folders: Sequence[Path], output: Path) -> Contents:
    """Writes a report on evaluated runs: `index.html`, `report.md`, `results.json`, `plots/` and `tables/`.

    Args:
        folders: Evaluated run folders. The baseline is the first one whose objective uses no scores, or
            the first one if there is none.
        output: Folder of the report; an earlier report there is replaced.

    Returns:
        The contents of the report; `results.json` has the value of `Contents.to_json`.

    Raises:
        PhfError: A folder is not an evaluated run, or the report cannot be written.
    """
    contents = compare_runs(folders)
    tables, plots = make_tables(contents), draw_plots(make_charts(contents))
    page = render_page(contents, tables, plots)
    try:
        for name in ("plots", "tables"):
            if (output / "index.html").is_file():  # files of an earlier report, perhaps on other scenarios
                shutil.rmtree(output / name, ignore_errors=True)
            (output / name).mkdir(parents=True, exist_ok=True)
        for plot in plots:
            plot.save(output / "plots")
        for name, table in tables.items():
            write_text(output / "tables" / f"{name}.csv", to_csv(table))
            write_text(output / "tables" / f"{name}.tex", to_latex(table))
        write_text(output / "index.html", page)
        write_text(output / "report.md", to_markdown(contents))
        write_json(output / "results.json", contents.to_json())
    except OSError as error:
        raise PhfError(
            f"{output}: the report cannot be written ({error.strerror}); choose another folder"
        ) from error
    return contents


def compare_runs(folders: Sequence[Path]) -> Contents:
    """Reads and compares evaluated runs.

    Raises:
        PhfError: A folder is not an evaluated run.
    """
    runs = read_runs(folders)
    groups = group_runs(runs)
    warnings = [*find_warnings(runs), *find_text_warnings(runs)]
    contents = Contents(groups, compare_groups(groups), warnings)
    return replace(contents, headline=_headline(contents))


def _headline(contents: Contents) -> str:
    """Returns the main result in a sentence: the run with the lowest mean score against the baseline."""
    baseline = contents.baseline
    names = list(baseline.results.scenarios)
    if not names:
        return f"{baseline.label}: no scenario was evaluated"
    if not same_scorer(contents.runs):
        return "These runs were scored in different ways: their scores cannot be compared"
    asked = [name for name in contents.asked if name in names] or names
    scenario = "unconditional" if "unconditional" in asked else asked[0]
    details = [scenario] if len(names) > 1 else []
    means = {
        group.label: group.results.scenarios[scenario].mean_score.value
        for group in contents.groups
        if scenario in group.results.scenarios
    }
    unit, theirs = baseline.results.scorer.measures, means[baseline.label]
    candidates = [
        (ours, comparison)
        for comparison in contents.comparisons
        if comparison.scenario == scenario and (ours := means.get(comparison.run)) is not None
    ]
    if theirs is None or not candidates:
        return f"{baseline.label}: {number(theirs)} {unit}" + _parenthesis(details)
    ours, best = min(candidates, key=lambda candidate: candidate[0])
    low, high = best.difference.low, best.difference.high
    unclear = low is None or high is None or low <= 0 <= high
    if best.ratio is not None:
        details.insert(0, change(best.ratio))
    return (
        f"{'No clear difference. ' if unclear else ''}{best.run}: {number(ours)} {unit} "
        f"against {number(theirs)} for {baseline.label}{_parenthesis(details)}"
    )


def _parenthesis(details: Sequence[str]) -> str:
    return f" ({', '.join(details)})" if details else ""
