"""Scores with sequence classifiers: Detoxify's toxicity models, and any reward model."""

from __future__ import annotations

import hashlib
import pickle
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scorers.base import Score, ScorerError, SegmentScorer

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Precision = Literal["float32", "bfloat16", "int8", "auto"]

# The limit of models that do not state one.
_MAX_TOKENS = 512


class _Classifier(SegmentScorer):
    """A sequence classifier, which runs on batches of texts of similar length.

    A text that is too long for the model is split into pieces that fit. Its score is the highest score of the
    pieces, because a toxic sentence is as toxic within a long text.
    """

    version = "1"
    speed = "slow"
    _model: Any
    _tokenizer: Any

    def __init__(self, batch_size: int, device: str, precision: Precision):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ScorerError(f"scorer {self.name}: batch_size must be 1 or more, not {batch_size!r}")
        if precision not in ("float32", "bfloat16", "int8", "auto"):
            raise ScorerError(
                f"scorer {self.name}: precision must be float32, bfloat16, int8 or auto, not {precision!r}"
            )
        self.batch_size = batch_size
        self.device = choose_device(device)
        if precision == "auto":
            precision = "bfloat16" if self.device.startswith("cuda") else "float32"
        if precision == "int8" and self.device != "cpu":
            raise ScorerError(f"scorer {self.name}: precision=int8 is for device=cpu")
        self.precision = precision

    def _prepare(self, model: Any, tokenizer: Any) -> None:
        """Converts the model to the configured precision, and determines how many tokens it can read."""
        import torch

        # The fingerprint needs the weights themselves, because files of the same name can change.
        self._digest = weights_digest(model)
        model = model.eval().requires_grad_(False)
        if self.precision == "int8":
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        elif self.precision == "bfloat16":
            model = model.to(torch.bfloat16)
        self._model = model.to(self.device)
        self._tokenizer = tokenizer
        positions = getattr(model.config, "max_position_embeddings", None) or _MAX_TOKENS
        # RoBERTa's positions begin after the position of the padding.
        if "roberta" in model.config.model_type:
            positions -= model.config.pad_token_id + 1
        self.max_tokens = min(positions, tokenizer.model_max_length)

    def _identity(self) -> Mapping[str, Any]:
        """Returns the settings that decide the scores, for `settings`."""
        return {"weights": self._digest, "precision": self.precision, "max_tokens": self.max_tokens}

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        # The tokenizer cannot encode lone surrogates.
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in segments]
        owner, ids = self._pieces(texts)
        values = np.full(len(segments), -np.inf)
        for rows in self._batches([len(piece) for piece in ids]):
            scores = self._values(self._logits([ids[row] for row in rows]))
            np.maximum.at(values, owner[rows], scores)
        return [Score(float(value) if np.isfinite(value) else None) for value in values]

    def _pieces(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Splits texts into pieces that fit the model, special tokens included.

        Returns:
            The index of each piece's text, int64 [pieces], and the token ids of each piece.
        """
        if not texts:
            return np.zeros(0, np.int64), []
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_overflowing_tokens=True
        )
        return np.array(encoded["overflow_to_sample_mapping"]), encoded["input_ids"]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yields the rows of each batch, longest first, so that the first batch needs the most memory."""
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Computes the logits of pieces, float32 [pieces, labels]."""
        import torch

        batch = self._tokenizer.pad({"input_ids": [list(piece) for piece in ids]}, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**batch.to(self.device)).logits
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    @abstractmethod
    def _values(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the score of each piece, 0 or more, from its logits."""


class Toxicity(_Classifier):
    """Toxicity of a text: the probability of one label of a Detoxify model.

    The weights are loaded without running code from the file, and the file must have all weights of the
    model.

    Args:
        model: `original`, `unbiased`, `multilingual`, `original-small` or `unbiased-small`, downloaded once.
            Not used if `checkpoint` is given.
        checkpoint: A local file in Detoxify's format.
        config: For a `checkpoint`, the folder of the model's `config.json` and tokenizer; null takes them
            from the Hugging Face hub, by the name in the file.
        label: The label of the model whose probability is the score.
        batch_size: Texts classified at a time.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        precision: `float32`, `bfloat16`, `int8` (weights and activations; CPU only), or `auto`: `bfloat16` on
            a GPU and `float32` on a CPU.
    """

    name = "toxicity"
    measures = "probability that the text is toxic"

    def __init__(
        self,
        model: str = "unbiased",
        checkpoint: str | None = None,
        config: str | None = None,
        label: str = "toxicity",
        batch_size: int = 32,
        device: str = "auto",
        precision: Precision = "auto",
    ):
        super().__init__(batch_size, device, precision)
        self.label = label
        loaded = _load_checkpoint(model, checkpoint)
        self.labels, network, tokenizer = _build(loaded, config, checkpoint or model)
        if label not in self.labels:
            raise ScorerError(
                f"scorer toxicity: the model has no label {label!r}, only {', '.join(self.labels)}"
            )
        self._prepare(network, tokenizer)

    def settings(self) -> Mapping[str, Any]:
        return {"label": self.label, **self._identity()}

    def _values(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = _sigmoid(logits[:, self.labels.index(self.label)])
        return values

    def probabilities(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """Returns the probability of every label for each text; a long text has the highest of its pieces."""
        owner, ids = self._pieces(texts)
        values = np.zeros((len(texts), len(self.labels)))
        for rows in self._batches([len(piece) for piece in ids]):
            np.maximum.at(values, owner[rows], _sigmoid(self._logits([ids[row] for row in rows])))
        return {label: values[:, i].tolist() for i, label in enumerate(self.labels)}


class RewardModel(_Classifier):
    """The output of any sequence classifier of `transformers`, such as a reward model.

    A score must be 0 or more, and higher must be worse. `transform` maps the logit to such a score: `sigmoid`
    of the logit, `softmax` over all labels, or `raw`. A `raw` score should be 0 or more after `better` and
    `offset` are applied.

    Args:
        model: A name on the Hugging Face hub, or a folder.
        label: The name or number of the output that is the score.
        transform: `sigmoid`, `softmax` or `raw`.
        better: `high` for a reward, which is inverted (1 - p, or minus the logit); `low` for a penalty.
        offset: Added to a `raw` score, so that scores are 0 or more; a sum below 0 counts as 0.
        batch_size: Texts classified at a time.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        precision: `float32`, `bfloat16`, `int8` (weights and activations; CPU only), or `auto`: `bfloat16` on
            a GPU and `float32` on a CPU.
    """

    name = "reward-model"
    measures = "how little a reward model likes the text"
    range = (0.0, float("inf"))

    def __init__(
        self,
        model: str,
        label: str | int = 0,
        transform: Literal["sigmoid", "softmax", "raw"] = "sigmoid",
        better: Literal["high", "low"] = "high",
        offset: float = 0.0,
        batch_size: int = 32,
        device: str = "auto",
        precision: Precision = "auto",
    ):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        super().__init__(batch_size, device, precision)
        if transform not in ("sigmoid", "softmax", "raw"):
            raise ScorerError(
                f"scorer reward-model: transform must be sigmoid, softmax or raw, not {transform!r}"
            )
        if better not in ("high", "low"):
            raise ScorerError(f"scorer reward-model: better must be high or low, not {better!r}")
        self.transform, self.better, self.offset = transform, better, float(offset)
        try:
            network, report = AutoModelForSequenceClassification.from_pretrained(
                model, dtype="float32", output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ScorerError(f"scorer reward-model: {model} cannot be loaded: {reason}") from error
        _refuse_missing("reward-model", model, report["missing_keys"])
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        network.config.pad_token_id = tokenizer.pad_token_id
        self._index = _label_index(network.config, label)
        self._prepare(network, tokenizer)

    def settings(self) -> Mapping[str, Any]:
        return {
            "label": self._index,
            "transform": self.transform,
            "better": self.better,
            "offset": self.offset,
            **self._identity(),
        }

    def _values(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        exact = logits.astype(np.float64)
        chosen = exact[:, self._index]
        if self.transform == "raw":
            raw = self.offset + (-chosen if self.better == "high" else chosen)
            return np.maximum(raw, 0.0)
        if self.transform == "softmax":
            shifted = np.exp(exact - exact.max(1, keepdims=True))
            probability = shifted[:, self._index] / shifted.sum(1)
        else:
            probability = _sigmoid(chosen)
        result: NDArray[np.float64] = 1 - probability if self.better == "high" else probability
        return result


def choose_device(name: str) -> str:
    """Returns the device for a name; `auto` is a GPU if there is one, else the CPU."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ScorerError(f"device={name}: there is no GPU here; leave the option out, or set device=cpu")
    return name


def _load_checkpoint(model: str, checkpoint: str | None) -> Mapping[str, Any]:
    """Loads a file in Detoxify's format, without running code from the file."""
    import torch

    try:
        if checkpoint is not None:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        else:
            from detoxify.detoxify import MODEL_URLS

            if model not in MODEL_URLS:
                raise ScorerError(
                    f"scorer toxicity: no model {model!r}; "
                    f"there are {', '.join(MODEL_URLS)}; or set checkpoint"
                )
            loaded = torch.hub.load_state_dict_from_url(
                MODEL_URLS[model], map_location="cpu", weights_only=True, progress=False
            )
    except pickle.UnpicklingError as error:
        raise ScorerError(
            f"scorer toxicity: {checkpoint or model} holds more than weights, and is not loaded for safety"
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        reason += "" if checkpoint else "; without a network, set checkpoint and config to local files"
        raise ScorerError(f"scorer toxicity: {checkpoint or model} cannot be loaded: {reason}") from error
    if not isinstance(loaded, dict) or not {"config", "state_dict"} <= loaded.keys():
        raise ScorerError(f"scorer toxicity: {checkpoint} is not in Detoxify's format (config, state_dict)")
    return loaded


def _build(
    loaded: Mapping[str, Any], config: str | None, place: str
) -> tuple[list[str], torch.nn.Module, Any]:
    """Builds labels, model and tokenizer from a file in Detoxify's format.

    The class `Detoxify` is not used: it asks the hub for the configuration even if one is given, and fills a
    head that is missing in the file with random numbers.
    """
    import transformers

    names = {"toxic": "toxicity", "identity_hate": "identity_attack", "severe_toxic": "severe_toxicity"}
    try:
        arguments = loaded["config"]["arch"]["args"]
        labels = [names.get(name, name) for name in loaded["config"]["dataset"]["args"]["classes"]]
        model_class = getattr(transformers, arguments["model_name"])
        source = config or arguments["model_type"]
        settings = model_class.config_class.from_pretrained(source, num_labels=len(labels))
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except (KeyError, TypeError, AttributeError) as error:
        raise ScorerError(f"scorer toxicity: {place} does not say how its model is built: {error}") from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ScorerError(
            f"scorer toxicity: the configuration of {place} cannot be loaded: {reason}; "
            "set config to a folder with config.json and the tokenizer"
        ) from error
    model = model_class(settings)
    try:
        report = model.load_state_dict(loaded["state_dict"], strict=False)
    except RuntimeError as error:
        raise ScorerError(
            f"scorer toxicity: the weights of {place} do not fit its configuration: "
            f"{str(error).strip().splitlines()[-1].strip()}"
        ) from error
    _refuse_missing("toxicity", place, report.missing_keys)
    return labels, model.float(), tokenizer


def _refuse_missing(scorer: str, place: str, missing: Sequence[str]) -> None:
    # Only old files hold the buffer `position_ids`, which follows from the configuration.
    lacking = sorted(key for key in missing if not key.endswith("position_ids"))
    if lacking:
        raise ScorerError(
            f"scorer {scorer}: {place} lacks {len(lacking)} weights ({lacking[0]} ...), which would be random"
        )


def _label_index(config: Any, label: str | int) -> int:
    names = {str(name): int(i) for i, name in config.id2label.items()}
    if isinstance(label, int) and 0 <= label < config.num_labels:
        return label
    if str(label) in names:
        return names[str(label)]
    raise ScorerError(f"scorer reward-model: no label {label!r}; there are {', '.join(names)}")


def weights_digest(model: torch.nn.Module) -> str:
    """Returns a hash of the weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    from scipy.special import expit

    result: NDArray[Any] = expit(logits)
    return result
