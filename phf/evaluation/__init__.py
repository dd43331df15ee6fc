"""Measures how often a model misbehaves: prompts, scored samples, measures, results."""
