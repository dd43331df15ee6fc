"""Builds the objective, the model and the blocks of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from objectives.engine import Objective
from objectives.optimization import Optimization
from objectives.view import View
from phf.base.errors import ConfigError, PhfError
from phf.blocks.curriculum import Phases, in_phases
from phf.blocks.datamodule import Blocks
from phf.blocks.packed import PackedView
from phf.config import Config
from phf.model.build import add_control_tokens, build_model, tag_ids
from phf.store.store import Split, TokenStore
from phf.training.objective import build_objective


def build(config: Config, store: TokenStore, optimization: Optimization | None) -> tuple[Objective, Any]:
    """Builds the objective with its model, and the tokenizer with the control tokens of the objective's view.

    Raises:
        ConfigError: An option contradicts another option or the store.
        PhfError: The model cannot be loaded, or the store lacks scores that the objective needs.
    """
    tokenizer = store.tokenizer()
    model = build_model(config.model, tokenizer, config.train.seed)
    objective = build_objective(config, store, model, optimization)
    tags = objective.view().tags
    if tags is not None and tags.texts is None:
        # The outermost tags come first, so that their ids do not depend on the number of tags between them.
        best, *between, worst = tags.names
        add_control_tokens(
            model, tokenizer, (best, worst, *between), config.train.seed, config.model.start_from
        )
    return objective, tokenizer


def training_data(
    config: Config, store: TokenStore, objective: Objective, tokenizer: Any, micro_batch: int
) -> Blocks:
    """Builds the training blocks and the held-out blocks of a run, as the objective sees them.

    Raises:
        PhfError: The store has no scores of the configured scorer, and the objective needs them.
    """
    view = objective.view()
    scorer = config.scorer.key if config.scorer.key in store.scorers else None
    if scorer is None and objective.needs(objective.options).scores:
        raise PhfError(
            f"{store.path} has no scores of {config.scorer.key}, only {', '.join(store.scorers) or 'none'}: "
            "annotate the documents with that scorer and tokenize again"
        )
    ids = tag_ids(tokenizer, view.tags) if view.tags else ()

    def packed(view: View, split: Split = "train", **options: Any) -> PackedView:
        return PackedView(
            store.split(split),
            view,
            scorer=scorer,
            context_length=config.model.context_length,
            seed=config.train.seed,
            eos_id=tokenizer.eos_token_id,
            tag_ids=ids,
            **options,
        )

    # Held-out text is never filtered, and all of its tags are kept. Its loss is split at the threshold by
    # the kind of scores that the objective compares with the threshold: those of segments or of documents.
    by_document = objective.needs(objective.options).threshold == "documents"
    documents = store.split("heldout").num_documents
    heldout = View(tags=replace(view.tags, drop_rate=0.0) if view.tags else None)
    return Blocks(
        _train_view(config, view, packed),
        packed(heldout, "heldout", shuffle=False, document_scores=by_document) if documents else None,
        batch=config.train.batch_size,
        micro_batch=micro_batch,
        first_block=config.train.tokens_seen // config.model.context_length,
        heldout_blocks=config.train.heldout_blocks,
        num_workers=config.train.num_workers,
        document_mask=config.model.document_mask,
        distinct_steps=config.train.overfit_steps,
    )


def _train_view(config: Config, view: View, packed: Callable[..., PackedView]) -> PackedView | Phases:
    """Returns the blocks to train on: in phases if the run, or an earlier one, also reads plain text."""
    objective, train, length = config.objective, config.train, config.model.context_length
    if view == View():
        for option in ("start", "cooldown"):
            if getattr(objective, option):
                raise ConfigError(
                    f"objective.{option}: with {objective.name} the text is plain anyway; leave it out"
                )
        return packed(view)
    seen = train.tokens_seen // length
    return in_phases(
        packed,
        view,
        begin=max(seen, round(objective.start * train.tokens) // length),
        end=round((1 - objective.cooldown) * train.tokens) // length if objective.cooldown else None,
        seen=seen,
    )
