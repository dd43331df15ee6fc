"""Compares evaluated runs: a table, plots, and one page in which to read their samples side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phf.base.errors import PhfError
from phf.report.cells import change, number
from phf.report.charts import make_charts
from phf.report.conditions import find_warnings, same_scorer
from phf.report.page import render_page
from phf.report.plots import draw_plots
from phf.report.read_runs import lookup, read_runs, split_scenarios
from phf.report.seeds import compare_groups, find_baseline_group, group_runs
from phf.report.table_formats import print_table, to_csv, to_latex, to_markdown
from phf.report.tables import make_tables

__all__ = ["print_table", "report"]


def report(folders: Sequence[Path], output: Path) -> dict[str, Any]:
    """Writes a report on evaluated runs: `index.html`, `report.md`, `results.json`, `plots/` and `tables/`.

    Args:
        folders: Evaluated run folders; the first MLE run, or else the first run, is the baseline.
        output: Folder of the report; an earlier report there is replaced.

    Returns:
        What `results.json` holds: `runs` (each run's own results, its `label` here, what `redteam` and
        `tamper` found), `groups` (of runs that differ in nothing but their seed, with their labels as `runs`,
        their place among the colours, and the same measurements as means over seeds), `comparisons` with the
        baseline by scenario, a `headline`, and `warnings` where runs are not comparable.

    Raises:
        PhfError: A folder is not an evaluated run, or the report cannot be written.
    """
    groups = group_runs(read_runs(folders))
    runs = [run for group in groups for run in group.runs]
    results: dict[str, Any] = {
        "format": 1,
        "runs": [run.record for run in runs],
        "groups": [
            {**group.results, "runs": [run.label for run in group.runs], "colour": group.colour}
            for group in groups
        ],
        "comparisons": compare_groups(groups),
        "warnings": find_warnings(runs),
    }
    baseline = find_baseline_group(groups).label
    results["headline"] = _headline(results, baseline, comparable=same_scorer(runs))
    tables, plots = make_tables(results), draw_plots(make_charts(groups))
    page = render_page(results, groups, tables, plots)
    try:
        for name in ("plots", "tables"):
            if (output / "index.html").is_file():  # those of an earlier report, perhaps of other scenarios
                shutil.rmtree(output / name, ignore_errors=True)
            (output / name).mkdir(parents=True, exist_ok=True)
        for plot in plots:
            plot.save(output / "plots")
        for name, table in tables.items():
            _write(output / "tables" / f"{name}.csv", to_csv(table))
            _write(output / "tables" / f"{name}.tex", to_latex(table))
        _write(output / "index.html", page)
        _write(output / "report.md", to_markdown(results))
        _write(output / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise PhfError(
            f"{output}: the report cannot be written ({error.strerror}); choose another folder"
        ) from error
    return results


def _headline(results: dict[str, Any], baseline: str, comparable: bool) -> str:
    """What was found, in a sentence: the run with the lowest mean score against the baseline."""
    groups = {group["label"]: group for group in results["groups"]}
    names = list(groups[baseline].get("scenarios") or {})
    if not names:
        return f"{baseline}: no scenario was evaluated"
    if not comparable:
        return "These runs were scored in different ways: their scores cannot be compared"
    asked = [name for name in split_scenarios(results["groups"])[0] if name in names] or names
    scenario = "unconditional" if "unconditional" in asked else asked[0]
    details = [scenario] if len(names) > 1 else []
    unit = lookup(groups[baseline], "scorer", "measures") or "mean score"

    def mean(label: str) -> float | None:
        value = lookup(groups[label], "scenarios", scenario, "mean_score", "value")
        return None if value is None else float(value)

    candidates = [
        c
        for c in results["comparisons"]
        if c["run"] in groups and c["scenario"] == scenario and mean(c["run"]) is not None
    ]
    if mean(baseline) is None or not candidates:
        return f"{baseline}: {number(mean(baseline))} {unit}" + _parenthesis(details)
    best = min(candidates, key=lambda c: mean(c["run"]) or 0.0)
    low, high = lookup(best, "difference", "low"), lookup(best, "difference", "high")
    unclear = low is not None and high is not None and low <= 0 <= high
    if best["ratio"] is not None:
        details.insert(0, change(best["ratio"]))
    return (
        f"{'No clear difference. ' if unclear else ''}{best['run']}: {number(mean(best['run']))} {unit} "
        f"against {number(mean(baseline))} for {baseline}{_parenthesis(details)}"
    )


def _parenthesis(details: Sequence[str]) -> str:
    return f" ({', '.join(details)})" if details else ""


def _write(path: Path, text: str) -> None:
    """Writes a file at once, so that a report that was interrupted never leaves half of one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
