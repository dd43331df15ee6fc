"""Defines token objectives: a view says what the model sees, a token loss says what each token costs.

To add one, write a file with a subclass of `TokenObjective` that has a `name` and a `token_loss`. It also
needs a `view` if the model must not see the corpus unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from objectives.engine import Batch, Objective


class TokenObjective(Objective):
    """An objective whose loss is a sum over tokens; see `Objective` for its arguments."""

    def token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        """Computes the loss of each token, elementwise over float32 tensors of one shape.

        Args:
            logp: Log-probability of the token.
            score: Score of the token's segment, never NaN.
            value: The value that `value` predicted before the token.
        """
        raise NotImplementedError

    def value(self, hidden: Tensor) -> Tensor:
        """Predicts a value at each position: [..., D] -> float32 [...]. The default is zero."""
        return hidden.new_zeros(hidden.shape[:-1], dtype=torch.float32)

    def head_loss(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        output = self.model.get_output_embeddings()
        loss, logp = self.head(
            hidden.flatten(0, 1),
            output.weight,
            batch["tokens"][:, 1:].flatten(),
            self._any_token_loss,
            score_N=batch["scores"][:, 1:].flatten(),
            value_N=self.value(hidden).flatten(),
            mask_N=batch["mask"].flatten(),
            bias_V=output.bias,
        )
        return loss, logp.view_as(batch["mask"])

    def _any_token_loss(self, logp: Tensor, score: Tensor, value: Tensor) -> Tensor:
        """Computes the token loss; a token that could not be scored gets the loss of MLE."""
        unscored = score.isnan()
        return (-logp).where(unscored, self.token_loss(logp, score.nan_to_num(0.0), value))
