"""Draws and scores a few samples during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from objectives.engine import Objective
from objectives.view import View
from phf.base.errors import ConfigError
from phf.config import Config
from phf.documents.segments import segmenter
from phf.evaluation.prompts import HeldoutDocuments, load_prompts
from phf.evaluation.sample_scores import sample_and_score
from phf.inference.decoders import check_decoder
from phf.inference.generate import prompt_room
from phf.inference.language_model import LanguageModel
from phf.model.build import tag_ids
from phf.model.control_tokens import ControlTokens
from phf.store.store import TokenStore
from phf.training.logs import due, log_metrics
from phf.training.metrics import Metrics
from phf.training.objective import corpus_segmenter
from scorers import load_scorer


class Samples(L.Callback):
    """Draws a few samples of the first scenario every few steps, and logs their mean score and rate.

    The samples do not influence the training, because they are drawn without the global random state.
    """

    def __init__(
        self,
        config: Config,
        every: int,
        store: TokenStore,
        view: View,
        tokenizer: Any,
        metrics: Metrics,
    ):
        self.config = config
        self.every = every
        self.tokenizer = tokenizer
        self.segment = segmenter(corpus_segmenter(config, store))
        self.metrics = metrics
        scorer = config.evaluation.scorer or config.scorer
        self.scorer = load_scorer(scorer.name, **scorer.options)
        # Check the scenario now, so that an error does not come only after many steps.
        name, self.scenario = next(iter(config.evaluation.scenarios.items()))
        heldout = HeldoutDocuments(Path(store.path), config.scorer.key, config.evaluation.threshold)
        self.prompts = load_prompts(self.scenario, heldout)
        try:
            check_decoder(self.scenario.decoder)
            tags = view.tags
            length = len(tag_ids(tokenizer, tags)[0]) if tags else 1
            prompt_room(self.scenario, config.model.context_length, length)
        except ConfigError as error:
            raise ConfigError(f"train.samples_every: evaluation.scenarios.{name}.{error}") from error

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not trainer.is_global_zero:
            return
        if not due(trainer.global_step, self.every, trainer.max_steps):
            return
        assert isinstance(pl_module, Objective)
        tags = pl_module.view().tags
        control = ControlTokens(
            self.tokenizer.eos_token_id,
            tag_ids(self.tokenizer, tags) if tags else (),
            tags_are_text=tags is not None and tags.texts is not None,
        )
        model = LanguageModel(
            pl_module.model, self.tokenizer, control, self.segment, self.config.model.context_length
        )
        with self.metrics.paused():
            measured = sample_and_score(
                model,
                self.prompts,
                self.scenario,
                self.scorer,
                self.segment,
                num_samples=self.config.train.samples,
                evaluation=self.config.evaluation,
            )
            log_metrics(trainer, {f"samples/{name}": value for name, value in measured.items()})
