"""Renders the report's page: one HTML file with style, plots and samples, which needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from phf.base.plot_style import COLOURS, DARK_COLOURS
from phf.evaluation.results import EvaluationResults
from phf.report.cells import DASH
from phf.report.contents import Contents
from phf.report.legend import legend
from phf.report.plots import Plot
from phf.report.side_by_side import browser_data
from phf.report.table_formats import to_csv
from phf.report.tables import Table

_SECTIONS = {
    "misalignment": "Misalignment",
    "pareto": "Pareto front",
    "cost": "What alignment cost",
    "attacks": "Attacks",
    "training": "Training",
    "samples": "Samples side by side",
    "measured": "How it was measured",
}
"""Titles of the sections of the page, in order."""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: The anchor of the section.
        title: The heading.
        tables: Tables that are always shown.
        folded: Tables that are shown after a click.
        plots: Plots, shown between the tables and the folded tables.
    """

    name: str
    title: str
    tables: list[Table]
    folded: list[Table]
    plots: list[Plot]


def render_page(contents: Contents, tables: dict[str, Table], plots: Sequence[Plot]) -> str:
    """Renders the page as HTML.

    Args:
        contents: The contents of the report.
        tables: The tables, by name.
        plots: The plots, in the order in which they are shown.
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
    browser = browser_data(contents)
    return environment.from_string(template).render(
        contents=contents,
        sections=_sections(tables, plots),
        legend=legend(contents),
        facts=_facts(contents),
        has_seeds=any(group.has_seeds for group in contents.groups),
        style=Markup(style),
        script=Markup(script),
        # The content security policy allows only this script, so text written by a model cannot run one.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
        browser=browser,
        markup=Markup,
    )


def _sections(tables: dict[str, Table], plots: Sequence[Plot]) -> list[Section]:
    """Returns the sections that have tables or plots, and always those on the samples and the measurement."""
    sections = []
    for name, title in _SECTIONS.items():
        here = [table for table in tables.values() if table.section == name]
        shown, folded = ([t for t in here if t.is_folded is is_folded] for is_folded in (False, True))
        drawn = [plot for plot in plots if plot.chart.section == name]
        sections.append(Section(name, title, shown, folded, drawn))
    return [s for s in sections if s.tables or s.plots or s.name in ("samples", "measured")]


def _facts(contents: Contents) -> list[tuple[str, str]]:
    """Returns how the runs were measured, as (name, value); a value in which runs differ is "differs"."""
    records = [run.results for run in contents.runs]

    def shared(read: Callable[[EvaluationResults], object]) -> str:
        found = {str(read(record) or "") for record in records}
        return "differs" if len(found) > 1 else found.pop() or DASH

    return [
        ("Scorer", shared(lambda results: f"{results.scorer.name} {results.scorer.version}".strip())),
        ("Measures", shared(lambda results: results.scorer.measures)),
        ("Threshold", shared(lambda results: f"{results.threshold:g}")),
        ("Seed", shared(lambda results: str(results.seed))),
        ("Runs", str(len(records))),
    ]
