"""Packs documents into blocks that a model reads; a block is a pure function of its index."""
