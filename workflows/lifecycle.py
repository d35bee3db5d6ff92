"""From ingested tables to a certified, registered, released model: the same for every use case."""

from datetime import datetime
from typing import NamedTuple

from flytekit import conditional, workflow

from feature_repo.tables import Table
from tasks.certify import certify
from tasks.conclude import conclude
from tasks.evaluate import evaluate
from tasks.export import export_model
from tasks.gate import judge
from tasks.launch import check_launch
from tasks.materialise import materialise_online
from tasks.model_card import write_card
from tasks.promotion import promote_released
from tasks.record import record_training
from tasks.registry import find_champion, register
from tasks.release import release
from tasks.train import train_on_nodes, train_one_process, train_two_ranks
from tasks.training_set import (
    build_features,
    build_training_set,
    check_split,
    confirm_with_feast,
)
from tasks.types import SourceFile, State, Step, TrainingConfig


class Flown(NamedTuple):
    """What a pipeline ends with: the version, its certificate, whether it was released, and the
    training's last checkpoint."""

    version: str
    certificate: str
    checkpoint: str
    passed: bool
    summary: str


@workflow
def lifecycle(
    state: State,
    execution: str,
    began: str,
    use_case: str,
    declaration: str,
    files: list[SourceFile],
    source_digest: str,
    rows_read: int,
    rows_quarantined: int,
    tables: list[Table],
    quarantine: Table,
    ingest_step: Step,
    training_start: datetime,
    validation_start: datetime,
    test_start: datetime,
    test_end: datetime,
    launcher: str,
    config: TrainingConfig,
    promotion: str = "at-once",
    resume_from: str = "",
    checkpoint_steps: int = 0,
) -> Flown:
    """Features, training set, training, judging, certificate, registry, release, report.

    Args:
        state: home of all state, from ``open_state``.
        execution: id of this execution.
        began: when it began (ISO, UTC); steps finished earlier came from the cache.
        use_case: name in ``feature_repo.registry``.
        declaration: digest of the use case's declaration and code.
        files: raw files as read.
        source_digest: digest of all of them.
        rows_read: rows in them.
        rows_quarantined: rows of them that broke their contract.
        tables: clean tables.
        quarantine: rows that broke their contract.
        ingest_step: record of the ingestion.
        training_start: first instant of the training part.
        validation_start: its end, and the start of the validation part.
        test_start: end of the validation part, and the start of the test part.
        test_end: end of the test part.
        launcher: one-process, two-ranks or nodes.
        config: hyper-parameters.
        promotion: at-once, or in-steps: the champion stays until a release in steps.
        resume_from: a checkpoint, or a run's folder of them, with which training begins.
        checkpoint_steps: steps between two checkpoints within an epoch; 0: at its end only.
    """
    launch = check_launch(launcher=launcher, promotion=promotion, checkpoint_steps=checkpoint_steps)
    checked = check_split(
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
    confirmed = confirm_with_feast(
        state=state,
        use_case=use_case,
        declaration=declaration,
        views=features.views,
        training_set=training.training_set,
    )
    inputs = {
        "state": state,
        "use_case": use_case,
        "declaration": declaration,
        "training_set": training.training_set,
        "config": config,
        "resume_from": resume_from,
        "checkpoint_steps": checkpoint_steps,
    }
    trained = (
        conditional("launcher")
        .if_(launcher == "one-process")
        .then(train_one_process(**inputs))
        .elif_(launcher == "two-ranks")
        .then(train_two_ranks(**inputs))
        .elif_(launcher == "nodes")
        .then(train_on_nodes(**inputs))
        .else_()
        .fail("launcher must be one-process, two-ranks or nodes")
    )
    recorded = record_training(
        state=state,
        use_case=use_case,
        trained=trained.trained,
        training_set=training.training_set,
        config=config,
        metrics=trained.metrics,
    )
    exported = export_model(
        state=state, use_case=use_case, declaration=declaration, trained=trained.trained
    )
    champion = find_champion(state=state, use_case=use_case, model=exported.model)
    evaluated = evaluate(
        state=state,
        use_case=use_case,
        declaration=declaration,
        model=exported.model,
        training_set=training.training_set,
        champion=champion,
    )
    judged = judge(
        state=state,
        use_case=use_case,
        declaration=declaration,
        evaluation=evaluated.evaluation,
    )
    card = write_card(
        state=state,
        use_case=use_case,
        declaration=declaration,
        model=exported.model,
        evaluation=evaluated.evaluation,
        verdicts=judged.verdicts,
        tables=tables,
        quarantine=quarantine,
        training_set=training.training_set,
    )
    certified = certify(
        state=state,
        use_case=use_case,
        execution=execution,
        model=exported.model,
        evaluation=evaluated.evaluation,
        card=card.card,
        trained=trained.trained,
        verdicts=judged.verdicts,
        passed=judged.passed,
        sources=files,
        tables=tables,
        quarantine=quarantine,
        views=features.views,
        training_set=training.training_set,
        split_dates=[training_start, validation_start, test_start, test_end],
        steps=[
            ingest_step,
            features.step,
            training.step,
            confirmed.step,
            trained.step,
            exported.step,
            evaluated.step,
            judged.step,
            card.step,
        ],
    )
    registered = register(
        state=state,
        use_case=use_case,
        certified=certified.certified,
        trained=trained.trained,
        execution=execution,
    )
    recorded >> registered.step
    online = materialise_online(
        state=state,
        use_case=use_case,
        views=features.views,
        training_set=training.training_set,
        passed=judged.passed,
    )
    released = release(
        state=state,
        use_case=use_case,
        model_dir=certified.certified.model_dir,
        views=features.views,
        training_set=training.training_set,
        passed=judged.passed,
    )
    online >> released  # the server reads the online store
    registered >> released
    promoted = promote_released(
        state=state,
        use_case=use_case,
        version=certified.certified.version,
        passed=judged.passed,
        promotion=promotion,
    )
    released >> promoted
    summary = conclude(
        state=state,
        execution=execution,
        began=began,
        use_case=use_case,
        source_digest=source_digest,
        rows_read=rows_read,
        rows_quarantined=rows_quarantined,
        tables=tables,
        quarantine=quarantine,
        training_set=training.training_set,
        rows=training.rows,
        evaluation=evaluated.evaluation,
        verdicts=judged.verdicts,
        certified=certified.certified,
        released=released.release,
        steps=[
            ingest_step,
            features.step,
            training.step,
            confirmed.step,
            trained.step,
            exported.step,
            evaluated.step,
            judged.step,
            card.step,
            certified.step,
            registered.step,
            online.step,
            released.step,
            promoted.step,
        ],
    )
    return Flown(
        certified.certified.version,
        certified.certified.certificate,
        trained.checkpoint,
        judged.passed,
        summary,
    )
