"""Attacks a model: searches for prompts that make it misbehave, and finetunes it on bad text."""
