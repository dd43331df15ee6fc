"""How often a model misbehaves: generation, scenarios, metrics, report."""
