"""Answers that come whole: JSON bodies, checked once they are complete and passed on untouched unless odd. (P)

Invariant: nothing is returned before the whole body has been seen to be an answer and not a failure.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from adapters import chunk, failure, usage
from adapters.stream import DONE, gave_up, mender
from gateway.errors import GatewayError, InvalidRequest
from gateway.types import Headers, InferenceRequest, Operation, Usage

ANSWER_MAX: Final = 128 << 20
"""Bytes of an answer that comes whole: embeddings of 2,048 texts are some 75 MB."""
_ABSENT = msgspec.Raw()
_NULL = msgspec.Raw(b"null")


_SPEECHLESS: Final = ("length", "content_filter")
"""Finish reasons of providers for which there may be nothing to show."""


class _Message(msgspec.Struct):
    tool_calls: Any = None
    refusal: msgspec.Raw = _ABSENT


class _Choice(msgspec.Struct):
    finish_reason: Any = None
    message: _Message | None = None
    logprobs: msgspec.Raw = _ABSENT
    text: Any = None

    @property
    def empty(self) -> bool:
        """Whether it holds neither a chat's message nor a completion's text, and does not say why."""
        if self.message is not None or isinstance(self.text, str):
            return False
        return chunk.finish_reason(self.finish_reason) not in _SPEECHLESS

    @property
    def odd(self) -> bool:
        if self.finish_reason is not None and chunk.finish_reason(self.finish_reason) != self.finish_reason:
            return True
        calls = None if self.message is None else self.message.tool_calls
        return calls is not None and any(map(chunk.odd_call, chunk.dicts(calls)))


class Answer(msgspec.Struct):
    """What is read of a whole answer."""

    error: Any = None
    error_type: Any = None
    usage: usage.Counts | None = None
    choices: list[_Choice] | None = None
    id: Any = None
    object: Any = None
    created: Any = None
    model: Any = None
    type: Any = None
    message: Any = None
    detail: Any = None

    @property
    def fails(self) -> bool:
        """Whether it tells a failure: in a member for it, or as all there is."""
        return bool(self.error) or chunk.fails(self.object, self.message, self.detail, self.choices)

    @property
    def gave_up(self) -> bool:
        return any(str(choice.finish_reason) in chunk.FAILED_REASONS for choice in self.choices or ())

    @property
    def empty(self) -> bool:
        """Whether one of its choices says nothing, be it that there is nothing to say."""
        for choice in self.choices or ():  # noqa: SIM110  any() would cost as much again
            if choice.empty:
                return True
        return False

    @property
    def bare(self) -> bool:
        """Whether it lacks what every answer with a choice has."""
        return bool(self.choices) and not (self.id and self.object and self.created and self.model)

    @property
    def odd(self) -> bool:
        """Whether an SDK or a typed client would stumble over it."""
        for choice in self.choices or ():  # noqa: SIM110  any() would cost as much again
            if choice.odd:
                return True
        return False


class _LooseAnswer(Answer):
    """Read from what is not quite JSON, or from members of odd types."""

    @property
    def odd(self) -> bool:
        return True


_DECODER = msgspec.json.Decoder(Answer)
_NAMED: Final = ("id", "object", "created", "model", "type", "message", "detail")


class WholeDecoder:
    """`feed` keeps, `finish` returns everything. ``progress`` is 1 until then: another engine may still be tried."""

    content_type = b"application/json"
    speaks = False
    """Whether it is an answer by its choices only."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.error: GatewayError | None = None
        self.progress = 0
        self.tokens = 0
        self.ended = False
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size > ANSWER_MAX:
            self._parts.clear()
            self.error = failure.rubbish(f"the engine's answer exceeds {ANSWER_MAX >> 20} MiB")
            return b""
        self._parts.append(data)
        self.progress = 1
        return b""

    def finish(self) -> bytes:
        if self.error is not None:
            return b""
        body = self._taken(_text(b"".join(self._parts).lstrip()))  # DeepSeek fills its queueing time with blank lines
        answer = _read(body)
        if answer is None:
            listed = failure.of_event(_document(body), started=False) if failure.is_listed(body) else None
            self.error = listed or failure.rubbish("the engine answered something that is not a JSON object")
            return b""
        self.error = self._failure(body, answer)
        if self.error is not None:
            return b""
        self.usage = usage.read(answer.usage)
        self.progress = 2
        try:
            return self._passed(body, answer)
        except (RecursionError, InvalidRequest):  # what was skipped in reading is too deep, or cannot be read
            self.error = failure.rubbish("the engine's answer is nested too deeply, or not JSON")
            return b""

    def _failure(self, body: bytes, answer: Answer) -> GatewayError | None:
        """Why it is none. A message is one, of an engine that speaks Messages where a chat's was expected."""
        if answer.fails:
            return failure.of_event(_document(body), started=False)
        if answer.gave_up:
            return gave_up([str(choice.finish_reason) for choice in answer.choices or ()], started=False)
        if self.speaks and not answer.choices and answer.type != "message":
            return failure.rubbish("the engine answered something that holds no choices")
        if self.speaks and answer.choices and answer.empty:
            return failure.rubbish("the engine answered a choice that holds neither a message nor a text")
        return None

    def _taken(self, body: bytes) -> bytes:
        """The body as it is judged: where an engine answers no JSON object, a subclass makes it one."""
        return body

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        return chunk.mend_whole(body) if answer.odd else body


class MendedWhole(WholeDecoder):
    """For engines whose whole answers lack an id, or end a tool call with ``stop``."""

    def __init__(self, request: InferenceRequest, headers: Headers = ()) -> None:
        super().__init__()
        self.speaks = request.operation in (Operation.CHAT, Operation.COMPLETIONS)
        self._mender = mender(request, headers)

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        return self._mender.mend(body) if answer.choices else body


class AnswerDecoder(WholeDecoder):
    """A chat's or completion's whole answer, mended where it lacks an id, a time, a model or its own name.

    What a chat's choices have to have, if only as null, is put where they lack it: typed clients insist.
    """

    speaks = True

    def __init__(self, request: InferenceRequest, headers: Headers = ()) -> None:
        super().__init__()
        self._request = request
        self._headers = headers

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        if not answer.bare:
            return _with_nulls(chunk.mend_whole(body) if answer.odd else body, answer)
        return mender(self._request, self._headers).mend(body)


def _with_nulls(body: bytes, answer: Answer) -> bytes:
    """Every other byte stays. A quote in a text is escaped, so that no text holds what is searched for."""
    lead, inside = b'"logprobs":null,', b'"refusal":null,'
    choices = answer.choices or ()
    for choice in choices:
        if choice.message is None:
            return body
        if choice.logprobs is not _ABSENT:
            lead = b""
        if choice.message.refusal is not _ABSENT:
            inside = b""
    if choices and (lead or inside) and body.count(b'"message"') == len(choices):
        for key in (b'"message":{', b'"message": {'):
            if body.count(key + b'"') == len(choices):
                return body.replace(key + b'"', lead + key + inside + b'"')
    return body


class Restreamed(WholeDecoder):
    """A whole answer to a request for a stream: the client gets it as a stream of one chunk for all choices."""

    content_type = b"text/event-stream; charset=utf-8"
    speaks = True

    def __init__(self, request: InferenceRequest) -> None:
        super().__init__()
        self._show_usage = request.include_usage

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        document = chunk.decode(body)
        counts = document.pop("usage", None)
        for choice in document["choices"]:
            choice["finish_reason"] = chunk.finish_reason(choice.get("finish_reason")) or "stop"
            if "message" in choice:
                document["object"] = "chat.completion.chunk"
                said = choice.pop("message")
                choice["delta"] = said if isinstance(said, dict) else {}
                for index, call in enumerate(chunk.dicts(choice["delta"].get("tool_calls"))):
                    call.setdefault("index", index)
        out = b"data: %b\n\n" % chunk.encode(document)
        if self._show_usage and counts:
            document.update(choices=[], usage=counts)
            out += b"data: %b\n\n" % chunk.encode(document)
        return out + DONE


class _Ranking(msgspec.Struct):
    index: int
    score: float
    document: Any = None
    meta_info: Any = None


class _RerankRequest(msgspec.Struct):
    top_n: int | None = None


class Ranked(WholeDecoder):
    """SGLang's rerank, an array of ``{score, document, index}``, in the shape of vLLM, Cohere and Jina."""

    def __init__(self, request: InferenceRequest) -> None:
        super().__init__()
        self._request = request

    def _taken(self, body: bytes) -> bytes:
        try:
            ranked = msgspec.json.decode(body, type=list[_Ranking])
        except (ValueError, RecursionError):
            return body  # an object already, or a failure
        ranked.sort(key=lambda each: -each.score)
        tokens = sum(map(_prompt_tokens, ranked))
        answer = {
            "id": f"rerank-{self._request.id}",
            "model": self._request.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "results": [_result(each) for each in ranked[: _top_n(self._request.body)]],
        }
        return chunk.encode(answer)


def _prompt_tokens(ranking: _Ranking) -> int:
    """Newer releases count them per document."""
    count = ranking.meta_info.get("prompt_tokens") if isinstance(ranking.meta_info, dict) else 0
    return count if isinstance(count, int) else 0


def _result(ranking: _Ranking) -> dict[str, Any]:
    """One entry; without its document where the client asked for none (``return_documents: false``)."""
    document = {"document": {"text": ranking.document}} if isinstance(ranking.document, str) else {}
    return {"index": ranking.index, **document, "relevance_score": ranking.score}


def _top_n(body: bytes) -> int | None:
    """How many results the client wants; releases that do not know ``top_n`` answer all. 0 is no limit, as in vLLM."""
    try:
        wanted = msgspec.json.decode(body, type=_RerankRequest).top_n
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return wanted if wanted and wanted > 0 else None


class Misframed(WholeDecoder):
    """A stream nobody asked for: refused rather than handed to a client that waits for one JSON object."""

    def __init__(self) -> None:
        super().__init__()
        self.error = failure.rubbish("the engine streamed an answer that was not to be streamed")

    def feed(self, data: bytes) -> bytes:
        return b""


def _text(body: bytes) -> bytes:
    """As UTF-8, which not all of what is passed on unread has to be: what is none becomes replacement characters."""
    if body.isascii():
        return body
    try:
        body.decode()
    except UnicodeDecodeError:
        return body.decode("utf-8", "replace").encode()
    return body


def _document(body: bytes) -> Any:
    """As far as it can be read."""
    try:
        return chunk.leniently(body)
    except (ValueError, RecursionError):
        return None


def _read(body: bytes) -> Answer | None:
    try:
        return _DECODER.decode(body)
    except (ValueError, RecursionError):
        pass
    try:
        document = chunk.leniently(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    choices = [_loose(choice) for choice in chunk.dicts(document.get("choices"))]
    counts = usage.loose(document.get("usage"))
    named = {name: document.get(name) for name in _NAMED}
    return _LooseAnswer(document.get("error"), document.get("error_type"), counts, choices, **named)


def _loose(choice: dict[str, Any]) -> _Choice:
    """Nothing is put beside what it holds: what there is of it is not looked at."""
    message = _Message(refusal=_NULL) if isinstance(choice.get("message"), dict) else None
    return _Choice(choice.get("finish_reason"), message, _NULL, choice.get("text"))
