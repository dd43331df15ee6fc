"""Pretraining objectives, from maximum likelihood (MLE) to advantage-weighted regression (AWR).

Each objective is a Lightning module in its own file: `from objectives.awr import AWR`. `objectives.engine`
holds the code that objectives share, and `objectives.head` holds the fused output head. This package imports
nothing from `phf` and can be used without it.
"""
