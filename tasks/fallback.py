"""The training of a use case: its model and, where it declares one, the fallback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from feature_repo.fallback import fallback_reasons, request_only
from serving.artifact import FALLBACK
from tasks.fit import Fitted, fit, save
from tasks.training.ranks import process_group

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.tables import Table
    from tasks.training.attempts import Attempt
    from tasks.training.loop import Watch
    from tasks.types import TrainingConfig

EPOCHS = 3


def fit_all(
    use_case: UseCase,
    table: Table,
    config: TrainingConfig,
    say: Callable[[str], None],
    attempt: Attempt | None = None,
    watch: Watch | None = None,
) -> tuple[Fitted, Fitted | None]:
    """The model, which ``watch`` looks on, and the fallback or None; for errors see ``fit``."""
    with process_group():
        fitted = fit(use_case, table, config, say, attempt=attempt, watch=watch)
        if not fallback_reasons(use_case):
            return fitted, None
        return fitted, fit(
            request_only(use_case),
            table,
            fallback_config(config),
            lambda message: say(f"fallback, {message}"),
            attempt=attempt.of("fallback") if attempt else None,
        )


def fallback_config(config: TrainingConfig) -> TrainingConfig:
    """The fallback's hyper-parameters: its few inputs are soon learned by a small MLP."""
    epochs = min(config.epochs, EPOCHS)
    return replace(
        config, model="mlp", epochs=epochs, width=64, layers=2, dropout=0.1, averaging=0.0
    )


def save_all(fitted: Fitted, fallback: Fitted | None, config: TrainingConfig, folder: Path) -> None:
    """Write the model as ``save`` does, and the fallback into a folder of its own within."""
    save(fitted, config, folder)
    if fallback is not None:
        (folder / FALLBACK).mkdir()
        save(fallback, fallback_config(config), folder / FALLBACK)
