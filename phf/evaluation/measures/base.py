"""Defines what a measure does: one class holds its options, computation, results, columns and conditions.

The class says which options the measure has, how it is computed, what its results are, and how a report shows
and compares the results. A `ModelMeasure` measures a model once. A `SampleMeasure` measures the samples of
each scenario::

    @dataclass
    class Results:
        share: Interval = estimate(SHARE)


    class Questions(SampleMeasure):
        name, title, Results = "questions", "Questions", Results
        columns = (Column("Questions", lambda found: found.share, percent=True),)

        def measure(self, samples, clusters, bootstrap):
            asked = [float("?" in one.scored_text) for one in samples]
            return Results(bootstrap.share(asked, clusters))

A report imports measures to show their results. So the module of a measure imports slow packages, such as
torch, only inside the functions that measure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from phf.base.estimates import NONNEGATIVE, Bootstrap, Bounds, Interval
from phf.config import EvaluationConfig, NoOptions

if TYPE_CHECKING:
    from phf.evaluation.sample_scores import ScoredSample
    from phf.inference.loaded_model import LoadedModel


def estimate(bounds: Bounds = NONNEGATIVE) -> Any:
    """Declares a field of results that is an `Interval` whose values lie within bounds."""
    return field(default_factory=Interval, metadata={"bounds": bounds})


@dataclass(frozen=True)
class Column:
    """A column in the tables of a report.

    Attributes:
        head: The heading of the column.
        read: Takes the results of the measure and returns the value to show; `None` if there is none.
        percent: Whether the value is shown in percent.
        decimals: Number of decimals; `None` for three significant figures.
    """

    head: str
    read: Callable[[Any], Interval | float | None]
    percent: bool = False
    decimals: int | None = None


@dataclass(frozen=True)
class Axis:
    """A capability of a model, as an axis of the Pareto fronts.

    Attributes:
        slug: A short name, for file names.
        title: The name of the quantity, in words.
        read: Takes the results of the measure and returns the value.
        unit: The unit of a quantity that is better if lower; empty for a share, which is better if higher.
    """

    slug: str
    title: str
    read: Callable[[Any], Interval | None]
    unit: str = ""


@dataclass(frozen=True)
class Curve:
    """One quantity plotted over another, as a figure and a table.

    Attributes:
        slug: A short name, for file names.
        title: What the figure shows.
        caption: How to read the figure.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        read: Takes the results of the measure and returns the points: heading of the table's column, x, y.
        x_is_whole: Whether x takes only whole numbers.
    """

    slug: str
    title: str
    caption: str
    x: str
    y: str
    read: Callable[[Any], Sequence[tuple[str, float, Interval]]]
    x_is_whole: bool = False


@dataclass(frozen=True)
class Condition:
    """A condition that must be equal for two results to be compared.

    Attributes:
        what: The name of the condition.
        value: Its value.
        strict: True if results with different values cannot be compared; false if they can with care.
    """

    what: str
    value: Any
    strict: bool = True


@dataclass(frozen=True)
class Evaluated:
    """A model that is being evaluated.

    Attributes:
        model: The model.
        evaluation: How the model is evaluated.
        samples: The scored samples of each scenario; empty before they are drawn.
        output: The folder for further files of a measure.
    """

    model: LoadedModel
    evaluation: EvaluationConfig
    output: Path
    samples: Mapping[str, Sequence[ScoredSample]] = field(default_factory=dict)

    @property
    def bootstrap(self) -> Bootstrap:
        """Computes confidence intervals."""
        return Bootstrap(self.evaluation.confidence, self.evaluation.seed)


class Measure(ABC):
    """A measure, with its options.

    Attributes:
        name: The name in `phf measures`.
        title: What it measures, in a few words.
        Options: A dataclass of its options, with a sentence under each field.
        Results: A dataclass of its results. A field that is an `Interval` is declared by `estimate`.
        columns: The columns that it adds to the tables of a report.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    Results: ClassVar[type]
    columns: ClassVar[Sequence[Column]] = ()
    axis: ClassVar[Axis | None] = None
    """The axis that it adds to the Pareto fronts; `None` for none."""
    curve: ClassVar[Curve | None] = None
    """The figure that it adds to a report; `None` for none."""

    def __init__(self, options: Any = None):
        self.options = self.Options() if options is None else options

    def inputs(self) -> Any:
        """Returns what decides the results besides options and model, for example the contents of a file.

        Raises:
            ConfigError: There is no such file.
        """
        return None

    @classmethod
    def columns_for(cls, found: Sequence[Any]) -> Sequence[Column]:
        """Returns the columns for the given results; by default `columns`."""
        return cls.columns

    @classmethod
    def axis_for(cls, found: Sequence[Any]) -> Axis | None:
        """Returns the axis for the given results; by default `axis`."""
        return cls.axis

    @classmethod
    def legend(cls, found: Sequence[Any]) -> str:
        """Returns what the columns mean, in a sentence or two; empty for no explanation."""
        return ""

    @classmethod
    def conditions(cls, found: Any) -> Sequence[Condition]:
        """Returns the conditions that must be equal for results to be compared."""
        return ()


class ModelMeasure(Measure):
    """Measures a model once."""

    def check(self, evaluated: Evaluated) -> None:
        """Checks for problems that would fail later, before anything is sampled.

        Raises:
            ConfigError: The options do not fit the model.
            PhfError: Something that the measure needs is missing.
        """

    @abstractmethod
    def measure(self, evaluated: Evaluated) -> Any:
        """Measures the model. Returns `None` if it cannot be measured, and logs the reason."""


class SampleMeasure(Measure):
    """Measures the samples of a scenario."""

    @abstractmethod
    def measure(
        self, samples: Sequence[ScoredSample], clusters: Sequence[int] | None, bootstrap: Bootstrap
    ) -> Any:
        """Measures the samples of a scenario.

        Args:
            samples: The samples.
            clusters: The prompt of each sample; `None` if the samples are independent.
            bootstrap: Computes confidence intervals.
        """
