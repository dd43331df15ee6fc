"""Finetuning as one who tampers with a model would do it: plain text, all weights, AdamW.

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

from objectives import MLE, Batch, Optimization
from phf.base.errors import ConfigError, writing


class Finetuning:
    """A model that is finetuned, in steps that can be gone on with in another process.

    Dropout is off, so that what comes out depends on nothing but model, documents and options.

    Args:
        model: A causal LM of `transformers`; its weights are changed.
        optimization: How.
        blocks: Endless blocks of tokens, int64 [T + 1].
        batch_size: Blocks in a step.
        eos_id: Opens a document.
        document_mask: Whether attention stays within documents, as it did in pretraining.

    Raises:
        ConfigError: The model's logits are more than a linear function of its last hidden state.
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
            raise ConfigError(f"it cannot be finetuned: {error}") from error
        self.optimization = optimization
        self.optimizer = optimization.build(self.objective, fused=False)
        self.blocks = blocks
        self.batch_size = batch_size
        self.eos_id = eos_id
        self.document_mask = document_mask
        self.step = 0

    def run(self, until: int, progress: Callable[[int], None]) -> float | None:
        """Goes on until so many steps are done.

        Args:
            until: The number of steps, from the start.
            progress: Called with 1 after each.

        Returns:
            The mean loss of these steps, in nats a token; `None` if there were none.
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
        """Keeps weights, optimizer and step."""
        state = {
            "model": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        with writing(path):
            temporary = path.with_name(f".{path.name}.tmp")
            torch.save(state, temporary)
            temporary.replace(path)

    def load(self, path: Path) -> None:
        """Goes on from what was kept, if there is something."""
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.objective.model.device, weights_only=True)
        self.objective.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        next(islice(self.blocks, self.step * self.batch_size - 1, None), None)  # those had their turn


def blocks(
    read: Callable[[int], NDArray[Any]], num_documents: int, context_length: int, eos_id: int, seed: int
) -> Iterator[NDArray[np.int64]]:
    """Documents one after the other in blocks of T + 1 tokens; the last one is the first of the next block.

    Args:
        read: The tokens of a document.
        num_documents: How many there are; each comes once an epoch, in another order in each.
        context_length: T.
        eos_id: Goes before each document.
        seed: Decides the order.
    """
    left = np.zeros(0, np.int64)
    for epoch in count():
        for document in np.random.default_rng([seed, epoch]).permutation(num_documents).tolist():
            left = np.concatenate([left, [eos_id], read(document)])
            while len(left) > context_length:
                yield left[: context_length + 1].astype(np.int64)
                left = left[context_length:]
