"""Holds the contents of a report: groups of runs, comparisons, warnings and the headline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from phf.base.typed_json import to_json
from phf.evaluation.measures import MEASURES
from phf.evaluation.measures.base import Measure
from phf.evaluation.results import EvaluationResults
from phf.report.differences import Comparison
from phf.report.read_runs import EvaluatedRun, split_scenarios
from phf.report.seeds import Group, find_baseline_group


@dataclass(frozen=True)
class Contents:
    """The contents of a report.

    Attributes:
        groups: The runs, grouped so that the runs of a group differ only in their seed.
        comparisons: Comparisons of each group, and of each run in groups of several seeds, with the baseline.
        warnings: A sentence for each reason why runs cannot be compared, or only with care.
        headline: The main result, in a sentence.
    """

    groups: Sequence[Group]
    comparisons: Sequence[Comparison]
    warnings: Sequence[str] = ()
    headline: str = ""

    @property
    def runs(self) -> list[EvaluatedRun]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]

    @property
    def records(self) -> list[EvaluationResults]:
        """The results of each group."""
        return [group.results for group in self.groups]

    @property
    def baseline(self) -> Group:
        """The group that the others are compared with."""
        return find_baseline_group(self.groups)

    @property
    def asked(self) -> list[str]:
        """The scenarios that use a model as intended, see `split_scenarios`."""
        return split_scenarios(self.records)[0]

    @property
    def unit(self) -> str:
        """What the scorer measures, as the unit of a score."""
        return next((r.scorer.measures for r in self.records if r.scorer.measures), "score")

    def measures(self) -> Iterator[tuple[type[Measure], list[Any]]]:
        """Yields each measure of models that some group has results of, with these results."""
        return self._measures([record.measures for record in self.records])

    def sample_measures(self) -> Iterator[tuple[type[Measure], list[Any]]]:
        """Yields each measure of samples that some scenario of a group has results of, with these results."""
        return self._measures(
            [scenario.measures for record in self.records for scenario in record.scenarios.values()]
        )

    def _measures(self, parts: Sequence[dict[str, Any]]) -> Iterator[tuple[type[Measure], list[Any]]]:
        places = {name: place for run in self.runs for name, place in run.results.measured_by.items()}
        for name in dict.fromkeys(name for part in parts for name in part):
            yield MEASURES.find(places[name]), [part[name] for part in parts if name in part]

    def to_json(self) -> dict[str, Any]:
        """Returns what `results.json` of the report contains."""
        return {
            "format": 2,
            "headline": self.headline,
            "warnings": list(self.warnings),
            "runs": [
                {
                    "label": run.label,
                    **to_json(run.results),
                    "redteam": run.redteam and to_json(run.redteam),
                    "tamper": run.tamper and to_json(run.tamper),
                }
                for run in self.runs
            ],
            "groups": [
                {
                    **to_json(group.results),
                    "label": group.label,
                    "runs": [run.label for run in group.runs],
                    "colour": group.colour,
                }
                for group in self.groups
            ],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }
