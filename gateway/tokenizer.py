"""Exact token counts by tokenizer files, where the configuration names some. (IO)

Invariant: nothing a client sends can hold up other requests or end the process; where counting would, there is no count
and an estimate has to do. The library is an extra, imported when the first file is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Final
from weakref import WeakValueDictionary

import trio

from gateway.config import snapshot
from gateway.threads import in_thread

INLINE: Final = 4096
"""Bytes counted at once: some 5 MB are in a second, and a millisecond is what other requests may be held up."""
LONGEST: Final = 4 * 1024 * 1024
_MODELS: Final = 1000
_log: Final = logging.getLogger("infer_gateway.tokenizer")


class Vocabulary:
    """One tokenizer. May be used by several threads at once."""

    __slots__ = ("__weakref__", "_encode", "_failed")

    def __init__(self, encode: Callable[[list[str]], list[Any]]) -> None:
        self._encode = encode
        self._failed = False

    def count(self, text: bytes) -> int | None:
        """Tokens of a text in UTF-8, those included that begin and end one; None if the library fails over it."""
        try:
            return len(self._encode([text.decode("utf-8", "replace")])[0])
        except BaseException as error:
            # a panic in the library's Rust is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            if not self._failed:
                self._failed = True
                _log.error("a tokenizer fails; what it cannot count is estimated: %s", type(error).__name__)
            return None


_known: Final[WeakValueDictionary[bytes, Vocabulary]] = WeakValueDictionary()


def vocabulary(content: bytes) -> Vocabulary:
    """Of a tokenizer.json. Raises ValueError. Takes up to seconds, unless one of the same content is still in use."""
    digest = hashlib.blake2b(content, digest_size=16).digest()
    found = _known.get(digest)
    if found is None:
        found = _known[digest] = _built(content)
    return found


def _built(content: bytes) -> Vocabulary:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ValueError('the package\'s extra is not installed: pip install "infer-gateway[tokenizers]"') from None
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # noqa: BLE001 - the library has no type for it
        raise ValueError(f"not a tokenizer: {error}") from None
    tokenizer.no_truncation()  # files of embedding models have both
    tokenizer.no_padding()
    return Vocabulary(tokenizer.encode_batch_fast)  # unlike `encode` it lets other threads run


class Tokenizers:
    """Counts by model. ``known``: (glob, vocabulary), of which the first that fits a model decides."""

    def __init__(self, known: Iterable[tuple[str, snapshot.Vocabulary]] = ()) -> None:
        self._known = tuple(known)
        self._found: dict[str, snapshot.Vocabulary | None] = {}
        self._threads = trio.CapacityLimiter(max(1, (os.cpu_count() or 2) // 2))

    def __bool__(self) -> bool:
        return bool(self._known)

    def count_nowait(self, model: str, text: bytes) -> int | None:
        """Tokens of a prompt's canonical text; None where nobody can say, or not at once: then `count`."""
        if not self._known or len(text) > INLINE:
            return None
        vocabulary = self._vocabulary(model)
        return None if vocabulary is None else vocabulary.count(text)

    async def count(self, model: str, text: bytes) -> int | None:
        """The same of longer texts, in a thread. None where nobody can say, beyond LONGEST, and while all threads are
        at work: who has to wait is decided by fairness, not here.
        """
        vocabulary = self._vocabulary(model) if self._known else None
        if vocabulary is None or len(text) > LONGEST:
            return None
        if len(text) <= INLINE:
            return vocabulary.count(text)
        if not self._threads.available_tokens:
            return None
        try:
            return await in_thread(vocabulary.count, text, limiter=self._threads, abandon_on_cancel=True)
        except OSError:  # no thread is to be had
            return None

    def _vocabulary(self, model: str) -> snapshot.Vocabulary | None:
        try:
            return self._found[model]
        except KeyError:
            if len(self._found) >= _MODELS:
                self._found.clear()
            found = next((vocabulary for glob, vocabulary in self._known if fnmatchcase(model, glob)), None)
            self._found[model] = found
            return found
