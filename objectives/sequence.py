"""Defines sequence objectives: the loss is a function of the log-probabilities of whole sequences.

An example is a loss on pairs of texts of which one is preferred. Three more fields of a batch describe the
sequences. A sequence must lie within one micro-batch::

    sequences        int64   [B, T]   number of the target's sequence, from 0; -1 for none (a prompt)
    sequence_scores  float32 [S]      score of each sequence
    sequence_groups  int64   [S]      number of each sequence's group, for example a pair or a list

For these objectives, `step_tokens` is the number of groups in the optimizer step.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor

from objectives.engine import Batch, Objective
from objectives.head import sequence_head


class SequenceBatch(Batch):
    """A batch with sequences; the module's docstring lists the fields."""

    sequences: Tensor
    sequence_scores: Tensor
    sequence_groups: Tensor


class SequenceObjective(Objective):
    """An objective whose loss is a function of sequences; see `Objective` for its arguments."""

    def sequence_loss(self, logp: Tensor, score: Tensor, group: Tensor) -> Tensor:
        """Computes the sum of the losses of the groups of a batch.

        Args:
            logp: Log-probability of each sequence, summed over its tokens that count: float64 [S].
            score: Score of each sequence, float32 [S].
            group: Number of the group of each sequence, int64 [S].

        Returns:
            A scalar, differentiable in `logp`.
        """
        raise NotImplementedError

    def head_loss(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        given = cast("SequenceBatch", batch)
        score, group = given["sequence_scores"], given["sequence_groups"]
        output = self.model.get_output_embeddings()
        loss, logp = sequence_head(
            self.head,
            hidden.flatten(0, 1),
            output.weight,
            batch["tokens"][:, 1:].flatten(),
            lambda logp_S: self.sequence_loss(logp_S, score, group),
            sequence_N=given["sequences"].flatten(),
            num_sequences=len(score),
            mask_N=batch["mask"].flatten(),
            bias_V=output.bias,
        )
        return loss, logp.view_as(batch["mask"])
