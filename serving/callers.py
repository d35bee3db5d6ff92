"""How many requests of one caller are under way: no caller takes all of a server's concurrency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feature_repo.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Collection

    from serving.bodies import Headers


class Callers:
    """At most ``share`` requests of each caller at a time.

    A caller is known by its token, where it is one of ``tokens``, else by its address: a token
    that the server did not give out tells nobody apart, since anybody can make up one a request.
    """

    def __init__(self, share: int, tokens: Collection[str]) -> None:
        self._share = share
        self._tokens = {b"Bearer " + token.encode() for token in tokens}
        self._open: dict[bytes | str, int] = {}

    def enter(self, headers: Headers, address: str) -> bytes | str:
        """One more request; the caller, who is to ``leave`` with its answer.

        Raises:
            RequestError: 429 it would be one too many.
        """
        sent = headers.get(b"authorization", b"")
        caller = sent if sent in self._tokens else address
        under_way = self._open.get(caller, 0)
        if under_way >= self._share:
            raise RequestError(
                429, "", f"{under_way} requests of yours are under way, which is your share of "
                "this server; ask again when one is answered",
            )  # fmt: skip
        self._open[caller] = under_way + 1
        return caller

    def leave(self, caller: bytes | str) -> None:
        """One of the caller's requests is answered."""
        left = self._open[caller] - 1
        if left:
            self._open[caller] = left
        else:
            del self._open[caller]
