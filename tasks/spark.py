"""The feature views on Spark: a task for a cluster with Flyte's Spark plugin (extra ``spark``).

No workflow imports this module, so nothing else needs the plugin.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from flytekit import current_context, task
from flytekitplugins.spark import Spark

from feature_repo.offline import LIBRARIES
from feature_repo.registry import get_use_case
from feature_repo.tables import Table
from tasks.cache import code_cache
from tasks.resources import DATA
from tasks.steps import step
from tasks.training_set import FEATURE_CODE, Features, last_read, take_in_streamed
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
    state: State,
    use_case: str,
    declaration: str,
    tables: list[Table],
    quarantine: Table,
    rows_read: int,
    as_of: datetime | None = None,
) -> Features:
    """What ``build_features`` does, every view computed from the start, on Spark: the same inputs,
    the same tables, the next version of the same offline store."""
    from feature_repo.offline import Origin, update
    from feature_repo.spark import build_views_on_spark

    home, declared = state.home(), get_use_case(use_case)
    until = last_read(declared, as_of)
    spark = current_context().spark_session
    with step("features") as s:
        version = update(
            home, declared, tables, Origin(quarantine=quarantine, rows_read=rows_read), until=until,
            build=lambda: build_views_on_spark(spark, home, declared, tables, until),
        )  # fmt: skip
        views = version.built.views
        take_in_streamed(home, declared, s)
        s.say(f"{len(declared.features)} features in {len(views)} views, {version.summary}")
    return Features(views, s.record)
