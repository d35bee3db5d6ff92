"""Every error the platform raises on purpose: one root, a few named children.

A message names the thing, the rule it broke and the way out. Errors cross process borders
(torch's elastic launcher, flytekit), so each is built from plain strings and pickles as it is.
"""


class AirworthyError(Exception):
    """Root of every error that a user of the platform is meant to read."""


class DeclarationError(AirworthyError):
    """A use case is declared in a way that cannot work (unknown column, duplicate name, …)."""


class SourceError(AirworthyError):
    """Raw data breaks its contract: names file, column, rule, count and three example rows."""


class FreshnessError(AirworthyError):
    """An event log is older than it promises: names the raw tables that it reads, and its age."""


class StateError(AirworthyError):
    """The home (tables, stores, locks) is not as it should be."""


class SkewError(AirworthyError):
    """Two computations of the same feature row, or of the same prediction, disagree."""


class TrainingError(AirworthyError):
    """A training run cannot go on, or must not: no rows, a loss that is not finite, …"""


class DivergedError(TrainingError):
    """A training went bad by its hyper-parameters or rows: a loss that is not finite, a spike."""


class CheckpointError(AirworthyError):
    """A checkpoint is not whole, or belongs to another training: names the file or the field."""


class CertificateError(AirworthyError):
    """A model may not fly: names the file or the rule, and what to do."""


class PromotionError(AirworthyError):
    """A model version may not be given the alias that was asked for."""


class LedgerError(AirworthyError):
    """The ledger was changed, cut or reordered: names the line."""


class ManifestError(AirworthyError):
    """A KServe or Kubeflow manifest breaks its schema or the webhook's rules."""


class RequestError(AirworthyError):
    """A prediction request is refused: carries the HTTP status and the field at fault."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(status, field, message)
        self.status = status
        self.field = field
        self.message = message

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message
