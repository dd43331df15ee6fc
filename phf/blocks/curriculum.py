"""Joins views into one sequence of blocks: plain text first or last, or finetuning after another run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from objectives.view import View
from phf.blocks.block import Block
from phf.blocks.packed import PackedView

Place = tuple[int, int, int]
"""A phase, an epoch of the phase's view, and a block of that epoch."""


class Phases:
    """One endless sequence of blocks, divided into successive phases.

    Args:
        views: The view of each phase. Each view counts its own blocks from 0.
        starts: Index of the first block of each phase, ascending from 0.
    """

    def __init__(self, views: Sequence[PackedView], starts: Sequence[int]):
        self.views = views
        self.starts = starts

    @property
    def learns_tags(self) -> bool:
        """Whether tags count as targets."""
        return all(view.learns_tags for view in self.views)

    @property
    def epoch_tokens(self) -> int:
        """Tokens in a whole epoch of the phase that is not plain text."""
        return next((view for view in self.views if view.view != View()), self.views[0]).epoch_tokens

    def locate(self, index: int) -> Place:
        """Returns the place of the index-th block, counted from 0."""
        phase = bisect_right(self.starts, index) - 1
        return phase, *self.views[phase].locate(index - self.starts[phase])

    def block(self, phase: int, epoch: int, i: int) -> Block:
        """Returns the block at a place."""
        return self.views[phase].block(epoch, i)

    def num_targets(self, indices: Iterable[int]) -> int:
        """Returns how many targets of these blocks of the endless sequence count; see `PackedView`."""
        by_phase: list[list[int]] = [[] for _ in self.views]
        for index in indices:
            phase = bisect_right(self.starts, index) - 1
            by_phase[phase].append(index - self.starts[phase])
        return sum(view.num_targets(mine) for view, mine in zip(self.views, by_phase, strict=True))


def in_phases(
    packed: Callable[..., PackedView], view: View, *, begin: int, end: int | None, seen: int = 0
) -> PackedView | Phases:
    """Puts plain text before and after a view.

    Args:
        packed: Makes a packed view; it must accept `after` and `stop`.
        view: The view between the two stretches of plain text.
        begin: Number of plain blocks before the view, including those that an earlier run on plain text has
            read.
        end: Index of the first block from which the text is plain again; `None` for never.
        seen: Number of blocks that the earlier run has read.
    """
    starts = [0, begin] if end is None else [0, begin, max(begin, end)]
    views: list[PackedView] = []
    first_blocks: list[int] = []
    for kind, start, stop in zip((View(), view, View()), starts, [*starts[1:], None], strict=False):
        if start == stop:
            continue
        # The earlier run did not know where it would stop, so its shuffling went beyond that block.
        known = stop is not None and not (seen and start == 0)
        views.append(
            packed(
                kind,
                after=(views[-1], start - first_blocks[-1]) if views else None,
                stop=stop - start if stop is not None and known else None,
            )
        )
        first_blocks.append(start)
    return views[0] if len(views) == 1 else Phases(views, first_blocks)
