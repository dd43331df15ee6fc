import pytest
import torch


def by_hand(model, row):
    """Log-probability in nats, a token at a time, among all tokens but the tags."""
    total = 0.0
    for place in row.counted:
        logits = model(torch.tensor([row.ids[:place]])).logits[0, -1].double()
        logits[[257, 258]] = -torch.inf
        total += logits.log_softmax(-1)[row.ids[place]].item()
    return total


def test_log_probabilities_are_those_of_the_distribution_that_is_sampled(language_model):
    rows = [
        language_model.row("none", [], [[1, 2, 3]]),
        language_model.row("good", [[5, 6, 7]], [[9, 4], [8]], end=True),
        language_model.row("good", [[5]], []),
        language_model.row("good", [], [list(range(40))]),
    ]
    assert rows[1].ids == [256, 257, 5, 6, 7, 257, 9, 4, 257, 8, 256]
    assert rows[1].counted == [6, 7, 9, 10]
    found = language_model.log_probabilities(rows)
    with torch.no_grad():
        wanted = [by_hand(language_model.network, row) for row in rows]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert found.tolist() == pytest.approx(
        [language_model.log_probabilities([row])[0] for row in rows], rel=1e-5
    )
    assert language_model.log_probabilities([]).tolist() == []
