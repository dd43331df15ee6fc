"""Documents that say their own scores, and a scorer that takes them at their word."""

import json

import pytest

from phf.config import Config, load_config

SCORER = '''
import time
from scorers import Score, SegmentScorer, Span

class Told(SegmentScorer):
    """The number that a segment begins with; `?` cannot be said, `!` fails."""
    name, version, measures = "told", "1", "what it says"
    range = (0.0, float("inf"))

    def __init__(self, times: float = 1.0, seconds: float = 0.0):
        self.times, self.seconds = times, seconds

    def score_segments(self, segments):
        time.sleep(self.seconds * len(segments))
        scores = []
        for segment in segments:
            first = segment.split()[0]
            if first == "!":
                raise ValueError("nothing to say")
            value = None if first == "?" else self.times * float(first)
            scores.append(Score(value, (Span(0, 1, "digit"), Span(0, 1, f"is {first}"))))
        return scores
'''


@pytest.fixture
def told(tmp_path):
    """Configures annotations of documents; each shard a list of texts or rows."""
    (tmp_path / "told.py").write_text(SCORER)
    (tmp_path / "documents").mkdir()

    def make(shards: dict[str, list[object]] | None = None, *overrides: str) -> Config:
        for name, rows in (shards or {}).items():
            lines = [json.dumps(row if isinstance(row, dict) else {"text": row}) + "\n" for row in rows]
            (tmp_path / "documents" / f"{name}.jsonl").write_text("".join(lines))
        return load_config(
            [
                f"documents.path={tmp_path / 'documents'}",
                f"annotations.path={tmp_path / 'annotations'}",
                "annotations.processes=1",
                "segmenter.name=line",
                f"scorer.name={tmp_path / 'told.py'}:Told",
                "scorer.column=told",
                *overrides,
            ]
        )

    return make
