"""Embeddings and relevance scores: unit vectors that depend on the text alone. (P)"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Any

DIMENSIONS = 64


def embedding(data: bytes, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector; texts that share words point in similar directions."""
    total = [0.0] * dimensions
    for word in data.lower().split() or [b""]:
        raw = hashlib.shake_128(word).digest(2 * dimensions)
        for at, (value,) in enumerate(struct.iter_unpack("<h", raw)):
            total[at] += value
    norm = math.sqrt(sum(value * value for value in total)) or 1.0
    return [value / norm for value in total]


def packed(vector: Sequence[float]) -> str:
    """The base64 form: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def relevance(query: bytes, document: bytes) -> float:
    """Cosine of two texts, moved to [0, 1]."""
    pairs = zip(embedding(query), embedding(document), strict=True)
    return (1 + sum(one * other for one, other in pairs)) / 2


def listing(texts: Sequence[bytes], dimensions: int | None, form: str | None) -> list[dict[str, Any]]:
    """The ``data`` of an embeddings answer."""
    made = (embedding(each, dimensions or DIMENSIONS) for each in texts)
    return [
        {"index": at, "object": "embedding", "embedding": packed(vector) if form == "base64" else vector}
        for at, vector in enumerate(made)
    ]


def ranked(query: str, documents: Sequence[Any]) -> list[tuple[int, str, float]]:
    """(index, text, score) of every document, best first."""
    texts = [document.get("text", "") if isinstance(document, dict) else str(document) for document in documents]
    scored = [(at, each, relevance(query.encode(), each.encode())) for at, each in enumerate(texts)]
    return sorted(scored, key=lambda entry: -entry[2])
