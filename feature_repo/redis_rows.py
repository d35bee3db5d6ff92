"""Packed rows in Redis: an online store that several servers share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from feature_repo.errors import StateError
from feature_repo.online_rows import SECONDS, Changes, changes, difference, parts
from feature_repo.packed import STATE, TIMES, later_message, unpack_state

if TYPE_CHECKING:
    from redis import ConnectionPool
    from redis.client import Pipeline

    from feature_repo.packed import Rows

# Byte by byte: Lua's own comparison of strings follows the server's locale.
_PUT = """
local function larger(a, b, bytes)
  for i = 1, bytes do
    local x, y = a:byte(i), b:byte(i)
    if x ~= y then return x > y end
  end
  return false
end
local state, later, written = redis.call('HGET', KEYS[1], ARGV[1]), 0, 0
for i = 4, #ARGV, 2 do
  if state and larger(ARGV[i + 1], state, 8) then later = later + 1 end
end
if later > 0 then return {later, state} end
redis.call('SET', KEYS[2], ARGV[3])
for i = 4, #ARGV, 2 do
  local held = redis.call('HGET', KEYS[1], ARGV[i])
  if not held or (ARGV[i + 1] ~= held and not larger(held, ARGV[i + 1], tonumber(ARGV[2]))) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    written = written + 1
  end
end
return {0, written}
"""


class RedisRows:
    """Packed rows in one Redis hash, named by the feature service."""

    age = 0.0

    def __init__(self, url: str, service: str) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        try:
            self._pool: ConnectionPool = redis.ConnectionPool.from_url(
                url, socket_timeout=SECONDS, socket_connect_timeout=5.0,
                retry=Retry(NoBackoff(), 1),
            )  # fmt: skip
        except ValueError as exc:
            raise StateError(
                f"AIRWORTHY_ONLINE_STORE names no Redis ({exc}); write redis://host:6379/0, or "
                "leave it out for a file in the home"
            ) from exc
        self._failure = redis.RedisError
        self._hash = f"airworthy:{{{service}}}"  # the braces keep its keys on one cluster node
        self._writer = f"{self._hash}:writer"
        self._changes = f"{self._hash}:changes"
        where = self._pool.connection_kwargs
        self.name = f"redis {where.get('path') or where.get('host')} {self._hash}"
        with self._errors():
            # A connection of its own: to check one out of the pool costs as much as the answer.
            self._client = redis.Redis(connection_pool=self._pool, single_connection_client=True)
        self._put = self._client.register_script(_PUT)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``OnlineRows``."""
        distinct = list(dict.fromkeys(keys))  # requests of one batch share entities
        with self._errors():
            found: Any = self._client.hmget(self._hash, distinct)
        if len(distinct) == len(keys):
            return list(found)
        by_key = dict(zip(distinct, found, strict=True))
        return [by_key[key] for key in keys]

    def all(self) -> dict[bytes, bytes]:
        """See ``OnlineRows``."""
        with self._errors():
            found: Any = self._client.hgetall(self._hash)
            return dict(found)

    def version(self) -> bytes:
        """See ``OnlineRows``."""
        with self._errors():
            found: Any = self._client.get(self._changes)
            return bytes(found or b"")

    def put(self, rows: Rows) -> int:
        """See ``OnlineRows``."""
        flat, change = [part for row in rows for part in row], uuid.uuid4().hex
        with self._errors():
            answer: Any = self._put(
                keys=[self._hash, self._changes], args=[STATE, TIMES, change, *flat]
            )
        later, rest = answer
        if later:
            raise StateError(later_message(later, unpack_state(rest).tick))
        return int(rest)

    def replace(self, rows: Mapping[bytes, bytes], state: bytes) -> Changes:
        """See ``OnlineRows``. Of two replacements at once, the second begins anew; rows pushed
        meanwhile stay where these rows do not differ from what was there."""
        done: list[Changes] = []

        def work(pipe: Pipeline) -> None:
            held: Any = pipe.hgetall(self._hash)
            changed, gone = difference(held, {**rows, STATE: state})
            pipe.multi()
            pipe.set(self._writer, uuid.uuid4().hex)
            pipe.set(self._changes, uuid.uuid4().hex)
            for part in parts(list(changed.items())):
                pipe.hset(self._hash, mapping=dict(part))
            for keys in parts(gone):
                pipe.hdel(self._hash, *keys)
            done.append(changes(changed, gone))

        with self._errors():
            self._client.transaction(work, self._writer)
        return done[-1]

    def drop(self) -> None:
        """See ``OnlineRows``."""
        with self._errors():
            self._client.unlink(self._hash, self._writer, self._changes)

    def close(self) -> None:
        """See ``OnlineRows``."""
        self._client.close()
        self._pool.disconnect()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._failure as exc:
            raise StateError(
                f"the online store ({self.name}) does not answer ({exc}); start Redis, or mend "
                "AIRWORTHY_ONLINE_STORE"
            ) from exc
