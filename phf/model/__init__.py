"""Loading a causal language model, giving it control tokens, exporting it."""
