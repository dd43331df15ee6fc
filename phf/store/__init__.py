"""Makes and reads token stores: tokenized documents and their scores as memory-mapped arrays."""
