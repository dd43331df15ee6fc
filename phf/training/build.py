"""What a run trains, and on what: the objective with its model, and the blocks it reads."""

from __future__ import annotations

from typing import Any

from objectives import BAD_TAG, GOOD_TAG, Objective, Optimization, View
from objectives.view import Tags
from phf.config import Config
from phf.data.module import Blocks
from phf.data.packed import PackedView
from phf.data.store import Split, TokenStore
from phf.errors import PhfError
from phf.model.build import add_control_tokens, build_model
from phf.training.objective import build_objective


def build(config: Config, store: TokenStore, optimization: Optimization | None) -> tuple[Objective, Any]:
    """The objective of a run with its model, and the tokenizer with the control tokens of its view.

    Raises:
        ConfigError: An option contradicts another, or the store.
        PhfError: The model cannot be loaded, or the store lacks what the objective needs.
    """
    tokenizer = store.tokenizer()
    model = build_model(config.model, tokenizer, config.train.seed)
    objective = build_objective(config, store, model, optimization)
    if objective.view().tags is not None:
        add_control_tokens(model, tokenizer, (GOOD_TAG, BAD_TAG), config.train.seed, config.model.start_from)
    return objective, tokenizer


def training_data(
    config: Config, store: TokenStore, objective: Objective, tokenizer: Any, micro_batch: int
) -> Blocks:
    """The blocks of a run and of its held-out text, as the objective sees them.

    Raises:
        PhfError: The store has no scores of the configured scorer, and the objective needs them.
    """
    view = objective.view()
    scorer = config.scorer.key if config.scorer.key in store.scorers else None
    if scorer is None and config.objective.name != "mle":
        raise PhfError(
            f"{store.path} has no scores of {config.scorer.key}, only {', '.join(store.scorers) or 'none'}: "
            "annotate the documents with it and tokenize again"
        )
    tags = (
        [tokenizer.convert_tokens_to_ids(tag) for tag in (GOOD_TAG, BAD_TAG)] if view.tags else [None, None]
    )

    def packed(split: Split, view: View, shuffle: bool) -> PackedView:
        return PackedView(
            store.split(split),
            view,
            scorer=scorer,
            context_length=config.model.context_length,
            seed=config.train.seed,
            eos_id=tokenizer.eos_token_id,
            good_id=tags[0],
            bad_id=tags[1],
            shuffle=shuffle,
        )

    # Held-out text is never filtered, and every segment of it has its tag.
    heldout = View(tags=Tags(view.tags.threshold) if view.tags else None)
    return Blocks(
        packed("train", view, shuffle=True),
        packed("heldout", heldout, shuffle=False) if store.split("heldout").num_documents else None,
        batch=config.train.batch_size,
        micro_batch=micro_batch,
        first_block=config.train.tokens_seen // config.model.context_length,
        heldout_blocks=config.train.heldout_blocks,
        num_workers=config.train.num_workers,
        document_mask=config.model.document_mask,
        distinct_steps=config.train.overfit_batches,
    )
