"""Prints the status and the statistics of annotations in the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phf.annotation.status import Status

_DASH = "\u2013"
_MOST_SOURCES = 20
_QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "0.999")


def print_status(found: Sequence[Status], console: Console) -> None:
    """Prints the results of `phf.annotation.status`."""
    table = Table("", box=SIMPLE_HEAD, pad_edge=False)
    for s in found:
        table.add_column(Text(s.scorer), justify="right")
    rows: dict[str, Callable[[Status], str]] = {
        "shards done": lambda s: f"{s.done:,} of {s.shards:,}" if s.shards else "not begun",
        "shards in progress": lambda s: f"{s.in_progress:,}",
        "shards not begun": lambda s: f"{s.shards - s.done - s.in_progress:,}",
        "rows": lambda s: f"{s.rows:,}",
        "segments": lambda s: f"{s.segments:,}",
        "bad rows": lambda s: f"{s.bad_rows:,}",
        "rows a second lately": lambda s: _number(s.rows_per_second),
        "time left": lambda s: _duration(s.seconds_left),
        "last written": lambda s: _DASH if s.written is None else f"{_duration(time.time() - s.written)} ago",
    }
    for name, show in rows.items():
        table.add_row(name, *map(show, found))
    console.print(table)
    for s in found:
        for row in s.failures:
            where = f"{s.scorer}: row {row.row} of shard {row.shard}: "
            console.print(Text.assemble((_printable(where), "dim"), _printable(row.reason)), soft_wrap=True)


def print_statistics(found: Mapping[str, Any], console: Console) -> None:
    """Prints the statistics of a scorer, as returned by `phf.annotation.statistics`."""
    shards = found["shards"]
    of_shards = "" if shards["done"] == shards["all"] else f", {shards['done']} of {shards['all']} shards"
    head = f"{found['scorer']}: {found['measures']}{of_shards}"
    console.print(Text(_printable(head), style="bold"))
    console.print(_by_source(found))
    if found["quantiles"]:
        table = _table(*(f"q{share}" for share in _QUANTILES), "max")
        table.add_row(*(f"{found['quantiles'][share]:.3g}" for share in _QUANTILES), f"{found['max']:.3g}")
        console.print(table)
    if found["worst"]:
        table = _table("Score", "Document", "Labels", "Worst segments")
        for example in found["worst"]:
            text = _DASH if example["text"] is None else _shorten(example["text"], 200)
            labels = ", ".join(example["labels"])
            table.add_row(
                f"{example['score']:.4g}",
                Text(_printable(example["id"])),
                Text(_printable(labels)),
                Text(text),
            )
        console.print(table)
    if found["no_text"]:
        console.print(Text(f"no text: {found['no_text']}", style="yellow"), soft_wrap=True)


def _by_source(found: Mapping[str, Any]) -> Table:
    thresholds, sources = found["above"], found["sources"]
    counts = ["documents", "segments", "unscored"][: 3 if found["unscored"] else 2]
    table = _table("Source", *map(str.title, counts), "Mean", *(f"% > {t}" for t in thresholds))
    table.caption = "% >: share of the segments / of their characters with a score above"
    for name, group in [("all", found), *((s["source"], s) for s in sources[:_MOST_SOURCES])]:
        table.add_row(
            Text("(none)" if name is None else _shorten(name, 24)),
            *(f"{group[count]:,}" for count in counts),
            _number(group["mean"]),
            *(" / ".join(map(_percent, group["above"][t].values())) for t in thresholds),
        )
    if len(sources) > _MOST_SOURCES:
        table.add_row(f"and {len(sources) - _MOST_SOURCES} more")
    return table


def _table(*heads: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for head in heads:
        if head in ("Source", "Document", "Labels", "Worst segments"):
            table.add_column(head, overflow="fold", min_width=10)
        else:
            table.add_column(head, justify="right", no_wrap=not head.startswith("%"))
    return table


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return _DASH if share is None else f"{100 * share:.0f}" if share > 0.1 else f"{100 * share:.2g}"


def _duration(seconds: float | None) -> str:
    return _DASH if seconds is None else str(timedelta(seconds=max(0, round(seconds))))


def _shorten(text: str, length: int) -> str:
    text = _printable(" ".join(text.split()))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _printable(text: str) -> str:
    """Replaces the characters that could steer the terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
