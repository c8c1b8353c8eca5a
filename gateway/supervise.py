"""The only restart policy: run a task, restart it when it fails, ever more slowly; and one such task for each key. (T)

Whatever a background task does wrong, the process goes on; cancellation is never delayed or swallowed.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, KeysView, MutableMapping
from typing import Generic, TypeVar, TypeVarTuple

import trio

Ts = TypeVarTuple("Ts")
Key = TypeVar("Key", bound=Hashable)

_log = logging.getLogger("infer_gateway.supervise")


async def supervise(
    fn: Callable[[*Ts], Awaitable[object]],
    *args: *Ts,
    name: str,
    expected: tuple[type[Exception], ...] = (OSError,),
    base: float = 0.1,
    ceiling: float = 30.0,
    healthy: float | None = None,
    rng: random.Random | None = None,
    counts: MutableMapping[str, int] | None = None,
) -> None:
    """Run ``fn(*args)`` until it returns, restarting it after every error.

    The n-th restart in a row waits ``base * 2**n`` seconds, at most ``ceiling``, less a random part of up to half of it
    so that replicas do not return in step. A run of at least ``healthy`` seconds (``ceiling`` by default) starts over
    at ``base``. ``expected`` errors, also in groups of nothing else, are logged as one line, others with their
    traceback; a repetition of the same error is not logged again until a healthy run lies between.
    ``counts[name]`` grows by one with every restart. Only exceptions that are not `Exception` leave: when a cancelled
    ``fn`` also fails, its errors are logged and the cancellation alone goes on.
    """
    backoff: _Backoff | None = None
    last = ""
    while True:
        began = trio.current_time()
        try:
            await fn(*args)
            return
        except BaseExceptionGroup as group:
            error, rest = group.split(Exception)
            if rest is not None:
                if error is not None:
                    _report(name, error, expected, "while being cancelled")
                raise rest from None
            assert error is not None  # a split leaves at least one half
            failure: Exception = error
        except Exception as error:  # noqa: BLE001 — the one place whose purpose this is
            failure = error
        if trio.current_time() - began >= (ceiling if healthy is None else healthy):
            backoff = None
            last = ""
        if (described := describe(failure)) != last:
            _report(name, failure, expected, "and is restarted")
            last = described
        del failure  # its traceback holds the frames of the failed run
        if counts is not None:
            counts[name] = counts.get(name, 0) + 1
        if backoff is None:  # only now: most never fail, and a source of randomness takes 2.5 kB
            backoff = _Backoff(base, ceiling, random.Random() if rng is None else rng)
        await trio.sleep(backoff.next())


class Loops(Generic[Key]):
    """One supervised task per key, begun and cancelled as keys come and go: what hangs in one delays no other.

    ``work(key)`` is what a task does, ``name(key)`` what logs call it; ``counts`` as in `supervise`.
    """

    def __init__(
        self,
        work: Callable[[Key], Awaitable[object]],
        name: Callable[[Key], str],
        counts: MutableMapping[str, int] | None = None,
    ) -> None:
        self._work = work
        self._name = name
        self._counts = counts
        self._scopes: dict[Key, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def keys(self) -> KeysView[Key]:
        return self._scopes.keys()

    async def run(self) -> None:
        """Until cancelled. Keys given to `keep` before are worked on from now on."""
        async with trio.open_nursery() as self._nursery:
            for key, scope in self._scopes.items():
                self._nursery.start_soon(self._loop, key, scope)
            await trio.sleep_forever()

    def keep(self, keys: Iterable[Key]) -> set[Key]:
        """Work on these from now on, and on no others; the ones given up."""
        wanted = dict.fromkeys(keys)
        gone = self._scopes.keys() - wanted.keys()
        for key in gone:
            self._scopes.pop(key).cancel()
        for key in wanted:
            if key in self._scopes:
                continue
            scope = self._scopes[key] = trio.CancelScope()
            if self._nursery is not None:
                self._nursery.start_soon(self._loop, key, scope)
        return gone

    async def _loop(self, key: Key, scope: trio.CancelScope) -> None:
        with scope:
            await supervise(self._work, key, name=self._name(key), counts=self._counts)


class _Backoff:
    """Exponential delays with jitter."""

    def __init__(self, base: float, ceiling: float, rng: random.Random) -> None:
        self._ceiling = ceiling
        self._rng = rng
        self._delay = base

    def next(self) -> float:
        delay, self._delay = self._delay, min(self._delay * 2, self._ceiling)
        return min(delay, self._ceiling) * self._rng.uniform(0.5, 1.0)


def describe(error: BaseException) -> str:
    """One line for any error; of a group, its members at any depth, equal ones once."""
    return "; ".join(dict.fromkeys(_described(error)))


def _described(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _described(member)
    else:
        text = str(error)
        yield f"{type(error).__name__}: {text}" if text else type(error).__name__


def _report(name: str, error: Exception, expected: tuple[type[Exception], ...], what: str) -> None:
    if _is_expected(error, expected):
        _log.warning("%s failed %s: %s", name, what, describe(error))
    else:
        _log.error("%s failed %s: %s", name, what, describe(error), exc_info=error)


def _is_expected(error: BaseException, expected: tuple[type[Exception], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_expected(member, expected) for member in error.exceptions)
    return isinstance(error, expected)
