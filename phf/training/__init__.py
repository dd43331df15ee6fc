"""Runs pretraining: plan, trainer, checkpoints, logs, export."""
