"""A KV cache whose rows are texts of different lengths, each with a place of its own to write at.

All texts begin at place 0, so there is no padding to attend to: a row that is done makes room for a new one,
of whatever length. And there is room for the longest text from the start: the usual cache is copied to a
longer tensor at every token, which together with the memory it frees and takes again costs a small model on a
CPU about a third of the time.

Shapes: R rows, T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class RaggedCache(DynamicCache):
    """Keys and values of every layer.

    Args:
        num_layers: Layers of the model.
        num_rows: Texts that are written at a time.
        max_length: Tokens of the longest.
    """

    def __init__(self, num_layers: int, num_rows: int, max_length: int) -> None:
        super().__init__()
        self.size = num_rows, max_length
        self.layers = [_RaggedLayer(self) for _ in range(num_layers)]
        self.positions_R = torch.empty(0, dtype=torch.long)
        self.rows_R = self.positions_R
        self.end = 0

    def write_at(self, positions_R: torch.Tensor, end: int) -> None:
        """Says where the next token of each of the first R rows goes; none is at `end` or behind it."""
        if len(positions_R) != len(self.rows_R):
            self.rows_R = torch.arange(len(positions_R), device=positions_R.device)
        self.positions_R, self.end = positions_R, end

    def fill(self, rows: Sequence[int], source: DynamicCache, source_rows: Sequence[int]) -> None:
        """Begins rows with the tokens of rows of another cache, all as many as the longest has."""
        device = source.layers[0].keys.device
        index, source_index = (torch.tensor(i, device=device) for i in (rows, source_rows))
        for layer, other in zip(self.layers, source.layers, strict=True):
            layer.fill(index, other.keys[source_index], other.values[source_index])

    def copy(self, source_rows: Sequence[int], rows: Sequence[int]) -> None:
        """Makes rows what others have been, which may be among them."""
        index, source_index = (torch.tensor(i, device=self.rows_R.device) for i in (rows, source_rows))
        for layer in self.layers:
            for states in (layer.all_keys, layer.all_values):
                states[index, :, : self.end] = states[source_index, :, : self.end]


class _RaggedLayer(DynamicLayer):
    def __init__(self, cache: RaggedCache) -> None:
        super().__init__()
        self.cache = cache

    def fill(self, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            (num_rows, max_length), (_, heads, _, width) = self.cache.size, keys.shape
            self.all_keys = keys.new_zeros(num_rows, heads, max_length, width)
            self.all_values = values.new_zeros(num_rows, heads, max_length, values.shape[-1])
        length = keys.shape[2]
        self.all_keys[rows, :, :length], self.all_values[rows, :, :length] = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, end = self.cache.rows_R, self.cache.end
        self.all_keys[rows, :, self.cache.positions_R] = key_states[:, :, 0]
        self.all_values[rows, :, self.cache.positions_R] = value_states[:, :, 0]
        return self.all_keys[: len(rows), :, :end], self.all_values[: len(rows), :, :end]

    def get_seq_length(self) -> int:
        return self.cache.end - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.end, 0


def ragged_cache(model: Any, num_rows: int, max_length: int) -> RaggedCache | None:
    """A cache for the model; `None` for one that needs one of its own kind, or cannot be told its positions.

    A sliding window is no window as long as the texts are no longer than it.
    """
    if not model._supports_default_dynamic_cache():
        return None
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return None
    layers = DynamicCache(config=model.config).layers
    for layer in layers:
        slides = type(layer) is DynamicSlidingWindowLayer
        if type(layer) is not DynamicLayer and not (slides and layer.sliding_window >= max_length):
            return None
    return RaggedCache(len(layers), num_rows, max_length) if layers else None
