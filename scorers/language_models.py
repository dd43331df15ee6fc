"""Scores with language models: the perplexity of a text, or a judge's answer to a rubric."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from scorers.base import Score, ScorerError, SegmentScorer
from scorers.classifiers import choose_device, weights_digest
from scorers.endpoint import Endpoint, EndpointError

_LARGEST = 1e30


class Perplexity(SegmentScorer):
    """Perplexity of each segment on its own, under a causal language model of `transformers`.

    The first token is predicted from the model's beginning-of-text token, if it has one. A text that is too
    long is split into pieces that fit, and each piece starts with that token. A segment in which no token is
    predicted has no score.

    Args:
        model: A name on the Hugging Face hub, or a folder.
        batch_size: Texts read at a time.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
    """

    name = "perplexity"
    version = "1"
    measures = "perplexity a token"
    range = (1.0, float("inf"))
    speed = "slow"

    def __init__(self, model: str, batch_size: int = 16, device: str = "auto"):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.batch_size, self.device = batch_size, choose_device(device)
        try:
            network = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
            self._tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ScorerError(f"scorer perplexity: {model} cannot be loaded: {reason}") from error
        self._digest = weights_digest(network)
        self._model = network.eval().requires_grad_(False).to(self.device)
        self._start = self._tokenizer.bos_token_id
        limit = getattr(network.config, "max_position_embeddings", None) or 2048
        self._room = limit - (self._start is not None)

    def settings(self) -> Mapping[str, Any]:
        return {"weights": self._digest, "start": self._start, "room": self._room}

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        nll, counts = [0.0] * len(segments), [0] * len(segments)
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in segments]
        pieces: list[tuple[int, list[int]]] = []
        for i, text in enumerate(texts):
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for start in range(0, len(ids), self._room):
                piece = ids[start : start + self._room]
                pieces.append((i, piece if self._start is None else [self._start, *piece]))
        pieces.sort(key=lambda piece: -len(piece[1]))
        for start in range(0, len(pieces), self.batch_size):
            batch = pieces[start : start + self.batch_size]
            for (i, ids), total in zip(batch, self._nll([ids for _, ids in batch]), strict=True):
                nll[i] += total
                counts[i] += len(ids) - 1
        return [
            Score(min(math.exp(min(total / count, 69.0)), _LARGEST) if count else None)
            for total, count in zip(nll, counts, strict=True)
        ]

    def _nll(self, batch: Sequence[list[int]]) -> list[float]:
        """Returns the negative log-probability of each row's tokens after the first, summed, in nats."""
        import torch

        longest = max(map(len, batch))
        ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=self.device)
        mask_BT = torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in batch], device=self.device
        )
        with torch.inference_mode():
            logits_BTV = self._model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, :-1].float()
            nll_BT = torch.nn.functional.cross_entropy(
                logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none"
            )
        return (nll_BT.double() * mask_BT[:, 1:]).sum(1).tolist()


class Judge(SegmentScorer):
    """Score that a language model behind an OpenAI-compatible endpoint gives a segment.

    The model answers a rubric at temperature 0, and must answer with one number, such as `7`, `7/10` or
    `Score: 7`. Any other answer gives no score. Answers are kept in a file, so that no question is asked, or
    paid for, twice.

    Args:
        model: Name of the model at the endpoint.
        rubric: The question; `{text}` stands for the segment.
        highest: The highest score of the rubric; scores are divided by it.
        base_url: The endpoint, such as `http://localhost:8000/v1`.
        key: Name of the environment variable with the key; most local servers need none.
        concurrency: Requests at a time.
        retries: How often a failed request is sent again, with growing waits.
        timeout: Seconds that a request may take.
        cache: The file with the answers.
    """

    name = "judge"
    version = "1"
    measures = "score by a rubric, as a share of the highest"
    speed = "slow"

    def __init__(
        self,
        model: str,
        rubric: str,
        highest: float = 10.0,
        base_url: str | None = None,
        key: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        retries: int = 5,
        timeout: float = 60.0,
        cache: str = "data/judge.sqlite",
    ):
        if "{text}" not in rubric:
            raise ScorerError("scorer judge: the rubric must have {text} where the segment goes")
        if not highest > 0:
            raise ScorerError(f"scorer judge: highest must be above 0, not {highest!r}")
        self.model, self.rubric, self.highest = model, rubric, float(highest)
        self._endpoint = Endpoint(
            model, base_url, key, concurrency=concurrency, retries=retries, timeout=timeout
        )
        self._cache = _Cache(Path(cache).expanduser())

    def settings(self) -> Mapping[str, Any]:
        return {"model": self.model, "rubric": self.rubric, "highest": self.highest}

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        prompts = [self.rubric.replace("{text}", segment) for segment in segments]
        answers = self._cache.get([self._key(prompt) for prompt in prompts])
        missing = sorted({prompt for prompt in prompts if self._key(prompt) not in answers})
        self._endpoint.map(self._ask, missing)
        answers |= self._cache.get([self._key(prompt) for prompt in missing])
        return [Score(self._read(answers[self._key(prompt)])) for prompt in prompts]

    def _key(self, prompt: str) -> str:
        text = json.dumps([self.model, prompt])
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    def _ask(self, prompt: str) -> None:
        """Asks one prompt, and keeps the answer at once: it is not lost when a later request fails."""
        try:
            answer = self._endpoint.chat(prompt, temperature=0.0, max_tokens=64)
        except EndpointError as error:
            raise ScorerError(f"scorer judge: {error}") from error
        self._cache.put(self._key(prompt), answer)

    def _read(self, answer: str) -> float | None:
        without_highest = re.sub(r"(/|out of) *\d+(\.\d+)?", "", answer)
        numbers = re.findall(r"-?\d+(?:\.\d+)?", without_highest)
        if len(numbers) != 1 or not 0 <= float(numbers[0]) <= self.highest:
            return None
        return float(numbers[0]) / self.highest


class _Cache:
    """Stores answers by key, in an SQLite file that several processes may use."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)")
            connection.commit()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=60.0)

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        found = {}
        with closing(self._connect()) as connection:
            for key in keys:
                row = connection.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = row[0]
        return found

    def put(self, key: str, answer: str) -> None:
        with closing(self._connect()) as connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, answer))
            connection.commit()
