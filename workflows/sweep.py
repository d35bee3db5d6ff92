"""The search for a use case's hyper-parameters: the same for every use case."""

from datetime import datetime

from flytekit import conditional, workflow

from feature_repo.tables import Table
from tasks.launch import check_launch
from tasks.sweep import Swept, check_sweep, conclude_sweep, plan_sweep, search_here, search_on_pods
from tasks.sweeps.declared import Budget
from tasks.training_set import build_features, build_training_set, check_split
from tasks.types import State, TrainingConfig

NO_LIMIT = Budget()
OWN_SPACE: dict[str, str] = {}


@workflow
def search(
    state: State,
    use_case: str,
    declaration: str,
    rows_read: int,
    tables: list[Table],
    quarantine: Table,
    training_start: datetime,
    validation_start: datetime,
    test_start: datetime,
    test_end: datetime,
    config: TrainingConfig,
    space: dict[str, str],
    own: dict[str, dict[str, str]],
    trials: int,
    workers: int,
    budget: Budget,
    where: str,
    launcher: str,
    promotion: str,
) -> Swept:
    """Features and training set as ``lifecycle`` makes them, then trials on it: the config with
    the lowest validation loss. The test part is not looked at.

    Args:
        state: home of all state, from ``open_state``.
        use_case: name in ``feature_repo.registry``.
        declaration: digest of the use case's declaration and code.
        rows_read: rows in the raw files.
        tables: clean tables.
        quarantine: rows that broke their contract.
        training_start: first instant of the training part.
        validation_start: its end, and the start of the validation part.
        test_start: end of the validation part.
        test_end: end of the test part.
        config: hyper-parameters; those that are searched have other values.
        space: ranges and choices by field; empty: ``own``.
        own: the use case's spaces, by model.
        trials: how many end, complete or pruned.
        workers: how many train at once.
        budget: beside the number of trials.
        where: processes, or pods.
        launcher: of the winner's training, which comes after: checked before it is too late.
        promotion: of its model; checked as well.
    """
    launch = check_launch(launcher=launcher, promotion=promotion, checkpoint_steps=0)
    checked = check_sweep(
        config=config,
        space=space,
        own=own,
        trials=trials,
        workers=workers,
        budget=budget,
        where=where,
    )
    split = check_split(
        use_case=use_case,
        declaration=declaration,
        tables=tables,
        training_start=training_start,
        validation_start=validation_start,
        test_start=test_start,
        test_end=test_end,
    )
    features = build_features(
        state=state,
        use_case=use_case,
        declaration=declaration,
        tables=tables,
        quarantine=quarantine,
        rows_read=rows_read,
    )
    launch >> features.step
    checked >> features.step
    split >> features.step
    training = build_training_set(
        state=state,
        use_case=use_case,
        declaration=declaration,
        tables=tables,
        views=features.views,
        training_start=training_start,
        validation_start=validation_start,
        test_start=test_start,
        test_end=test_end,
    )
    sweep = plan_sweep(
        state=state,
        use_case=use_case,
        declaration=declaration,
        training_set=training.training_set,
        config=config,
        space=checked,
        trials=trials,
        budget=budget,
    )
    ended = (
        conditional("where")
        .if_(where == "processes")
        .then(search_here(state=state, sweep=sweep, workers=workers))
        .elif_(where == "pods")
        .then(search_on_pods(state=state, sweep=sweep, workers=workers))
        .else_()
        .fail("where must be processes or pods")
    )
    swept = conclude_sweep(state=state, sweep=sweep, ended=ended)
    return Swept(swept.config, swept.report, swept.step)
