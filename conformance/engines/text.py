"""Tokens and words: a tokenizer anyone can compute, and text that depends on prompt and seed. (P)

A prompt's token is four bytes of its UTF-8, the last one maybe shorter: cheap, reversible, and about what real
tokenizers make of English. A generated token is a word, or a few characters where the text is structured.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec

TOKEN_BYTES = 4

_PROSE = """
 The engine reads the whole prompt once, keeps what it has computed in fixed blocks of memory, and then writes one
 token after another. Each step serves every sequence in the batch, so a long answer does not hold up a short one.
 When two prompts begin alike, the second finds the blocks of the first and skips that part of the work. When memory
 runs out, the youngest sequence gives way and is computed again later. A gateway in front sees none of this directly:
 it reads a few numbers from a metrics page, counts what it has sent, and decides where the next request should go. A
 good decision keeps queues short and caches warm; a poor one makes somebody wait. Streams carry each token as soon as
 it exists, which is why the first of them matters most to a reader, and the steady beat of the others comes next.
 Tea is best drunk hot, rivers run to the sea, and the night train to the coast leaves on time more often than not.
 A small harbour town has three bakeries, two bridges and one clock that everyone knows to be seven minutes slow.
"""

WORDS: tuple[str, ...] = tuple(" " + word for word in _PROSE.split())
QUOTED: tuple[bytes, ...] = tuple(msgspec.json.encode(word) for word in WORDS)


def encode(text: str | bytes) -> list[int]:
    """Token ids of a text."""
    data = text.encode() if isinstance(text, str) else text
    return [int.from_bytes(data[i : i + TOKEN_BYTES], "big") for i in range(0, len(data), TOKEN_BYTES)]


def decode(tokens: Iterable[int]) -> str:
    """The text of token ids; ids no text has decode to replacement characters, as with a real vocabulary."""
    return b"".join(_bytes(token) for token in tokens).decode(errors="replace")


def _bytes(token: int) -> bytes:
    token %= 1 << 32
    return token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big")


def raw(tokens: Iterable[int]) -> bytes:
    """A prompt that came as token ids, as bytes that count to exactly as many tokens."""
    return b"".join((token % (1 << 32)).to_bytes(TOKEN_BYTES, "big") for token in tokens)


def count(data: bytes) -> int:
    """Tokens of a prompt."""
    return -(-len(data) // TOKEN_BYTES)


def digest(data: bytes, seed: int) -> int:
    """A number that depends on every byte and on the seed, the same in every process."""
    return zlib.crc32(data, seed & 0xFFFFFFFF)


def prose(start: int, length: int) -> tuple[list[str], list[bytes]]:
    """``length`` words from a place in the text, wrapping round, and the same as JSON strings."""
    at = start % len(WORDS)
    turns = (at + length) // len(WORDS) + 1
    return list((WORDS * turns)[at : at + length]), list((QUOTED * turns)[at : at + length])


def pieces(text: str, size: int = 4) -> list[str]:
    """Structured text as tokens of a few characters."""
    return [text[i : i + size] for i in range(0, len(text), size)]
