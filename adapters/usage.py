"""Token counts as engines and providers spell them, read into one `Usage`. (P)

Invariant: counts are taken, never summed over chunks; a chunk of zeros changes nothing, nor do counts that cannot be.
"""

from __future__ import annotations

import msgspec

from gateway.types import Usage

_Count = int | float | None


class Details(msgspec.Struct, gc=False):
    cached_tokens: _Count = None
    reasoning_tokens: _Count = None
    thinking_tokens: _Count = None


class Counts(msgspec.Struct):
    """A ``usage`` object: chat and completions, Responses (input, output), Anthropic (cache_…), DeepSeek (…_hit_…)."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    total_tokens: _Count = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    prompt_cache_hit_tokens: _Count = None
    reasoning_tokens: _Count = None
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    cache_read_input_tokens: _Count = None
    cache_creation_input_tokens: _Count = None


def read(counts: Counts | None, before: Usage | None = None) -> Usage | None:
    """The usage these counts state, completed by ``before`` where they are silent or zero; None if nothing is known."""
    if counts is None:
        return before
    before = before or _NONE
    found = Usage(
        _prompt(counts) or before.prompt,
        _first(counts.completion_tokens, counts.output_tokens) or before.completion,
        _cached(counts) or before.cached,
        _reasoning(counts) or before.reasoning,
    )
    return None if found == _NONE else found


def loose(document: object) -> Counts | None:
    """Counts from an already decoded ``usage`` whose members may have odd types."""
    try:
        return msgspec.convert(document, Counts, strict=False)
    except ValueError:  # half an emoji is no ValidationError
        return None


def _first(*counts: _Count) -> int:
    """The first that says something, 0 if none does: what is below 1, infinite or no number says nothing."""
    for count in counts:
        if count and 1 <= count < _MOST:
            return int(count)
    return 0


_MOST = 1e15
_NONE = Usage()


def _prompt(counts: Counts) -> int:
    """Anthropic leaves cached and newly cached tokens out of ``input_tokens``; everyone else counts them in. Of what
    has no answer (vLLM's rerank) some only say the total.
    """
    apart = 0
    if counts.cache_read_input_tokens or counts.cache_creation_input_tokens:
        apart = _first(counts.cache_read_input_tokens) + _first(counts.cache_creation_input_tokens)
    answered = counts.completion_tokens is not None or counts.output_tokens is not None
    total = None if answered else counts.total_tokens
    return _first(counts.prompt_tokens, counts.input_tokens, total) + apart


def _cached(counts: Counts) -> int:
    details = counts.prompt_tokens_details or counts.input_tokens_details
    nested = details.cached_tokens if details is not None else None
    return _first(nested, counts.prompt_cache_hit_tokens, counts.cache_read_input_tokens)


def _reasoning(counts: Counts) -> int:
    details = counts.completion_tokens_details or counts.output_tokens_details
    nested = (details.reasoning_tokens or details.thinking_tokens) if details is not None else None
    return _first(nested, counts.reasoning_tokens)
