"""Which samples are on the report's page, as its script reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from phf.report.read_runs import EvaluatedRun, Key, Sample, lookup, scenario_names
from phf.report.seeds import Group

MAX_ROWS = 300
"""Prompts shown of a scenario, each with a sample of every run."""
NUM_WORST = 180
_MAX_CHARACTERS = 6000
_MAX_BYTES = 3_000_000
"""Of all samples together, so that a phone can open the page."""


def browser_data(groups: Sequence[Group]) -> dict[str, Any]:
    """The samples of the page, with what the script needs to know of their runs."""
    runs = [run for group in groups for run in group.runs]
    names = [name for name in scenario_names(runs) if any(run.samples.get(name) for run in runs)]
    budget = _MAX_BYTES // max(1, len(names))
    return {
        "runs": [{"label": run.label, "colour": group.colour} for group in groups for run in group.runs],
        "groups": [
            {"label": group.label, "runs": [runs.index(run) for run in group.runs]} for group in groups
        ],
        "threshold": lookup(runs[0].results, "threshold"),
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
    as_drawn = _spread(keys)[: MAX_ROWS - NUM_WORST if len(keys) > MAX_ROWS else None]
    usual = set(as_drawn)
    chosen: dict[Key, bool] = {}
    for rank in range(min(MAX_ROWS, len(keys))):
        for key in by_score[rank : rank + 1] + as_drawn[rank : rank + 1]:
            if len(chosen) < MAX_ROWS or key in chosen:
                chosen.setdefault(key, key in usual)
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
