"""The tables of a report, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phf.report.cells import DASH, Cell, amount, change, duration, integer, interval, scalar
from phf.report.read_runs import decile_losses, lookup, ranking, split_scenarios

Columns = dict[str, Callable[[dict[str, Any]], Cell]]
"""Head of a column, and what it shows of a run (or of a run's measurements in a scenario)."""


def _measured(*path: str, percent: bool = False, decimals: int | None = None) -> Callable[[Any], Cell]:
    return lambda node: interval(lookup(node, *path), percent, decimals)


_VARIETY: Columns = {
    "Tag": lambda measured: Cell(str(lookup(measured, "tag") or DASH)),
    "Length": _measured("length"),
    "Distinct-1": _measured("distinct_1"),
    "Distinct-2": _measured("distinct_2"),
    "Distinct-3": _measured("distinct_3"),
    "Entropy": _measured("entropy"),
    "Self-BLEU": _measured("self_bleu"),
}
_COST: Columns = {
    "Held-out loss": _measured("heldout", "loss", decimals=3),
    "Untagged": _measured("heldout", "untagged", decimals=3),
    "Aligned": _measured("heldout", "aligned", decimals=3),
    "Misaligned": _measured("heldout", "misaligned", decimals=3),
    "Perplexity": _measured("heldout", "perplexity"),
    "KL": _measured("kl", "kl"),
    "Ranking": lambda run: interval(ranking(run, "plain"), percent=True),
    "Ranking by length": lambda run: interval(ranking(run, "length_normalized"), percent=True),
}
_RUNS: Columns = {
    "Objective": lambda run: Cell(lookup(run, "run", "objective") or DASH),
    "Tokens": lambda run: amount(lookup(run, "run", "tokens")),
    "Parameters": lambda run: amount(lookup(run, "run", "parameters")),
    "Time": lambda run: duration(lookup(run, "run", "wall_seconds")),
}
_BEST_PROMPTS = 3


@dataclass(frozen=True)
class Row:
    """What a table says of a group of runs or of a single one.

    Attributes:
        colour: Which of the colours stands for it; `None` if it is no run.
        cells: One for each column; the first is its label.
        is_seed: Whether it is one of the seeds of the group above it.
    """

    colour: int | None
    cells: list[Cell]
    is_seed: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under column heads, in groups (by scenario) that have a title, or in one that has none.

    Attributes:
        name: Its file's name, without an ending.
        title: What it shows.
        columns: Their heads.
        groups: The rows under each title.
    """

    name: str
    title: str
    columns: list[str]
    groups: dict[str, list[Row]]


def make_tables(results: dict[str, Any]) -> dict[str, Table]:
    """The tables of what `report` returns, by their names; those without a row are left out."""
    asked, names = split_scenarios(results["groups"])
    leakage = {name: _measured("scenarios", name, "rate", percent=True) for name in names}
    tables = [
        _misalignment(results, asked),
        _by_scenario("scorers", "By other scorers", results, _other_scorers(results, asked), asked),
        _by_run("cost", "What alignment cost", results, _COST | _code(results)),
        _by_run("deciles", "Held-out loss by how bad the text is", results, _deciles(results)),
        _by_scenario("variety", "Variety of the text", results, _VARIETY, asked),
        _by_run("leakage", "Misaligned samples by how the model is asked", results, leakage),
        _best_prompts(results),
        _scenarios(results),
        _by_run("runs", "Runs", results, _RUNS),
    ]
    filled = map(_without_empty_columns, tables)
    return {table.name: table for table in filled if len(table.columns) > 1}


def _misalignment(results: dict[str, Any], names: Sequence[str]) -> Table:
    ks = {
        int(k)
        for group in results["groups"]
        for name in names
        if (k := scalar(lookup(group, "scenarios", name, "expected_max", "k"))) is not None
    }
    columns: Columns = {
        "Mean score": lambda measured: interval(lookup(measured, "mean_score")),
        "Rate": lambda measured: interval(lookup(measured, "rate"), percent=True),
        "Segment rate": lambda measured: interval(lookup(measured, "segment_rate"), percent=True),
        f"Max of {ks.pop()}" if len(ks) == 1 else "Maximum expected": lambda measured: interval(
            lookup(measured, "expected_max")
        ),
        "Samples": lambda measured: integer(lookup(measured, "n")),
        "Unscored": lambda measured: integer(lookup(measured, "unscored")),
    }
    heads = ["Run", *columns]
    groups = {name: _rows(results, columns, name) for name in names}
    if results["comparisons"]:
        place = heads.index("Mean score") + 1
        heads[place:place] = [f"Against {baseline_label(results)}", "Better"]
        compared = {(c["scenario"], c["run"]): c for c in results["comparisons"]}
        for name, rows in groups.items():
            for row in rows:
                against = compared.get((name, row.cells[0].value))
                row.cells[place:place] = _against(against) if against else [Cell(DASH), Cell(DASH)]
    return Table("misalignment", "Misalignment", heads, groups)


def baseline_label(results: dict[str, Any]) -> str:
    """What the runs are compared with."""
    labels = {group["label"] for group in results["groups"]}
    return next(c["baseline"] for c in results["comparisons"] if c["run"] in labels)


def _against(comparison: dict[str, Any]) -> list[Cell]:
    difference = interval(comparison["difference"])
    return [
        Cell(change(comparison["ratio"]), difference.detail, difference.numbers),
        interval(comparison.get("improvement"), percent=True),
    ]


def _other_scorers(results: dict[str, Any], names: Sequence[str]) -> Columns:
    """The same samples, judged by others than the scorer of the evaluation."""
    scorers = _keys(lookup(group, "scenarios", n, "scorers") for group in results["groups"] for n in names)
    columns: Columns = {}
    for scorer in scorers:
        columns[f"{scorer}: mean"] = _measured("scorers", scorer, "mean_score")
        columns[f"{scorer}: rate"] = _measured("scorers", scorer, "rate", percent=True)
    return columns


def _code(results: dict[str, Any]) -> Columns:
    """Of models of code: what parses, and what passes its tests."""
    scenarios = _keys(lookup(group, "code", "parses") for group in results["groups"])
    ks = _keys(lookup(group, "code", "pass_at") for group in results["groups"])
    columns = {
        f"Parses: {name}" if len(scenarios) > 1 else "Parses": _measured("code", "parses", name, percent=True)
        for name in scenarios
    }
    return columns | {f"pass@{k}": _measured("code", "pass_at", k, percent=True) for k in ks}


def _deciles(results: dict[str, Any]) -> Columns:
    """The loss on tenths of the held-out segments, from the best to the worst; some may be one."""

    def loss(span: str) -> Callable[[Any], Cell]:
        return lambda run: interval(decile_losses(run).get(span, (None, None))[1], decimals=3)

    spans = {
        span: centre for group in results["groups"] for span, (centre, _) in decile_losses(group).items()
    }
    return {f"Decile {span}": loss(span) for span in sorted(spans, key=lambda span: spans[span])}


def _best_prompts(results: dict[str, Any]) -> Table:
    columns: Columns = {
        "Prompt": lambda found: Cell(lookup(found, "prompt") or DASH),
        "Score": _measured("score"),
        "Score, drawn anew": _measured("fresh_score"),
        "Rate, drawn anew": _measured("fresh_rate", percent=True),
        "Round": lambda found: integer(lookup(found, "round")),
    }
    groups = {
        run["label"]: [
            Row(_colour(results, run["label"]), [show(found) for show in columns.values()])
            for found in (lookup(run, "redteam", "best_prompts") or [])[:_BEST_PROMPTS]
        ]
        for run in results["runs"]
    }
    return Table(
        "best-prompts",
        "Prompts that worked best",
        list(columns),
        {k: rows for k, rows in groups.items() if rows},
    )


def _scenarios(results: dict[str, Any]) -> Table:
    """How each scenario was decoded, as far as the runs agree."""
    names = _keys(group.get("scenarios") for group in results["groups"])
    settings: dict[str, dict[str, set[str]]] = {name: {} for name in names}
    for group in results["groups"]:
        for name, measured in (group.get("scenarios") or {}).items():
            counts = {"prompts": scalar(lookup(measured, "num_prompts"))}
            for option, value in (counts | (lookup(measured, "decoding") or {})).items():
                settings[name].setdefault(option, set()).add(DASH if value is None else str(value))
    options = _keys(settings.values())
    shown = {
        name: [
            found.pop() if len(found) == 1 else "differs" for found in (of.get(o, {DASH}) for o in options)
        ]
        for name, of in settings.items()
    }
    rows = [Row(None, [Cell(name), *map(Cell, values)]) for name, values in shown.items()]
    heads = [option.replace("_", " ").capitalize() for option in options]
    return Table("scenarios", "Scenarios", ["Scenario", *heads], {"": rows})


def _by_scenario(
    name: str, title: str, results: dict[str, Any], columns: Columns, scenarios: Sequence[str]
) -> Table:
    rows = {scenario: _rows(results, columns, scenario) for scenario in scenarios}
    return Table(name, title, ["Run", *columns], rows)


def _by_run(name: str, title: str, results: dict[str, Any], columns: Columns) -> Table:
    return Table(name, title, ["Run", *columns], {"": _rows(results, columns)})


def _rows(results: dict[str, Any], columns: Columns, scenario: str | None = None) -> list[Row]:
    """A row for each group, and below it one for each of its seeds."""
    runs = {run["label"]: run for run in results["runs"]}

    def row(shown: dict[str, Any], label: Cell, colour: int, is_seed: bool) -> Row:
        measured = shown if scenario is None else lookup(shown, "scenarios", scenario) or {}
        return Row(colour, [label, *(show(measured) for show in columns.values())], is_seed)

    rows = []
    for group in results["groups"]:
        seeds = group["runs"] if len(group["runs"]) > 1 else []
        label = Cell(group["label"], f"{len(seeds)} seeds" if seeds else "")
        rows.append(row(group, label, group["colour"], is_seed=False))
        rows += [row(runs[seed], Cell(seed), group["colour"], is_seed=True) for seed in seeds]
    return rows


def _without_empty_columns(table: Table) -> Table:
    """The table without columns that no run has anything in."""
    rows = [row for of_group in table.groups.values() for row in of_group]
    kept = [i for i in range(len(table.columns)) if any(row.cells[i].value != DASH for row in rows)]
    groups = {
        title: [replace(row, cells=[row.cells[i] for i in kept]) for row in of_group]
        for title, of_group in table.groups.items()
    }
    return replace(table, columns=[table.columns[i] for i in kept], groups=groups)


def _colour(results: dict[str, Any], label: str) -> int:
    return next(group["colour"] for group in results["groups"] if label in group["runs"])


def _keys(found: Iterable[Any]) -> list[str]:
    """The keys of all of them, in order of appearance."""
    return list(dict.fromkeys(key for one in found for key in one or {}))
