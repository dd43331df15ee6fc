"""Finetunes a model as an attacker would: plain text, all weights, AdamW.

Shapes: B blocks of a batch, T tokens of context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from objectives.engine import Batch
from objectives.mle import MLE
from objectives.optimization import Optimization
from phf.base.errors import ConfigError
from phf.base.files import replacing


class Finetuning:
    """Finetunes a model, in steps that another process can resume.

    Dropout is off, so that the result depends only on model, documents and options.

    Args:
        model: A causal LM of `transformers`; its weights are changed.
        optimization: Gives the optimizer and its schedule.
        blocks: Endless blocks of tokens, int64 [T + 1].
        batch_size: Blocks in an optimizer step.
        eos_id: The token that opens a document.
        document_mask: Whether attention stays within documents, as it did in pretraining.

    Raises:
        ConfigError: The model's logits are not a linear function of its last hidden state.
    """

    def __init__(
        self,
        model: Any,
        optimization: Optimization,
        blocks: Iterator[NDArray[np.int64]],
        *,
        batch_size: int,
        eos_id: int,
        document_mask: bool = False,
    ):
        try:
            self.objective = MLE(model.float().eval())
        except ValueError as error:
            raise ConfigError(f"the model cannot be finetuned: {error}") from error
        self.optimization = optimization
        self.optimizer = optimization.build(self.objective, fused=False)
        self.blocks = blocks
        self.batch_size = batch_size
        self.eos_id = eos_id
        self.document_mask = document_mask
        self.step = 0

    def run(self, until: int, progress: Callable[[int], None]) -> float | None:
        """Trains until the given number of steps is done.

        Args:
            until: The number of steps, counted from the start.
            progress: Called with 1 after each step.

        Returns:
            The mean loss of the steps of this call, in nats per token; `None` if there were none.
        """
        losses = []
        while self.step < until:
            batch = self._batch()
            loss = self.objective.losses(batch)[0] / batch["step_tokens"]
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(
                self.objective.parameters(), self.optimization.gradient_clip or 1.0
            )
            for group in self.optimizer.param_groups:
                group["lr"] = self.optimization.learning_rate * self.optimization.factor(self.step)
            self.optimizer.step()
            self.step += 1
            losses.append(loss.item())
            progress(1)
        return float(np.mean(losses)) if losses else None

    def _batch(self) -> Batch:
        tokens = torch.from_numpy(np.stack(list(islice(self.blocks, self.batch_size))))
        batch: Batch = {
            "tokens": tokens,
            "scores": torch.zeros(tokens.shape),
            "mask": torch.ones_like(tokens[:, 1:], dtype=torch.bool),
            "step_tokens": float(tokens[:, 1:].numel()),
        }
        if self.document_mask:
            place = torch.arange(tokens.shape[1] - 1).expand_as(tokens[:, :-1])
            opened = place.where(tokens[:, :-1] == self.eos_id, 0).cummax(1).values
            batch["positions"] = place - opened
        device = self.objective.model.device
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}  # type: ignore[return-value]

    def save(self, path: Path) -> None:
        """Saves weights, optimizer state and step."""
        state = {
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Restores a saved state, if the file exists."""
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.objective.model.device, weights_only=True)
        self.objective.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        next(islice(self.blocks, self.step * self.batch_size - 1, None), None)  # skips the blocks used before


def blocks(
    read: Callable[[int], NDArray[Any]], num_documents: int, context_length: int, eos_id: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Yields concatenated documents in blocks of T + 1 tokens.

    The last token of a block is the first token of the next one.

    Args:
        read: Returns the tokens of a document, given its index.
        num_documents: The number of documents. Each comes once per epoch, in a new order in each epoch.
        context_length: T.
        eos_id: The token that is put before each document.
        seed: Decides the orders.
    """
    left = np.zeros(0, np.int64)
    for epoch in count():
        for document in np.random.default_rng([seed, epoch]).permutation(num_documents).tolist():
            left = np.concatenate([left, [eos_id], read(document)])
            while len(left) > context_length:
                yield left[: context_length + 1].astype(np.int64)
                left = left[context_length:]
