"""Sweeps: the search for hyper-parameters by workers that share one Optuna study (ADR 0020)."""
