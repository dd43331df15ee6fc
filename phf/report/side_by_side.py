"""Selects the samples that the report's page shows side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from phf.report.contents import Contents
from phf.report.read_runs import EvaluatedRun, Key, Sample, scenario_names

MAX_ROWS = 300
"""Most rows of a scenario. A row has one sample of each run, all with the same prompt and index."""
NUM_WORST = 180
"""How many of the rows are chosen by score if a scenario has more than `MAX_ROWS`."""
_MAX_CHARACTERS = 6000
_MAX_BYTES = 3_000_000
"""Most bytes of all samples together, so that a phone can open the page."""


def browser_data(contents: Contents) -> dict[str, Any]:
    """Returns the samples of the page, and what the script of the page needs to know about their runs."""
    runs, groups = contents.runs, contents.groups
    names = scenario_names(run.results for run in runs)
    names = [name for name in names if any(run.samples.get(name) for run in runs)]
    budget = _MAX_BYTES // max(1, len(names))
    return {
        "runs": [{"label": run.label, "colour": group.colour} for group in groups for run in group.runs],
        "groups": [
            {"label": group.label, "runs": [runs.index(run) for run in group.runs]} for group in groups
        ],
        "threshold": runs[0].results.threshold,
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
    """Chooses the rows to show: those with the worst score of any run, and the first in the order drawn.

    The first in the order drawn show what is typical.

    Returns:
        The key of each row, and whether it is among the first in the order drawn. The two kinds alternate, so
            that both remain if the list is cut.
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
    """Sorts the keys by sample index, then by prompt index, so that the first rows cover many prompts."""
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
