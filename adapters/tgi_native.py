"""TGI's native API in terms of OpenAI completions: ``/generate``, ``/generate_stream``, ``/tokenize``. (P)

Invariant: OpenAI's defaults hold (16 tokens, sampling at temperature 1), not TGI's (100 tokens, greedy).
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters import chunk, dialect, failure, usage
from adapters.stream import DONE, EventDecoder, answer_id
from adapters.whole import Answer, WholeDecoder
from gateway.types import Headers, InferenceRequest, Usage
from gateway.wire import sse

_DEFAULT_MAX_TOKENS = 16
_AS_THEY_ARE = ("seed", "frequency_penalty", "repetition_penalty", "top_k", "typical_p", "truncate", "watermark")


def generate(found: dialect.Members, stream: bool, lora: str | None) -> tuple[bytes, dict[str, Any]]:
    """Path and body for an OpenAI completion request. Raises Unsupported for prompts TGI cannot take."""
    given = {name: dialect.value(found, name) for name in found}
    limit = given.get("max_tokens")
    temperature, top_p, best_of = (
        dialect.number(given.get(name), name) for name in ("temperature", "top_p", "best_of")
    )
    stop, logprobs = given.get("stop"), given.get("logprobs")
    parameters: dict[str, Any] = {name: given[name] for name in _AS_THEY_ARE if given.get(name) is not None}
    parameters.update(
        max_new_tokens=_DEFAULT_MAX_TOKENS if limit is None else limit,
        do_sample=temperature != 0,
        details=True,
        return_full_text=bool(given.get("echo")),
    )
    if temperature:
        parameters["temperature"] = temperature
    if top_p is not None and top_p < 1:
        parameters["top_p"] = top_p
    if stop:
        parameters["stop"] = [stop] if isinstance(stop, str) else stop
    if best_of is not None and best_of > 1:
        if stream:
            raise dialect.unsupported("TGI", "best_of", why="not with 'stream'")
        parameters["best_of"] = best_of
    if logprobs:
        parameters["top_n_tokens"] = logprobs
    if lora is not None:
        parameters["adapter_id"] = lora
    grammar = response_format(given.get("response_format"))
    if grammar is not None:
        parameters["grammar"] = grammar
    body = {"inputs": _prompt(given.get("prompt")), "parameters": parameters}
    return (b"/generate_stream" if stream else b"/generate"), body


def response_format(wanted: Any) -> dict[str, Any] | None:
    """What TGI calls a grammar: the schema is its ``value``, and a bare json_object wants one, too; None: any text."""
    if not isinstance(wanted, dict) or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_schema":
        return {"type": "json_schema", "value": wanted.get("json_schema", wanted.get("value"))}
    if wanted.get("type") == "json_object" and "value" not in wanted:
        return {"type": "json_object", "value": {"type": "object"}}
    return wanted


def _prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise dialect.unsupported("TGI", "prompt", why="one text it takes, not several and not token ids")
    return prompt


def tokenize(found: dialect.Members) -> tuple[bytes, dict[str, Any]]:
    """Path and body for a tokenize request, of a prompt or of messages."""
    if "messages" in found:
        return b"/chat_tokenize", {"model": "tgi", "messages": found["messages"]}
    return b"/tokenize", {"inputs": _prompt(dialect.value(found, "prompt"))}


class _Token(msgspec.Struct):
    text: str = ""
    logprob: float | None = None
    special: bool = False


class _Details(msgspec.Struct):
    finish_reason: str | None = None
    generated_tokens: int = 0
    input_length: int | None = None
    tokens: list[_Token] = []
    top_tokens: list[list[_Token]] | None = None


class _Generated(msgspec.Struct):
    generated_text: str | None = None
    details: _Details | None = None
    token: _Token | None = None
    top_tokens: list[_Token] | None = None
    error: Any = None
    error_type: Any = None


_DECODER = msgspec.json.Decoder(_Generated)


class _Reply:
    """The OpenAI envelope of one answer. ``created`` is the engine's Date: there is no clock here."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        fields = dict(headers)
        created = failure.http_date(fields.get(b"date", b"").decode("latin-1"))
        prompt = fields.get(b"x-prompt-tokens", b"")
        self.prompt = int(prompt) if prompt.isdigit() and len(prompt) < 16 else 0
        self._envelope = {
            "id": answer_id(request),
            "object": "text_completion",
            "created": int(created or 0),
            "model": request.model,
        }
        self._with_logprobs = bool(dialect.value(dialect.members(request.body), "logprobs"))

    def usage(self, details: _Details) -> Usage:
        counts = usage.Counts(details.input_length or self.prompt, details.generated_tokens)
        return usage.read(counts) or Usage()

    def text(self, text: str, reason: str | None, tokens: list[_Token], tops: list[list[_Token]]) -> dict[str, Any]:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": _logprobs(tokens, tops) if self._with_logprobs else None,
            "finish_reason": chunk.finish_reason(reason),
        }
        return {**self._envelope, "choices": [choice]}

    def counted(self, usage: Usage) -> dict[str, Any]:
        counts = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
        }
        return {**self._envelope, "choices": [], "usage": counts}


def _logprobs(tokens: list[_Token], tops: list[list[_Token]]) -> dict[str, Any]:
    offsets = [0]
    for token in tokens:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{t.text: t.logprob for t in top} for top in tops] or None,
        "text_offset": offsets[:-1],
    }


class GenerateDecoder(WholeDecoder):
    """The answer of ``/generate`` as a completion."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__()
        self._reply = _Reply(request, headers)

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        try:
            generated = _DECODER.decode(body)
        except ValueError:
            generated = _Generated()
        if generated.generated_text is None:
            self.error = failure.rubbish("TGI's answer holds no generated_text")
            return b""
        details = generated.details or _Details()
        self.usage = self._reply.usage(details)
        document = self._reply.text(
            generated.generated_text, details.finish_reason or "stop", details.tokens, details.top_tokens or []
        )
        return msgspec.json.encode({**document, "usage": self._reply.counted(self.usage)["usage"]})


class GenerateStreamDecoder(EventDecoder):
    """The events of ``/generate_stream`` as completion chunks; TGI ends without ``[DONE]``, the last token says so."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__()
        self._reply = _Reply(request, headers)
        self._show_usage = request.include_usage

    def _plain(self, data: bytes) -> int:
        return 0

    def _block(self, block: bytes) -> bytes:
        data = sse.parse(block).data
        if not data:
            self.progress = max(self.progress, 1)
            return block + b"\n\n" if block.startswith(b":") else b""
        try:
            event = _DECODER.decode(data)
        except ValueError:
            return self._fail(failure.rubbish("TGI sent an event that cannot be understood"))
        if event.error:
            document = {"error": event.error, "error_type": event.error_type}
            return self._fail(failure.of_event(document, started=self.progress == 2))
        if event.token is None and event.details is None and event.generated_text is None:
            return self._fail(failure.rubbish("TGI sent an event that holds no token"))
        return self._token(event)

    def _token(self, event: _Generated) -> bytes:
        token = event.token or _Token()
        last = event.details is not None or event.generated_text is not None
        if token.special and not last:
            self.progress = max(self.progress, 1)
            return b""
        self.progress = 2
        self.tokens += 1
        details = event.details or _Details()
        text = "" if token.special else token.text
        tops = [event.top_tokens] if event.top_tokens else []
        reason = (details.finish_reason or "stop") if last else None
        out = _event(self._reply.text(text, reason, [token], tops))
        if last:
            self.ended = True
            self.usage = self._reply.usage(details)
            out += (_event(self._reply.counted(self.usage)) if self._show_usage else b"") + DONE
        return out

    def finish(self) -> bytes:
        return self._cut_off()


class TokenizeDecoder(WholeDecoder):
    """TGI's list of tokens as vLLM's ``{"count", "tokens"}``."""

    def finish(self) -> bytes:
        try:
            answer = msgspec.json.decode(b"".join(self._parts))
            listed = answer["tokenize_response"] if isinstance(answer, dict) else answer
            ids = [token["id"] for token in listed]
        except (ValueError, RecursionError, KeyError, TypeError):
            self.error = failure.rubbish("TGI's answer is not a list of tokens")
            return b""
        self.progress = 2
        return msgspec.json.encode({"count": len(ids), "max_model_len": None, "tokens": ids})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(document)
