"""From an answer back to the raw files, and who was champion when."""

from flytekit import workflow

from tasks.audit import audit_report


@workflow
def audit(prediction_id: str = "", model: str = "") -> str:
    """Print the chain behind a prediction, the history of a model's champions, or both.

    Args:
        prediction_id: from an answer, or from a file of batch predictions.
        model: a use case, for example flights.
    """
    return audit_report(prediction_id=prediction_id, model=model)
