"""Scorers that are sequence classifiers: Detoxify's toxicity models, and any reward model."""

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

# Models that state no limit of their own mean this one.
_MAX_TOKENS = 512


class _Classifier(SegmentScorer):
    """A sequence classifier, run on batches of texts of like length.

    A text that is too long for the model is classified in pieces that fit, and has the highest of their
    scores: a toxic sentence is as toxic within a long text.
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
        """Takes the model in the precision asked for, and finds how many tokens it can read."""
        import torch

        # Names of weights in the fingerprint would not do: files of one name change.
        self._digest = weights_digest(model)
        model = model.eval().requires_grad_(False)
        if self.precision == "int8":
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        elif self.precision == "bfloat16":
            model = model.to(torch.bfloat16)
        self._model = model.to(self.device)
        self._tokenizer = tokenizer
        positions = getattr(model.config, "max_position_embeddings", None) or _MAX_TOKENS
        # RoBERTa's positions begin after that of the padding.
        if "roberta" in model.config.model_type:
            positions -= model.config.pad_token_id + 1
        self.max_tokens = min(positions, tokenizer.model_max_length)

    def _identity(self) -> Mapping[str, Any]:
        """What decides the scores, for `settings`."""
        return {"weights": self._digest, "precision": self.precision, "max_tokens": self.max_tokens}

    def score_segments(self, segments: Sequence[str]) -> list[Score]:
        # Lone surrogates cannot be encoded.
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in segments]
        owner, ids = self._pieces(texts)
        values = np.full(len(segments), -np.inf)
        for rows in self._batches([len(piece) for piece in ids]):
            scores = self._values(self._logits([ids[row] for row in rows]))
            np.maximum.at(values, owner[rows], scores)
        return [Score(float(value) if np.isfinite(value) else None) for value in values]

    def _pieces(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], list[list[int]]]:
        """Token ids of pieces that fit the model, special tokens included, and the text each is of."""
        if not texts:
            return np.zeros(0, np.int64), []
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self.max_tokens, return_overflowing_tokens=True
        )
        return np.array(encoded["overflow_to_sample_mapping"]), encoded["input_ids"]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows that are classified together: the longest first, so that memory runs out at once or never."""
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]

    def _logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Logits of pieces, float32 [pieces, labels]."""
        import torch

        batch = self._tokenizer.pad({"input_ids": [list(piece) for piece in ids]}, return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**batch.to(self.device)).logits
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    @abstractmethod
    def _values(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """The score of each piece, 0 or more, from its logits."""


class Toxicity(_Classifier):
    """Toxicity by a model of Detoxify: the probability of one of its labels.

    The weights are loaded without running code that is in the file, and must fill the whole model.

    Args:
        model: `original`, `unbiased`, `multilingual`, `original-small` or `unbiased-small`, downloaded once.
            Not used if `checkpoint` is given.
        checkpoint: A local file in Detoxify's format.
        config: The folder of the model's `config.json` and tokenizer, for a `checkpoint`; null for the name
            on the Hugging Face hub that the file has.
        label: Which of the model's labels is the score.
        batch_size: Texts classified at a time.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        precision: `float32`; `bfloat16` (`auto` on a GPU); `int8`, weights and activations, on a CPU.
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
        """The probability of every label, of each text; of a long one the highest of its pieces."""
        owner, ids = self._pieces(texts)
        values = np.zeros((len(texts), len(self.labels)))
        for rows in self._batches([len(piece) for piece in ids]):
            np.maximum.at(values, owner[rows], _sigmoid(self._logits([ids[row] for row in rows])))
        return {label: values[:, i].tolist() for i, label in enumerate(self.labels)}


class RewardModel(_Classifier):
    """The output of any sequence classifier of `transformers`, such as a reward model.

    A score is 0 or more, and higher is worse. So `transform` brings the logit into range: `sigmoid` of it,
    `softmax` over all labels, or `raw`, which must be 0 or more by itself after `better` is applied.

    Args:
        model: A name on the Hugging Face hub, or a folder.
        label: The name or number of the output that is the score.
        transform: `sigmoid`, `softmax` or `raw`.
        better: `high` for a reward, which is turned round (1 - p, or minus the logit); `low` for a penalty.
        offset: Added to a `raw` score, so that none is below 0; a lower one counts as 0.
        batch_size: Texts classified at a time.
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        precision: `float32`; `bfloat16` (`auto` on a GPU); `int8`, weights and activations, on a CPU.
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
    """The device that a name stands for: `auto` is a GPU if there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ScorerError(f"device={name}: there is no GPU here; leave the option out, or set device=cpu")
    return name


def _load_checkpoint(model: str, checkpoint: str | None) -> Mapping[str, Any]:
    """The contents of a file in Detoxify's format, read without running code that is in it."""
    import torch

    try:
        if checkpoint is not None:
            loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        else:
            from detoxify.detoxify import MODEL_URLS

            if model not in MODEL_URLS:
                raise ScorerError(
                    f"toxicity: no model {model!r}; there are {', '.join(MODEL_URLS)}; or set checkpoint"
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
    """Labels, model and tokenizer of a file in Detoxify's format.

    `Detoxify` itself asks the hub for the configuration even if it is given, and fills a head that is missing
    in the file with random numbers.
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
    # Buffers that follow from the configuration are in old files and not in new ones.
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
    """A hash of the weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    from scipy.special import expit

    result: NDArray[Any] = expit(logits)
    return result
