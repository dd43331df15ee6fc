"""Makes batches for training: decides which blocks form which optimizer step, on which process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from phf.blocks.block import Kind
from phf.blocks.curriculum import Phases
from phf.blocks.packed import PackedView

if TYPE_CHECKING:
    from objectives.engine import Batch


class StepBlocks(Sampler[list[int]]):
    """Yields the block indices of each micro-batch, endlessly.

    Step s consists of blocks [s * batch, (s + 1) * batch) of the endless sequence of blocks, for any number
    of processes. Each process takes every `world_size`-th micro-batch of the step.

    Args:
        first_block: The first block of step 0.
        batch: Blocks in a step, over all processes.
        micro_batch: Blocks in a micro-batch.
        rank: The number of this process.
        world_size: The number of processes.
        first_step: The step to begin with.
        distinct_steps: The blocks repeat after this many steps; `None` for never.
    """

    def __init__(
        self,
        first_block: int,
        batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        *,
        first_step: int = 0,
        distinct_steps: int | None = None,
    ):
        self.first_block = first_block
        self.batch = batch
        self.micro_batch = micro_batch
        self.rank = rank
        self.world_size = world_size
        self.first_step = first_step
        self.distinct_steps = distinct_steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.first_step):
            start = self.first_block + self.batch * (step % (self.distinct_steps or step + 1))
            for micro in range(self.rank, self.batch // self.micro_batch, self.world_size):
                first = start + micro * self.micro_batch
                yield list(range(first, first + self.micro_batch))


class TrainingBlocks(Dataset["Batch"]):
    """The endless sequence of blocks of a packed view, read one micro-batch at a time."""

    def __init__(self, view: PackedView | Phases, first_block: int, batch: int, document_mask: bool = False):
        self.view = view
        self.document_mask = document_mask
        self.first_block = first_block
        self.batch = batch
        self._counted_step, self._step_tokens = -1, 0.0

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        places = [self.view.locate(index) for index in indices]
        step = (indices[0] - self.first_block) // self.batch
        if step != self._counted_step:
            start = self.first_block + step * self.batch
            counted = self.view.num_targets(range(start, start + self.batch))
            self._counted_step, self._step_tokens = step, float(counted)
        return collate(
            self.view,
            places,
            count_tags=self.view.learns_tags,
            step_tokens=self._step_tokens,
            document_mask=self.document_mask,
        )


class HeldoutBlocks(Dataset["Batch"]):
    """The first blocks of held-out text, in order. Control tokens are present but do not count as targets.

    Indices beyond the last block give the first blocks again, with no target that counts.
    """

    def __init__(self, view: PackedView, num_blocks: int, document_mask: bool = False):
        self.view = view
        self.document_mask = document_mask
        self.num_blocks = min(num_blocks, view.num_blocks(0))

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        places = [(0, index % self.num_blocks) for index in indices]
        batch = collate(
            self.view, places, count_tags=False, step_tokens=1.0, document_mask=self.document_mask
        )
        batch["mask"] &= torch.tensor([[index < self.num_blocks] for index in indices])
        return batch


def collate(
    view: PackedView | Phases,
    places: Sequence[tuple[int, ...]],
    *,
    count_tags: bool,
    step_tokens: float,
    document_mask: bool = False,
) -> Batch:
    """Makes one batch of the blocks at some places; `objectives.engine` describes a batch."""
    blocks = [view.block(*place) for place in places]
    kind = np.stack([block.kind[1:] for block in blocks])
    mask = kind != Kind.PAD
    if not count_tags:
        mask &= kind != Kind.TAG
    batch: Batch = {
        "tokens": torch.from_numpy(np.stack([block.tokens for block in blocks])),
        "scores": torch.from_numpy(np.stack([block.scores for block in blocks])),
        "mask": torch.from_numpy(mask),
        "step_tokens": step_tokens,
    }
    if document_mask:
        batch["positions"] = torch.from_numpy(np.stack([block.positions() for block in blocks]))
    return batch


def _as_is(batch: Any) -> Any:
    """Returns the batch unchanged, because `__getitems__` has already made it."""
    return batch


class Blocks(L.LightningDataModule):
    """The training blocks and the held-out blocks of a run.

    The module keeps no state. The trainer's step determines where the data continues.

    Args:
        train: The view that the model is trained on.
        heldout: The view of the held-out documents; `None` if there are none.
        batch: Blocks in an optimizer step, over all processes.
        micro_batch: Blocks in a forward pass of one process.
        first_block: Index of the first block of the run in the sequence of blocks.
        heldout_blocks: Blocks in each held-out measurement.
        num_workers: Loading processes for each training process.
        document_mask: Whether batches contain positions that restart at each document.
        distinct_steps: The blocks repeat after this many steps (to overfit them); `None` for never.
    """

    def __init__(
        self,
        train: PackedView | Phases,
        heldout: PackedView | None,
        *,
        batch: int,
        micro_batch: int,
        first_block: int,
        heldout_blocks: int,
        num_workers: int,
        document_mask: bool = False,
        distinct_steps: int | None = None,
    ):
        super().__init__()
        self.train = train
        self.heldout = heldout
        self.batch = batch
        self.micro_batch = micro_batch
        self.first_block = first_block
        self.heldout_blocks = heldout_blocks
        self.num_workers = num_workers
        self.document_mask = document_mask
        self.distinct_steps = distinct_steps

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        sampler = StepBlocks(
            self.first_block,
            self.batch,
            self.micro_batch,
            self.trainer.global_rank,
            self.trainer.world_size,
            first_step=self.trainer.global_step,
            distinct_steps=self.distinct_steps,
        )
        return DataLoader(
            TrainingBlocks(self.train, self.first_block, self.batch, self.document_mask),
            batch_sampler=sampler,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        if self.heldout is None:
            return []
        assert self.trainer is not None
        dataset = HeldoutBlocks(self.heldout, self.heldout_blocks, self.document_mask)
        world_size = self.trainer.world_size
        # Every process gets the same number of blocks; otherwise one would wait for the others.
        even = -(-dataset.num_blocks // world_size) * world_size
        mine = range(self.trainer.global_rank, even, world_size)
        batches = [list(mine[i : i + self.micro_batch]) for i in range(0, len(mine), self.micro_batch)]
        return DataLoader(dataset, batch_sampler=batches, collate_fn=_as_is)
