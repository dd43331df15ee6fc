"""The report's page: one HTML file with its style, plots and samples in it, that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from phf.evaluation.comparison import find_baseline
from phf.evaluation.formats import DASH
from phf.evaluation.plots import Plot
from phf.evaluation.runs import EvaluatedRun, Key, Sample, lookup, scenario_names
from phf.evaluation.tables import legend, make_tables
from phf.plot_style import COLOURS, DARK_COLOURS

MAX_ROWS = 100
"""Prompts shown of a scenario, each with a sample of every run."""
_NUM_WORST = 60
_MAX_CHARACTERS = 6000
_MAX_BYTES = 3_000_000
"""Of all samples together, so that a phone can open the page."""


def render_page(results: dict[str, Any], runs: Sequence[EvaluatedRun], plots: Sequence[Plot]) -> str:
    """Builds the page.

    Args:
        results: What `report` returns.
        runs: The runs themselves, for their samples.
        plots: In the order in which they are shown.
    """
    import jinja2
    from markupsafe import Markup

    package = files("phf.evaluation")
    template, style, script = (
        package.joinpath(name).read_text(encoding="utf-8")
        for name in ("report.html.j2", "report.css", "report.js")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template).render(
        results=results,
        tables=make_tables(results),
        legend=legend(results),
        facts=_facts(results),
        plots=[(plot, Markup(plot.inline)) for plot in plots],
        style=Markup(style),
        script=Markup(script),
        # The page runs this one script and loads nothing, whatever a model may have written.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=COLOURS,
        dark_colours=DARK_COLOURS,
        browser=_browser(runs),
    )


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


def _browser(runs: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """The samples of the page, as the script reads them."""
    names = [name for name in scenario_names(runs) if any(run.samples.get(name) for run in runs)]
    budget = _MAX_BYTES // max(1, len(names))
    return {
        "runs": [run.label for run in runs],
        "baseline": runs.index(find_baseline(runs)),
        "scenarios": [_scenario(runs, name, budget) for name in names],
    }


def _scenario(runs: Sequence[EvaluatedRun], name: str, budget: int) -> dict[str, Any]:
    samples = [run.samples.get(name, {}) for run in runs]
    keys = sorted({key for of_run in samples for key in of_run})
    rows: list[dict[str, Any]] = []
    for key, drawn in choose_rows(keys, samples):
        row = _row(key, drawn, [of_run.get(key) for of_run in samples])
        budget -= len(json.dumps(row))
        if budget < 0 and rows:
            break
        rows.append(row)
    return {"name": name, "total": len(keys), "rows": rows}


def choose_rows(keys: Sequence[Key], samples: Sequence[dict[Key, Sample]]) -> list[tuple[Key, bool]]:
    """Which samples are shown: the worst of any run, and the first as drawn, which show what is usual.

    Returns:
        Keys with `True` for those among the first as drawn, alternating so that any cut keeps both kinds.
    """

    def worst(key: Key) -> float:
        return max(
            (s.score for of_run in samples if (s := of_run.get(key)) and s.score is not None), default=-1.0
        )

    by_score = sorted(keys, key=lambda key: (-worst(key), key))
    as_drawn = _spread(keys)[: MAX_ROWS - _NUM_WORST if len(keys) > MAX_ROWS else None]
    chosen: dict[Key, bool] = {}
    for rank in range(min(MAX_ROWS, len(keys))):
        for key in by_score[rank : rank + 1] + as_drawn[rank : rank + 1]:
            if len(chosen) < MAX_ROWS or key in chosen:
                chosen.setdefault(key, key in as_drawn)
    return list(chosen.items())


def _spread(keys: Sequence[Key]) -> list[Key]:
    """Every prompt's first sample, then every prompt's second: not forty samples of one prompt."""
    return sorted(keys, key=lambda key: (key[1], key[0]))


def _row(key: Key, drawn: bool, samples: Sequence[Sample | None]) -> dict[str, Any]:
    prompt = next(s.prompt for s in samples if s is not None)
    return {
        "prompt_index": key[0],
        "sample_index": key[1],
        "drawn": drawn,
        "prompt": prompt,
        "cells": [None if s is None else _cell(s, prompt) for s in samples],
    }


def _cell(sample: Sample, prompt: str) -> dict[str, Any]:
    return {
        "text": sample.text[:_MAX_CHARACTERS],
        "cut": max(0, len(sample.text) - _MAX_CHARACTERS),
        "score": sample.score,
        "tokens": sample.num_tokens,
        "finished": sample.finished,
        **({"prompt": sample.prompt} if sample.prompt != prompt else {}),
    }
