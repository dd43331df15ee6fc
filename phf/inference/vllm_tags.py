"""Applies the rule of tags within vLLM. vLLM imports this module by its name; it has not been run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from phf.inference.tag_rule import TagRule
from phf.inference.vllm import TAG_RULE


class TagProcessor(AdapterLogitsProcessor):
    """Applies the `TagRule` of each request that has one."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(
        self, params: Any
    ) -> Callable[[list[int], list[int], torch.Tensor], torch.Tensor] | None:
        fields = (params.extra_args or {}).get(TAG_RULE)
        if fields is None:
            return None
        rule = TagRule(
            **fields | {"tags": tuple(map(tuple, fields["tags"])), "target": tuple(fields["target"])}
        )

        def apply(prompt_ids: list[int], output_ids: list[int], logits_V: torch.Tensor) -> torch.Tensor:
            recent = [*prompt_ids, *output_ids][-rule.memory :] if rule.memory else []
            return rule.apply(logits_V[None], [recent])[0]

        return apply
