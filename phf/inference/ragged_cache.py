"""Implements a KV cache whose rows are texts of different lengths.

All texts begin at position 0, so no padding takes part in attention, and a finished row can be replaced by a
text of any length.

The cache allocates room for the longest text at the start. The default cache of `transformers` is copied to a
longer tensor at every token instead. With a small model on a CPU, the copying and reallocation takes about a
third of the time.

Shapes: R rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class RaggedCache(DynamicCache):
    """Holds the keys and values of every layer.

    Args:
        num_layers: Layers of the model.
        num_rows: Rows that are generated at a time.
        max_length: Tokens of the longest row.
    """

    def __init__(self, num_layers: int, num_rows: int, max_length: int) -> None:
        super().__init__()
        self.size = num_rows, max_length
        self.layers = [_RaggedLayer(self) for _ in range(num_layers)]
        self.positions_R = torch.empty(0, dtype=torch.long)
        self.rows_R = self.positions_R
        self.end = 0

    def write_at(self, positions_R: torch.Tensor, end: int) -> None:
        """Sets the position of the next token of each of the first R rows. All positions are below `end`."""
        if len(positions_R) != len(self.rows_R):
            self.rows_R = torch.arange(len(positions_R), device=positions_R.device)
        self.positions_R, self.end = positions_R, end

    def fill(self, rows: Sequence[int], source: DynamicCache, source_rows: Sequence[int]) -> None:
        """Starts rows with the contents of rows of another cache, at the length of that cache."""
        device = source.layers[0].keys.device
        index, source_index = (torch.tensor(i, device=device) for i in (rows, source_rows))
        for layer, other in zip(self.layers, source.layers, strict=True):
            layer.fill(index, other.keys[source_index], other.values[source_index])

    def copy(self, source_rows: Sequence[int], rows: Sequence[int]) -> None:
        """Copies the contents of `source_rows` to `rows`. A row may be in both."""
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
    """Makes a cache for a model; `None` if the model needs another kind of cache or takes no `position_ids`.

    A sliding window has no effect if no text is longer than the window.
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
