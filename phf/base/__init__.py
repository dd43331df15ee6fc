"""Holds what all rooms share: errors, atomic files, locks, resumable work, estimates with intervals."""
