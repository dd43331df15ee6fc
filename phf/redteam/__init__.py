"""Attacks on a model: prompts that make it misbehave, and finetuning that undoes what it has learned."""
