"""Blocks: what a model reads, as a pure function of an index."""
