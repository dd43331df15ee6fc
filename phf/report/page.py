"""The report's page: one HTML file with its style, plots and samples in it, that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from phf.base.plot_style import COLOURS, DARK_COLOURS
from phf.report.cells import DASH
from phf.report.legend import legend
from phf.report.plots import Plot
from phf.report.read_runs import lookup
from phf.report.seeds import Group
from phf.report.side_by_side import browser_data
from phf.report.table_formats import to_csv
from phf.report.tables import Table

_SECTIONS = (
    ("misalignment", "Misalignment", ("misalignment", "scorers"), ("variety",)),
    ("pareto", "Pareto front", (), ()),
    ("cost", "What alignment cost", ("cost", "deciles"), ()),
    ("attacks", "Attacks", ("leakage",), ("best-prompts",)),
    ("training", "Training", (), ()),
    ("samples", "Samples side by side", (), ()),
    ("measured", "How it was measured", ("scenarios", "runs"), ()),
)
"""In the order of the page: name, title, tables, and tables that are folded away."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its anchor.
        title: Its heading.
        tables: Shown.
        folded: Tables that a click shows.
        plots: Below the tables.
    """

    name: str
    title: str
    tables: list[Table]
    folded: list[Table]
    plots: list[Plot]


def render_page(
    results: dict[str, Any], groups: Sequence[Group], tables: dict[str, Table], plots: Sequence[Plot]
) -> str:
    """Builds the page.

    Args:
        results: What `report` returns.
        groups: The runs themselves, for their samples.
        tables: By name.
        plots: In the order in which they are shown.
    """
    import jinja2
    from markupsafe import Markup

    package = files("phf.report")
    template, style, script = (
        package.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html.j2", "report.css", "report.js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["csv"] = to_csv
    browser = browser_data(groups)
    return environment.from_string(template).render(
        results=results,
        sections=_sections(tables, plots),
        legend=legend(results),
        facts=_facts(results),
        has_seeds=any(group.has_seeds for group in groups),
        style=Markup(style),
        script=Markup(script),
        # The page runs this one script and loads nothing, whatever a model may have written.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
        browser=browser,
        markup=Markup,
    )


def _sections(tables: dict[str, Table], plots: Sequence[Plot]) -> list[Section]:
    """The parts of the page that have something to show; where the samples were not kept it says so."""
    sections = [
        Section(
            name,
            title,
            [tables[table] for table in shown if table in tables],
            [tables[table] for table in folded if table in tables],
            [plot for plot in plots if plot.chart.section == name],
        )
        for name, title, shown, folded in _SECTIONS
    ]
    return [s for s in sections if s.tables or s.plots or s.name in ("samples", "measured")]


def _facts(results: dict[str, Any]) -> list[tuple[str, str]]:
    """How it was measured, as far as all runs agree."""

    def shared(*path: str) -> str:
        found = {str(lookup(run, *path)) for run in results["runs"]}
        return found.pop() if len(found) == 1 and found != {"None"} else "differs" if len(found) > 1 else DASH

    scorer = " ".join(
        part for part in (shared("scorer", "name"), shared("scorer", "version")) if part != DASH
    )
    return [
        ("Scorer", scorer or DASH),
        ("Measures", shared("scorer", "measures")),
        ("Threshold", shared("threshold").removesuffix(".0")),
        ("Seed", shared("seed")),
        ("Runs", str(len(results["runs"]))),
    ]
