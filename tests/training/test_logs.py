"""When something is due, and the file of metrics."""

import pytest

from phf.training.logs import MetricsFile, due


@pytest.mark.parametrize("total", [1, 8, 19, 20, 39, 1000])
def test_so_many_times_a_run_and_after_the_last_step(total):
    steps = [step for step in range(1, total + 1) if due(step, None, total, times=20)]
    assert len(steps) == min(total, 20)
    assert steps[-1] == total


def test_every_few_steps_and_after_the_last():
    assert [step for step in range(1, 9) if due(step, 3, 8)] == [3, 6, 8]


HEADER = "step,tokens,name,value\n"


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ("", ""),
        ("step,to", ""),
        (HEADER, ""),
        (HEADER + "2,16,a,1.0\n3,24,a,1.0\n", "2,16,a,1.0\n"),
        (HEADER + "2,16,a,1.0\n2,16,b,0.", "2,16,a,1.0\n"),
    ],
)
def test_metrics_go_on_after_the_step_that_is_resumed_from(tmp_path, there, kept):
    path = tmp_path / "metrics.csv"
    path.write_text(there)
    metrics = MetricsFile(path, tokens_per_step=8, tokens_before=0)
    metrics.resume_from(2)
    metrics.log_metrics({"a": 0.1}, step=3)
    assert path.read_text() == HEADER + kept + "3,24,a,0.1\n"
