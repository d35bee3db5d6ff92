"""The feature views on Spark: a task for a cluster with Flyte's Spark plugin (extra ``spark``).

No workflow imports this module, so nothing else needs the plugin.
"""

from __future__ import annotations

from datetime import timedelta

from flytekit import current_context, task
from flytekitplugins.spark import Spark

from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from tasks.cache import code_cache
from tasks.resources import DATA
from tasks.steps import step
from tasks.training_set import FEATURE_CODE, LIBRARIES, Features
from tasks.types import State


@task(
    task_config=Spark(
        spark_conf={
            "spark.driver.cores": "2",
            "spark.driver.memory": "6g",
            "spark.executor.instances": "4",
            "spark.executor.cores": "4",
            "spark.executor.memory": "12g",
        }
    ),
    cache=code_cache(*FEATURE_CODE, "feature_repo.spark", libraries=(*LIBRARIES, "pyspark")),
    requests=DATA,
    retries=2,
    timeout=timedelta(hours=3),
)
def build_features_on_spark(
    state: State, use_case: str, declaration: str, tables: list[Table]
) -> Features:
    """Compute every feature view as ``build_features`` does, on Spark: the same tables."""
    from feature_repo.spark import build_views_on_spark

    declared = get_use_case(use_case)
    with step("features") as s:
        session = current_context().spark_session
        views = build_views_on_spark(session, state.home(), declared, tables).views
        rows = sum(view.rows for view in views)
        s.say(f"{len(declared.features)} features in {len(views)} views, {rows:,} rows, on Spark")
    return Features(views, s.record)
