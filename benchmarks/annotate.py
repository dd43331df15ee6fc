"""How fast scorers and annotation are, against the usual way to do the same.

    python benchmarks/annotate.py                        # all of it, about a quarter of an hour on two cores
    python benchmarks/annotate.py pep8 overhead --repeats 3

What is compared runs in turns, in one process with one thread; a figure is the median over the turns, and a
ratio that of the ratios of each turn. Seconds are those of the CPU, child processes included (`processes`: of
the clock). The texts are on every machine that has phf: the sources of the standard library, the language
reference within it, and the descriptions of the packages installed here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import resource
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")

from phf.annotation.annotate import annotate
from phf.config import Config, load_config
from phf.documents.segments import segmenter
from scorers import Score, Scorer, load_scorer

Work = Callable[[], object]

# A scorer that looks at 50,000 segments a second.
SECONDS_PER_SEGMENT = 20e-6


def cpu_seconds() -> float:
    """Seconds that this process and its children have computed."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_turns(
    repeats: int, works: dict[str, Work], clock: Callable[[], float] = cpu_seconds
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each turn; a first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def show(
    title: str, seconds: dict[str, list[float]], amount: float, unit: str, reference: str
) -> dict[str, object]:
    """Prints rate and ratio of each, and gives them back."""
    rows = {}
    for name, values in seconds.items():
        ratio = statistics.median(r / v for r, v in zip(seconds[reference], values, strict=True))
        rate = amount / statistics.median(values)
        rows[name] = {f"{unit}/s": rate, "ratio": ratio}
        print(f"{title:<28} {name:<36} {rate:>12,.0f} {unit}/s {ratio:>7.2f} x", flush=True)
    return {title: rows}


def standard_library(most: int) -> list[str]:
    """Sources of the standard library, a file a text."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [
        f for f in sorted(root.rglob("*.py")) if "site-packages" not in f.parts and "test" not in f.parts
    ]
    step = max(1, len(files) // most)
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files[::step]]
    return [text for text in texts if 200 < len(text) < 100_000][:most]


def pep8(repeats: int) -> dict[str, object]:
    """As pycodestyle is usually called on a text: its output redirected, and read."""
    import pycodestyle

    def printed(text: str) -> list[int]:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            pycodestyle.Checker(lines=io.StringIO(text).readlines(), show_source=True).check_all()
        return [
            int(line.split(":")[1]) for line in output.getvalue().splitlines() if line.startswith("stdin:")
        ]

    scorers = {name: load_scorer(name) for name in ("pep8", "ruff")}
    files = standard_library(150)
    lines = [line for text in files for line in text.splitlines(keepends=True)]
    snippets = ["".join(lines[i : i + 3]) for i in range(0, 9000, 9)]
    results: dict[str, object] = {}
    for title, texts in [("pep8: files", files), ("pep8: three lines", snippets)]:
        documents = [text.splitlines(keepends=True) for text in texts]
        works: dict[str, Work] = {
            "pycodestyle, output redirected": lambda texts=texts: [printed(text) for text in texts],
            "pep8": lambda documents=documents: scorers["pep8"].score(documents),
        }
        if title == "pep8: files":
            works["ruff"] = lambda documents=documents: scorers["ruff"].score(documents)
        number = sum(map(len, documents))
        results |= show(
            title, in_turns(2 * repeats, works), number, "lines", "pycodestyle, output redirected"
        )
    return results


def processes(repeats: int) -> dict[str, object]:
    """`phf annotate` with the scorer pep8 in one process and in two, by the clock."""
    texts = standard_library(500) * 3
    with tempfile.TemporaryDirectory() as folder:
        documents = _write(Path(folder), texts)

        def run(number: int) -> Work:
            config = _config(documents, "line", "pep8", number)
            return lambda: _annotate(config)

        works = {"1 process": run(1), "2 processes": run(2)}
        seconds = in_turns(repeats, works, time.perf_counter)
    number = sum(text.count("\n") for text in texts)
    return show("pep8: processes", seconds, number, "lines", "1 process")


def classifier(repeats: int) -> dict[str, object]:
    """A model of Detoxify's size and format with random weights, on sentences of the language reference."""
    import torch
    from detoxify import Detoxify
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    torch.set_num_threads(1)
    sentences = [s for s in _reference_sentences() if s.strip()][:192]
    classes = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trained = BertWordPieceTokenizer()
        trained.train_from_iterator(_reference_sentences(), vocab_size=30522, show_progress=False)
        BertTokenizerFast(tokenizer_object=trained._tokenizer, model_max_length=512).save_pretrained(folder)
        torch.manual_seed(0)
        config = BertConfig(num_labels=6)
        config.save_pretrained(folder)
        arguments = {"model_type": name, "model_name": "BertForSequenceClassification",
                     "tokenizer_name": "BertTokenizer", "num_classes": 6}  # fmt: skip
        written = {"arch": {"args": arguments}, "dataset": {"args": {"classes": classes}}}
        weights = BertForSequenceClassification(config).state_dict()
        torch.save({"config": written, "state_dict": weights}, folder / "model.ckpt")
        options = {"checkpoint": str(folder / "model.ckpt"), "config": name, "device": "cpu"}
        detoxify = Detoxify(checkpoint=options["checkpoint"], huggingface_config_path=name)
        ours = {
            kind: load_scorer("toxicity", precision=kind, **options)
            for kind in ("float32", "int8", "bfloat16")
        }

    found: dict[str, list[float]] = {}

    def predict() -> None:
        batches = [sentences[i : i + 32] for i in range(0, len(sentences), 32)]
        found["Detoxify.predict"] = [
            value for batch in batches for value in detoxify.predict(batch)["toxicity"]
        ]

    def score(kind: str) -> Work:
        def work() -> None:
            # Not `score`, which would remember the sentences of the turn before.
            found[kind] = [score.value for score in ours[kind].score_segments(sentences)]

        return work

    works: dict[str, Work] = {"Detoxify.predict": predict}
    works |= {kind: score(kind) for kind in ours}
    results = show("BERT base", in_turns(repeats, works), len(sentences), "sentences", "Detoxify.predict")
    for kind in ours:
        off = max(abs(a - b) for a, b in zip(found[kind], found["Detoxify.predict"], strict=True))
        print(f"{'BERT base':<28} {kind:<36} differs by at most {off:.1e} in probability")
        results[f"BERT base, {kind}, largest difference"] = off
    return results


def pii(repeats: int) -> dict[str, object]:
    """Presidio, a call a sentence, on descriptions of installed packages and the language reference."""
    described = {d.name: d.read_text("METADATA") or "" for d in importlib.metadata.distributions()}
    segment = segmenter(load_config(["segmenter.name=sentence"]).segmenter)
    bodies = [segment(described[name].partition("\n\n")[2][:6000]) for name in sorted(described)]
    sentences = list(dict.fromkeys(s for body in bodies for s in body))[:400]
    sentences += _reference_sentences()[:400]
    scorers = {mode: load_scorer("pii", mode=mode) for mode in ("ner", "patterns")}
    engine = scorers["ner"]._analyzer.analyzer_engine
    spans = {}

    def one_by_one() -> None:
        entities = list(scorers["ner"].entities)
        spans["analyze"] = [
            {
                (r.start, r.end, r.entity_type)
                for r in engine.analyze(s, "en", entities=entities, score_threshold=0.4)
            }
            for s in sentences
        ]

    def score(mode: str) -> Work:
        def work() -> None:
            spans[mode] = [score.spans for score in scorers[mode].score_segments(sentences)]

        return work

    works: dict[str, Work] = {
        "analyze, a call a sentence": one_by_one,
        "ner": score("ner"),
        "patterns": score("patterns"),
    }
    seconds = in_turns(repeats, works)
    # A merged span begins where one of presidio's does and ends where one does, and none is left over.
    same = sum(
        {s for s, _, _ in hits} >= {m.start for m in merged}
        and {e for _, e, _ in hits} >= {m.end for m in merged}
        and all(any(m.start <= s and e <= m.end for m in merged) for s, e, _ in hits)
        for hits, merged in zip(spans["analyze"], spans["ner"], strict=True)
    )  # fmt: skip
    print(f"{'pii':<28} {'ner':<36} same spans in {same} of {len(sentences)} sentences")
    characters = sum(map(len, sentences))
    rows = show("pii", seconds, characters, "characters", "analyze, a call a sentence")
    ratio = statistics.median(n / p for n, p in zip(seconds["ner"], seconds["patterns"], strict=True))
    print(f"{'pii':<28} {'patterns':<36} {ratio:.1f} x ner")
    return rows | {"pii: patterns against ner": ratio, "pii: same spans": same / len(sentences)}


class Busy(Scorer):
    """Computes for a while on each segment."""

    name, version, measures = "busy", "1", "nothing"

    def __init__(self, rounds: int = 0):
        self.rounds = rounds

    def score(self, documents: list[list[str]]) -> list[list[Score]]:
        zero = Score(0.0)
        for segments in documents:
            for _ in segments:
                self.compute()
        return [[zero] * len(segments) for segments in documents]

    def compute(self) -> None:
        """Takes its time."""
        for _ in range(self.rounds):
            pass


def overhead(repeats: int) -> dict[str, object]:
    """What `phf annotate` adds (it reads, cuts, checks, writes) to a scorer of 50,000 segments a second."""
    results: dict[str, object] = {}
    rounds = 1_000_000
    (seconds,) = in_turns(repeats, {"compute": Busy(rounds).compute}).values()
    rounds = round(SECONDS_PER_SEGMENT / statistics.median(seconds) * rounds)
    prose = ["".join(_reference_texts()[i::40]) for i in range(40)] * 10
    for name, texts in {"line": standard_library(500), "sentence": prose}.items():
        segment = segmenter(load_config([f"segmenter.name={name}"]).segmenter)
        documents = [segment(text) for text in texts]
        with tempfile.TemporaryDirectory() as folder:
            config = _config(_write(Path(folder), texts), name, f"{__file__}:Busy", 1)
            works: dict[str, Work] = {
                "such a scorer": lambda documents=documents: Busy(rounds).score(documents),
                "all but the scorer": lambda config=config: _annotate(config),
                "of that, cutting": lambda texts=texts, segment=segment: [segment(text) for text in texts],
            }
            seconds = in_turns(repeats, works)
        number = sum(map(len, documents))
        results |= show(f"overhead: {name}", seconds, number, "segments", "such a scorer")
        both = zip(seconds["such a scorer"], seconds["all but the scorer"], strict=True)
        added = statistics.median(rest / scorer for scorer, rest in both)
        print(f"{f'overhead: {name}':<28} {'added':<36} {added:.1%}")
        results[f"overhead: {name}, added"] = added
    return results


def _write(folder: Path, texts: list[str]) -> Path:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _config(documents: Path, segments: str, scorer: str, processes: int, *options: str) -> Config:
    return load_config(
        [
            f"documents.path={documents}",
            f"annotations.path={documents.parent / 'annotations'}",
            f"annotations.processes={processes}",
            f"segmenter.name={segments}",
            f"scorer.name={scorer}",
            *options,
        ]
    )


def _annotate(config: Config) -> None:
    shutil.rmtree(config.annotations.path, ignore_errors=True)
    annotate(config)


def _reference_texts() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _reference_sentences() -> list[str]:
    segment = segmenter(load_config(["segmenter.name=sentence"]).segmenter)
    return [sentence for text in _reference_texts() for sentence in segment(text)]


BENCHMARKS = {work.__name__: work for work in (pep8, processes, classifier, pii, overhead)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmarks", nargs="*", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--repeats", type=int, default=5, help="turns that count (default: 5)")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.benchmarks) - set(BENCHMARKS):
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(BENCHMARKS)}")
    print(f"{date.today()}, Python {platform.python_version()}, {os.cpu_count()} cores, {_processor()}")
    results: dict[str, object] = {}
    for name in arguments.benchmarks or BENCHMARKS:
        results |= BENCHMARKS[name](arguments.repeats)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
