"""An experiment in the request path: its arms answer its units, and a first exposure is on record.

A request takes part by the header ``x-airworthy-arm``, which the caller, or the proxy in front of
it, made from the unit's salted hash. Here the hash is made again: a request whose arm is another
one, or is not up here, is refused with 421 (misdirected) and counted, so nobody sees an arm that
the analysis does not know of. A request without the header is answered as ever, outside of the
experiment; counting some of those in would bias the arms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from feature_repo.errors import DeclarationError, RequestError
from serving.assignment import HEADER, assign, unit_of
from serving.experiment import load
from serving.exposures import ExposureLog
from serving.vectors import Vectors

if TYPE_CHECKING:
    from feature_repo.contract import UseCase
    from feature_repo.home import Home
    from serving.bodies import Headers
    from serving.models import Models
    from serving.requests import Question
    from serving.service import Service

_HEADER = HEADER.encode()
OUTSIDE, ENROLLED, MISDIRECTED = "outside", "enrolled", "misdirected"


class Enrolment:
    """The units of one begun experiment that one server answers. ``counts``: requests so far.

    Raises:
        DeclarationError: it has not begun, or its unit is no text of the use case's requests.
    """

    def __init__(self, home: Home, use_case: UseCase, name: str) -> None:
        self.experiment = load(home, name)
        texts = {field.name for field in use_case.fields if field.dtype == "string"}
        if not texts.issuperset(self.experiment.unit):
            raise DeclarationError(
                f"experiment {name!r} assigns by {', '.join(self.experiment.unit)}; requests of "
                f"{use_case.name!r} have these texts: {', '.join(sorted(texts))}"
            )
        self.counts = dict.fromkeys((OUTSIDE, ENROLLED, MISDIRECTED), 0)
        self._log = ExposureLog(home, self.experiment)

    def enrol(
        self, models: Models, service: Service, headers: Headers, question: Question,
        version: str = "",
    ) -> tuple[Service, Sequence[str]]:  # fmt: skip
        """Whose arm answers a request, and its units; of one outside, ``service`` and no units.
        ``version``: which the caller asked for, where one is named.

        Raises:
            RequestError: 421 it belongs to another arm or server, 422 its units are not told.
        """
        told = headers.get(_HEADER)
        if told is None:
            self.counts[OUTSIDE] += 1
            return service, ()
        try:
            units = self._units(question, told.decode("latin-1"))
            service = self._arm(models, service, told.decode("latin-1"), version)
        except RequestError:
            self.counts[MISDIRECTED] += 1
            raise
        self.counts[ENROLLED] += 1
        return service, units

    async def exposed(self, units: Sequence[str], recorded: Awaitable[None] | None) -> None:
        """Return when the answer is recorded and its units' first exposures are.

        Raises:
            StateError: one of them cannot be.
        """
        if recorded is not None:
            await recorded
        now = datetime.now(timezone.utc)
        if fresh := self._log.fresh(units, now):  # a file's write is none of the loop's business
            await asyncio.to_thread(self._expose, fresh, now)

    def close(self) -> None:
        """Have the exposures on disk."""
        self._log.close()

    def _expose(self, units: Sequence[str], now: datetime) -> None:
        for unit in units:
            self._log.expose(unit, now)

    def _units(self, question: Question, told: str) -> list[str]:
        if isinstance(question, Vectors):
            raise RequestError(
                422, HEADER, f"a vector does not tell {', '.join(self.experiment.unit)}, by which "
                f"{self.experiment.name!r} assigns; ask by fields, or without this header",
            )  # fmt: skip
        units = []
        for position, instance in enumerate(question):
            try:
                unit = unit_of(self.experiment, instance.fields)
            except DeclarationError as exc:
                raise RequestError(422, f"instances[{position}]", str(exc)) from exc
            arm = assign(self.experiment, unit)
            if arm != told:
                raise RequestError(
                    421, HEADER, f"instances[{position}] is of unit {unit!r}, which the experiment "
                    f"{self.experiment.name!r} assigns to {arm!r}, not {told[:64]!r}; hash the "
                    "unit with the declared salt, and ask for units of one arm at a time",
                )  # fmt: skip
            units.append(unit)
        return units

    def _arm(self, models: Models, service: Service, name: str, version: str) -> Service:
        meant = self.experiment.arm(name).version
        if version not in ("", meant) or meant not in models.versions(service.name):
            raise RequestError(
                421, HEADER, f"arm {name!r} is {service.name} {meant}, but "
                f"{version or 'what is up here'} was asked; route its requests to its server",
            )  # fmt: skip
        return models.get(service.name, meant)
