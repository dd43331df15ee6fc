"""The token store: tokenized documents and their scores as memory-mapped arrays."""
