"""Writes tables for the terminal, and as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from phf.report.cells import DASH, MINUS, Cell
from phf.report.contents import Contents
from phf.report.legend import legend
from phf.report.tables import Row, Table, make_tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_IN_TERMINAL = ("misalignment", "cost", "leakage")
_DISPENSABLE = (
    "Unscored", "Better", "Segment rate", "Untagged", "Perplexity", "Samples", "Max", "Aligned", "Misaligned",
    "Parses", "Finished", "Length", "Rate",
)  # fmt: skip
"""Columns that are dropped, in this order, until the table fits the terminal."""
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\n": " "}
    | {"<": r"\textless{}", ">": r"\textgreater{}", MINUS: "$-$", DASH: "--"}
)


def to_markdown(contents: Contents) -> str:
    """Formats a report as Markdown: the headline, the warnings, the tables and their legend."""

    def escape(text: object) -> str:
        return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")

    lines = [f"# {escape(contents.headline)}", ""]
    for warning in contents.warnings:
        lines += [f"> **Warning.** {escape(warning)}", ""]
    for table in make_tables(contents).values():
        for group, rows in table.groups.items():
            title = f"{table.title}: {group}" if group else table.title
            lines += [f"## {escape(title)}", "", f"| {' | '.join(map(escape, table.columns))} |"]
            lines.append(f"| :--- |{' ---: |' * (len(table.columns) - 1)}")
            for row in rows:
                mark = "- " if row.is_seed else ""
                lines.append(f"| {mark}{' | '.join(map(escape, row.cells))} |")
            lines.append("")
    lines += [f"- {escape(line)}" for line in legend(contents)]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Formats a table as CSV, in full precision; two columns with the ends follow a column with intervals."""
    rows = [(group, row) for group, rows in table.groups.items() for row in rows]
    bounded = [
        any((numbers := row.cells[i].numbers) and numbers.low is not None for _, row in rows)
        for i in range(len(table.columns))
    ]
    heads = [
        name
        for head, has_bounds in zip(table.columns, bounded, strict=True)
        for name in ((head, f"{head} (low)", f"{head} (high)") if has_bounds else (head,))
    ]
    titled = any(table.groups)
    lines = [["group"] * titled + ["seed of a group", *heads]]
    for group, row in rows:
        cells = [v for c, has in zip(row.cells, bounded, strict=True) for v in _values(c, has)]
        lines.append([group] * titled + ["yes" if row.is_seed else "no", *cells])
    return write_csv(lines)


def write_csv(lines: Iterable[Sequence[Any]]) -> str:
    """Formats rows as CSV.

    Text that begins with a character such as `=`, which a spreadsheet runs as a formula, gets an apostrophe.
    """
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(
        [
            f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value
            for value in line
        ]
        for line in lines
    )
    return file.getvalue()


def _values(cell: Cell, has_bounds: bool) -> Sequence[Any]:
    shown = None if cell.value == DASH else cell.value
    numbers = cell.numbers
    values = (numbers.value, numbers.low, numbers.high) if numbers else (shown, None, None)
    return values if has_bounds else values[:1]


def to_latex(table: Table) -> str:
    """Formats a table as LaTeX; it needs the package booktabs."""
    width = len(table.columns)

    def cell(shown: Cell) -> str:
        detail = f" {{\\scriptsize {_latex(shown.detail)}}}" if shown.detail else ""
        return _latex(shown.value) + detail

    lines = [f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}", "\\toprule"]
    lines += [" & ".join(map(_latex, table.columns)) + r" \\"]
    for group, rows in table.groups.items():
        lines.append("\\midrule")
        if group:
            lines.append(rf"\multicolumn{{{width}}}{{l}}{{\emph{{{_latex(group)}}}}} \\")
        for row in rows:
            indent = r"\quad " if row.is_seed else ""
            lines.append(indent + " & ".join(map(cell, row.cells)) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    """Escapes the special characters of LaTeX."""
    return text.translate(_LATEX)


def print_table(contents: Contents, console: Console) -> None:
    """Prints the headline, the warnings and the main tables of a report to a terminal."""
    from rich.text import Text

    console.print(Text(contents.headline, style="bold"))
    for warning in contents.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    tables = make_tables(contents)
    for name in _IN_TERMINAL:
        if name in tables:
            console.print(_fitted(_turned(tables[name]) if name == "leakage" else tables[name], console))


def _turned(table: Table) -> Table:
    """Transposes a table with many columns: each column becomes a row, and each run becomes a column."""
    runs = [row for rows in table.groups.values() for row in rows if not row.is_seed]
    rows = [
        Row(None, [Cell(head), *(row.cells[place] for row in runs)])
        for place, head in enumerate(table.columns[1:], start=1)
    ]
    return Table(
        table.name,
        table.section,
        table.title,
        ["Scenario", *(row.cells[0].value for row in runs)],
        {"": rows},
    )


def _fitted(table: Table, console: Console) -> RichTable:
    """Drops dispensable columns until the table fits the terminal."""
    kept = list(range(len(table.columns)))
    unlimited = console.options.update(max_width=10_000)
    for dispensable in _DISPENSABLE:
        if console.measure(_for_terminal(table, kept), options=unlimited).maximum <= console.width:
            break
        kept = [i for i in kept if not table.columns[i].startswith(dispensable)]
    return _for_terminal(table, kept)


def _for_terminal(table: Table, kept: Sequence[int]) -> RichTable:
    """Formats the chosen columns for a terminal; only the page shows single seeds."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(table.title, style="bold")
    shown = RichTable(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for i in kept:
        shown.add_column(Text(table.columns[i]), justify="right" if i else "left", overflow="fold")
    for group, rows in table.groups.items():
        if group:
            shown.add_row(Text(group, style="italic"))
        for row in (row for row in rows if not row.is_seed):
            cells = (row.cells[i] for i in kept)
            shown.add_row(
                *(Text.assemble(c.value, (f"\n{c.detail}" if c.detail else "", "dim")) for c in cells)
            )
        shown.add_section()
    return shown
