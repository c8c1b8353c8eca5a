"""An adapter for Parrot, an engine nobody has, whose API is like nobody else's. (P)"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec

from adapters import dialect, failure
from adapters.openai import OpenAI
from adapters.stream import DONE, EventDecoder, answer_id, answer_time
from adapters.vllm import NOT_OPENAI_ON_ENGINES
from adapters.vocabulary import Vocabulary
from adapters.whole import Answer, WholeDecoder
from gateway.errors import InvalidRequest, UpstreamError
from gateway.ports import Decoder
from gateway.types import Endpoint, Headers, InferenceRequest, ModelCard, Operation, Usage
from gateway.wire import sse


class Feathers(Vocabulary):
    """What its metrics page calls the numbers that requests are placed by."""

    path = b"/feathers"
    mark = b"parrot_"
    names: ClassVar[Mapping[str, Sequence[str]]] = {"running": ("parrot_talking",), "waiting": ("parrot_waiting",)}


class Part(msgspec.Struct):
    type: str
    text: str = ""


class Turn(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Raises Unsupported for pictures and the like."""
        if not isinstance(self.content, list):
            return self.content or ""
        if any(part.type != "text" for part in self.content):
            raise dialect.unsupported("Parrot", "messages", why="it can only hear")
        return "".join(part.text for part in self.content)


class Chat(msgspec.Struct):
    """What is read of a request."""

    messages: list[Turn]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None


class Reply(msgspec.Struct):
    """A whole answer, or one event of a stream: the last says how many tokens it took, and why it ended."""

    says: str = ""
    heard: int = 0
    said: int = 0
    fell: str = ""
    squawk: str = ""

    @property
    def usage(self) -> Usage:
        return Usage(prompt=self.heard, completion=self.said)

    @property
    def finish_reason(self) -> str | None:
        return {"silent": "stop", "asleep": "length"}.get(self.fell)


class Parrot(OpenAI):
    name = "parrot"
    title = "Parrot"
    rationed = None
    vocabulary = Feathers()
    paths: ClassVar[Mapping[Operation, bytes]] = {Operation.CHAT: b"/talk"}
    refused: ClassVar[Mapping[str, dialect.Refuses]] = {
        **NOT_OPENAI_ON_ENGINES,
        **dialect.EXTRAS,
        "n": dialect.above_one,
        "stop": dialect.always,
        "tools": dialect.always,
        "response_format": lambda value, _: value not in (None, {"type": "text"}),
        "logprobs": dialect.always,
        "top_p": dialect.other_than(1),
        "seed": dialect.given,
        "logit_bias": dialect.always,
        "presence_penalty": dialect.not_zero,
        "frequency_penalty": dialect.not_zero,
        "reasoning_effort": dialect.given,
    }
    constraints: ClassVar[Mapping] = {}  # guided_json and the like, too

    def translate(self, request: InferenceRequest, body: bytes, endpoint: Endpoint, model: str) -> bytes:
        try:
            asked = msgspec.json.decode(body, type=Chat)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"the body cannot be read: {error}") from None
        talk = {
            "bird": model,
            "lines": [{"who": turn.role, "says": turn.text} for turn in asked.messages],
            "most": asked.max_completion_tokens or asked.max_tokens,
            "whims": asked.temperature,
            "live": request.stream,
        }
        return msgspec.json.encode({name: value for name, value in talk.items() if value is not None})

    def whole(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return Said(request, headers)

    def events(self, request: InferenceRequest, headers: Headers) -> Decoder:
        return Saying(request, headers)

    def error(self, status: int, headers: Headers, body: bytes, /) -> UpstreamError:
        try:
            message = msgspec.json.decode(body, type=Reply).squawk
        except msgspec.DecodeError:
            message = ""
        return failure.of_answer(status, headers, msgspec.json.encode({"error": {"message": message}}))

    def models_path(self) -> bytes:
        return b"/birds"

    def parse_models(self, body: bytes, /) -> Sequence[ModelCard]:
        birds = msgspec.json.decode(body, type=dict[str, list[dict[str, str | int]]])["birds"]
        return [ModelCard(id=str(bird["called"]), max_model_len=int(bird["remembers"])) for bird in birds]


class Said(WholeDecoder):
    """A whole answer. The base has seen that it is a JSON object; what it holds is ours to say."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__()
        self._envelope = envelope(request, headers, "chat.completion")

    def _passed(self, body: bytes, answer: Answer) -> bytes:
        reply = msgspec.json.decode(body, type=Reply)
        self.usage = reply.usage
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.says, "refusal": None},
            "logprobs": None,
            "finish_reason": reply.finish_reason,
        }
        return msgspec.json.encode({**self._envelope, "choices": [choice], "usage": counts(reply)})


class Saying(EventDecoder):
    """A stream. The base cuts it into events, wherever reads end; each is ours to translate."""

    def __init__(self, request: InferenceRequest, headers: Headers) -> None:
        super().__init__()
        self._envelope = envelope(request, headers, "chat.completion.chunk")
        self._show_usage = request.include_usage

    def _plain(self, data: bytes) -> int:
        return 0  # no event passes as it is

    def _block(self, block: bytes) -> bytes:
        data = sse.parse(block).data
        if not data:
            return b""
        reply = msgspec.json.decode(data, type=Reply)
        if reply.squawk:
            return self._fail(failure.of_event({"error": reply.squawk}, started=self.progress == 2))
        first, self.progress = self.progress == 0, 2
        self.tokens += bool(reply.says)
        delta = {"role": "assistant"} if first else {}
        out = self._event([{"index": 0, "delta": {**delta, "content": reply.says}, "finish_reason": None}])
        if not reply.fell:
            return out
        self.ended = True
        self.usage = reply.usage
        out = self._event([{"index": 0, "delta": delta, "finish_reason": reply.finish_reason}])
        if self._show_usage:
            out += self._event([], usage=counts(reply))
        return out + DONE

    def _event(self, choices: list, **more: object) -> bytes:
        return b"data: %b\n\n" % msgspec.json.encode({**self._envelope, "choices": choices, **more})

    def finish(self) -> bytes:
        return self._cut_off()  # an error, unless the last event has come


def envelope(request: InferenceRequest, headers: Headers, kind: str) -> dict[str, object]:
    return {"id": answer_id(request), "object": kind, "created": answer_time(headers), "model": request.model}


def counts(reply: Reply) -> dict[str, int]:
    return {
        "prompt_tokens": reply.heard,
        "completion_tokens": reply.said,
        "total_tokens": reply.heard + reply.said,
    }
