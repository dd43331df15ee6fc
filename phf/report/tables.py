"""Builds the tables of a report, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from phf.evaluation.measures.base import Column, Curve
from phf.evaluation.results import EvaluationResults, ScenarioResults
from phf.report.cells import DASH, Cell, amount, change, duration, integer, interval, plug_in
from phf.report.contents import Contents
from phf.report.differences import Comparison
from phf.report.read_runs import EvaluatedRun, split_scenarios
from phf.report.seeds import Group

RunColumns = Mapping[str, Callable[[EvaluationResults], Cell]]
"""For each column heading, the function that makes its cell from the results of a run or group."""
ScenarioColumns = Mapping[str, Callable[[ScenarioResults], Cell]]
"""The same, from the results of a scenario."""

_RUNS: RunColumns = {
    "Objective": lambda results: Cell(results.run.objective or DASH),
    "Tokens": lambda results: amount(results.run.tokens),
    "Parameters": lambda results: amount(results.run.parameters),
    "Time": lambda results: duration(results.run.wall_seconds),
}
_BEST_PROMPTS = 3


@dataclass(frozen=True)
class Row:
    """A row of a table, usually for a group of runs or for a single run.

    Attributes:
        colour: Index of the colour in `COLOURS`; `None` if the row is not about a run.
        cells: A cell for each column; the first one is the label of the row.
        is_seed: Whether the row is a single seed of the group above it.
    """

    colour: int | None
    cells: list[Cell]
    is_seed: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose rows are in groups: several with titles (such as scenarios), or one with an empty title.

    Attributes:
        name: File name without a suffix.
        section: Section of the report that shows the table.
        title: Title of the table.
        columns: Headings of the columns.
        groups: The rows of each group, by its title.
        is_folded: Whether the page shows the table only after a click.
    """

    name: str
    section: str
    title: str
    columns: list[str]
    groups: dict[str, list[Row]]
    is_folded: bool = False


def make_tables(contents: Contents) -> dict[str, Table]:
    """Returns the tables of a report, by name; tables without any value are left out."""
    asked, names = split_scenarios(contents.records)
    rates = {name: partial(_rate, name) for name in names}
    tables = [
        _misalignment(contents, asked),
        _by_scenario("scorers", "By other scorers", contents, _other_scorers(contents, asked), asked),
        replace(
            _by_scenario("variety", "Variety of the text", contents, _variety(contents), asked),
            is_folded=True,
        ),
        _by_run("cost", "cost", "What alignment cost", contents, _cost(contents)),
        *_curves(contents),
        _by_run("leakage", "attacks", "Misaligned samples by how the model is asked", contents, rates),
        _best_prompts(contents),
        _scenarios(contents),
        _by_run("runs", "measured", "Runs", contents, _RUNS),
    ]
    filled = map(_without_empty_columns, tables)
    return {table.name: table for table in filled if len(table.columns) > 1}


def _misalignment(contents: Contents, names: Sequence[str]) -> Table:
    scenarios = [record.scenarios[n] for record in contents.records for n in names if n in record.scenarios]
    ks = {scenario.expected_max.k for scenario in scenarios} - {0}  # 0: unknown, or seeds differ
    columns: dict[str, Callable[[ScenarioResults], Cell]] = {
        "Mean score": lambda measured: interval(measured.mean_score),
        "Rate": lambda measured: interval(measured.rate, percent=True),
        "Length": lambda measured: interval(measured.length),
        "Finished": lambda measured: interval(measured.finished, percent=True),
        "Segment rate": lambda measured: interval(measured.segment_rate, percent=True),
        f"Max of {ks.pop():g}" if len(ks) == 1 else "Maximum expected": lambda measured: interval(
            measured.expected_max
        ),
        "Samples": lambda measured: integer(measured.n),
        "Unscored": lambda measured: integer(measured.unscored),
    }
    table = _by_scenario("misalignment", "Misalignment", contents, columns, names)
    if contents.comparisons:
        place = table.columns.index("Mean score") + 1
        table.columns[place:place] = [f"Against {contents.baseline.label}", "Better"]
        compared = {(c.scenario, c.run): c for c in contents.comparisons}
        for name, rows in table.groups.items():
            for row in rows:
                row.cells[place:place] = _against(compared.get((name, row.cells[0].value)))
    return table


def _against(comparison: Comparison | None) -> list[Cell]:
    if comparison is None:
        return [Cell(DASH), Cell(DASH)]
    difference = interval(comparison.difference)
    return [
        Cell(change(comparison.ratio), difference.detail, difference.numbers),
        interval(comparison.improvement, percent=True),
    ]


def _other_scorers(contents: Contents, names: Sequence[str]) -> ScenarioColumns:
    """Returns the columns of the scorers that scored the same samples besides the evaluation's own scorer."""
    columns: dict[str, Callable[[ScenarioResults], Cell]] = {}
    for scorer in _keys(r.scenarios[n].scorers for r in contents.records for n in names if n in r.scenarios):

        def mean(measured: ScenarioResults, scorer: str = scorer) -> Cell:
            found = measured.scorers.get(scorer)
            return interval(None if found is None else found.mean_score)

        def rate(measured: ScenarioResults, scorer: str = scorer) -> Cell:
            found = measured.scorers.get(scorer)
            return interval(None if found is None else found.rate, percent=True)

        columns |= {f"{scorer}: mean": mean, f"{scorer}: rate": rate}
    return columns


def _cost(contents: Contents) -> RunColumns:
    """Returns the columns of the measures of models."""
    return {
        column.head: partial(_measured, cls.name, column)
        for cls, found in contents.measures()
        for column in cls.columns_for(found)
    }


def _variety(contents: Contents) -> ScenarioColumns:
    """Returns the columns that describe the text of the samples, apart from its scores."""
    columns: dict[str, Callable[[ScenarioResults], Cell]] = {
        "Tag": lambda measured: Cell(measured.tag or DASH),
    }
    return columns | {
        column.head: partial(_measured, cls.name, column)
        for cls, found in contents.sample_measures()
        for column in cls.columns_for(found)
    }


def _measured(name: str, column: Column, results: EvaluationResults | ScenarioResults) -> Cell:
    found = results.measures.get(name)
    return Cell(DASH) if found is None else interval(column.read(found), column.percent, column.decimals)


def _rate(scenario: str, results: EvaluationResults) -> Cell:
    found = results.scenarios.get(scenario)
    return interval(None if found is None else found.rate, percent=True)


def _curves(contents: Contents) -> list[Table]:
    """Returns a table for each measure with a curve; the table has a column for each point of the curve."""
    tables = []
    for cls, found in contents.measures():
        if cls.curve is not None:
            curve = cls.curve
            places = {head: place for one in found for head, place, _ in curve.read(one)}
            columns = {
                head: partial(_point, cls.name, curve, head)
                for head in sorted(places, key=lambda head: places[head])
            }
            tables.append(_by_run(curve.slug, "cost", curve.title, contents, columns))
    return tables


def _point(name: str, curve: Curve, head: str, results: EvaluationResults) -> Cell:
    found = results.measures.get(name)
    points = {one: value for one, _, value in curve.read(found)} if found is not None else {}
    return interval(points.get(head), decimals=3)


def _best_prompts(contents: Contents) -> Table:
    groups = {
        run.label: [
            Row(
                group.colour,
                [
                    Cell(found.prompt or DASH),
                    interval(found.score),
                    interval(found.fresh_score),
                    interval(found.fresh_rate, percent=True),
                    integer(found.round),
                ],
            )
            for found in run.redteam.best_prompts[:_BEST_PROMPTS]
        ]
        for group in contents.groups
        for run in group.runs
        if run.redteam and run.redteam.best_prompts
    }
    heads = ["Prompt", "Score", "Score, drawn anew", "Rate, drawn anew", "Round"]
    return Table("best-prompts", "attacks", "Prompts that worked best", heads, groups, is_folded=True)


def _scenarios(contents: Contents) -> Table:
    """Returns the table of the decoding options of each scenario; options in which runs differ are marked."""
    names = _keys(record.scenarios for record in contents.records)
    settings: dict[str, dict[str, set[str]]] = {name: {} for name in names}
    for record in contents.records:
        for name, measured in record.scenarios.items():
            for option, value in {"prompts": measured.num_prompts, **measured.decoding}.items():
                settings[name].setdefault(option, set()).add(_setting(value))
    options = _keys(settings.values())
    shown = {
        name: [
            found.pop() if len(found) == 1 else "differs" for found in (of.get(o, {DASH}) for o in options)
        ]
        for name, of in settings.items()
    }
    rows = [Row(None, [Cell(name), *map(Cell, values)]) for name, values in shown.items()]
    heads = [option.replace("_", " ").capitalize() for option in options]
    return Table("scenarios", "measured", "Scenarios", ["Scenario", *heads], {"": rows})


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return plug_in(value, _setting) or DASH
    if isinstance(value, float) and value.is_integer():
        return f"{value:g}"
    return DASH if value is None else str(value)


def _by_scenario(
    name: str, title: str, contents: Contents, columns: ScenarioColumns, scenarios: Sequence[str]
) -> Table:
    def cells(one: EvaluatedRun | Group, scenario: str) -> list[Cell]:
        measured = one.results.scenarios.get(scenario)
        return [Cell(DASH) if measured is None else show(measured) for show in columns.values()]

    rows = {scenario: _rows(contents, partial(cells, scenario=scenario)) for scenario in scenarios}
    return Table(name, "misalignment", title, ["Run", *columns], rows)


def _by_run(name: str, section: str, title: str, contents: Contents, columns: RunColumns) -> Table:
    def cells(one: EvaluatedRun | Group) -> list[Cell]:
        return [show(one.results) for show in columns.values()]

    return Table(name, section, title, ["Run", *columns], {"": _rows(contents, cells)})


def _rows(contents: Contents, cells: Callable[[EvaluatedRun | Group], list[Cell]]) -> list[Row]:
    """Returns a row for each group, followed by a row for each of its seeds if there are several."""
    rows = []
    for group in contents.groups:
        label = Cell(group.label, f"{len(group.runs)} seeds" if group.has_seeds else "")
        seeds = group.runs if group.has_seeds else []
        rows.append(Row(group.colour, [label, *cells(group)]))
        rows += [Row(group.colour, [Cell(run.label), *cells(run)], is_seed=True) for run in seeds]
    return rows


def _without_empty_columns(table: Table) -> Table:
    """Returns the table without the columns that have no value in any row."""
    rows = [row for of_group in table.groups.values() for row in of_group]
    kept = [i for i in range(len(table.columns)) if any(row.cells[i].value != DASH for row in rows)]
    groups = {
        title: [replace(row, cells=[row.cells[i] for i in kept]) for row in of_group]
        for title, of_group in table.groups.items()
    }
    return replace(table, columns=[table.columns[i] for i in kept], groups=groups)


def _keys(found: Iterable[Iterable[str]]) -> list[str]:
    """Returns the distinct keys of all items, in order of appearance."""
    return list(dict.fromkeys(key for one in found for key in one))
