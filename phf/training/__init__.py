"""The pretraining run: trainer, schedule, checkpoints, logs."""
