"""llama-server's way of writing answers, member by member as recorded in autumn 2026. (P)

Invariant: usage and timings are those of one choice, the first where an answer has several, as the server tells them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from conformance.engines.chat import Chat, Completion, Enveloped
from conformance.engines.forms import Choice, event, logprob
from conformance.engines.messages import Messages
from conformance.engines.responses import Responses
from conformance.engines.text import encode as tokens_of

Usage = dict[str, Any]


def timings(choice: Choice) -> dict[str, Any]:
    """How long prompt and answer took, in milliseconds; the first token belongs to the prompt."""
    made = choice.generation
    count = made.generated
    prompt = 1000.0 * max(0.0, made.first_at - made.admitted)
    predicted = 1000.0 * max(0.0, made.last_at - made.first_at)
    computed = made.prompt - made.cached
    return {
        "cache_n": made.cached,
        "prompt_n": computed,
        "prompt_ms": prompt,
        "prompt_per_token_ms": _ratio(prompt, computed),
        "prompt_per_second": _ratio(1000.0 * computed, prompt),
        "predicted_n": count,
        "predicted_ms": predicted,
        "predicted_per_token_ms": _ratio(predicted, count - 1),
        "predicted_per_second": _ratio(1000.0 * (count - 1), predicted),
    }


def _ratio(value: float, by: float) -> float:
    return value / by if by else 0.0


def usage(choice: Choice) -> Usage:
    prompt, completion = choice.generation.prompt, choice.plan.length
    return {
        "completion_tokens": completion,
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": choice.generation.cached},
    }


def probabilities(pieces: Sequence[str], top: int) -> dict[str, Any]:
    """The same shape for chats and completions; every token has its id, and is the first of its alternatives."""

    def order(entry: dict[str, Any]) -> dict[str, Any]:
        id = tokens_of(entry["token"])[0] if entry["token"] else 0
        return {"id": id, "token": entry["token"], "bytes": entry["bytes"], "logprob": entry["logprob"]}

    return {"content": [logprob(piece, top, order) for piece in pieces]}


class _LlamaForm(Enveloped):
    fingerprint: ClassVar[str] = "b0-unknown"

    def answer(self, choices: list[Any]) -> dict[str, Any]:
        first = self.choices[0]
        return {
            "choices": choices,
            "created": self.created,
            "model": self.ask.model,
            "system_fingerprint": self.fingerprint,
            "object": self.kind,
            "usage": usage(first),
            "id": self.id,
            "timings": timings(first),
        }

    def end(self) -> bytes:
        return self.done


class LlamaChat(_LlamaForm, Chat):
    def chunk_id(self, choice: Choice) -> str:
        return self.id

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        return {
            "choices": choices,
            "created": self.created,
            "id": self.id,
            "model": self.ask.model,
            "system_fingerprint": self.fingerprint,
            "object": self.chunk_kind,
            **more,
        }

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        return {}

    def choice(self, choice: Choice, delta: dict[str, Any], logprobs: Any, finish: str | None) -> dict[str, Any]:
        made = {"finish_reason": finish, "index": choice.index, "delta": delta}
        return made if logprobs is None else {**made, "logprobs": logprobs}

    def role_delta(self) -> dict[str, Any]:
        return {"role": "assistant", "content": None}

    def closing(self, choice: Choice) -> bytes:
        """Each choice has its own usage, which is where the timings go if it was asked for."""
        ended = [self.choice(choice, self.end_delta(), None, self.finish(choice))]
        if not self.ask.include_usage:
            return self.event(self.chunk(choice, ended, timings=timings(choice)))
        counted = self.chunk(choice, [], usage=usage(choice), timings=timings(choice))
        return self.event(self.chunk(choice, ended)) + self.event(counted)

    def logprob(self, piece: str) -> dict[str, Any]:
        entry: dict[str, Any] = probabilities([piece], self.ask.logprobs or 0)["content"][0]
        return entry

    def whole_choice(self, choice: Choice) -> dict[str, Any]:
        made = {"finish_reason": self.finish(choice), "index": choice.index, "message": self.message(choice)}
        logprobs = self.logprobs(choice)
        return made if logprobs is None else {**made, "logprobs": logprobs}


class LlamaCompletion(_LlamaForm, Completion):
    """A stream of several prompts begins with an event that says nothing."""

    merges_finish: ClassVar[bool] = False

    def choice(self, choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"text": text, "index": choice.index, "logprobs": logprobs, "finish_reason": finish}

    def chunk(self, choice: Choice, choices: list[Any], **more: Any) -> dict[str, Any]:
        timed = {"timings": more.pop("timings")} if "timings" in more else {}
        return {
            "choices": choices,
            "created": self.created,
            "model": self.ask.model,
            "system_fingerprint": self.fingerprint,
            "object": self.chunk_kind,
            **more,
            "id": self.id,
            **timed,
        }

    def continuous(self, choice: Choice, made: int) -> dict[str, Any]:
        return {}

    def begin(self) -> bytes:
        return self.event(None) if len(self.choices) > 1 else b""

    def closing(self, choice: Choice) -> bytes:
        ended = [self.choice(choice, "", None, self.finish(choice))]
        return self.event(self.chunk(choice, ended, usage=usage(choice), timings=timings(choice)))

    def _token(self, choice: Choice, at: int, finish: str | None) -> bytes:
        piece = choice.plan.pieces[at]
        found = None if self.ask.logprobs is None else probabilities([piece], self.ask.logprobs)
        return self.event(self.chunk(choice, [self.choice(choice, piece, found, finish)]))

    def logprobs(self, choice: Choice) -> dict[str, Any] | None:
        return None if self.ask.logprobs is None else probabilities(choice.plan.pieces, self.ask.logprobs)


class LlamaMessages(Messages):
    """Cached tokens are told in every usage but the last of a stream."""

    always_stop_sequence: ClassVar[bool] = True
    headers_first: ClassVar[bool] = False

    def start_message(self) -> dict[str, Any]:
        return {**super().start_message(), "usage": self._usage(0)}

    def stop_usage(self) -> dict[str, Any]:
        return {"output_tokens": self.completion_tokens}

    def whole_usage(self) -> dict[str, Any]:
        return self._usage(self.completion_tokens)

    def _usage(self, output: int) -> dict[str, Any]:
        cached = self.cached_tokens
        return {
            "cache_read_input_tokens": cached,
            "input_tokens": self.prompt_tokens - cached,
            "output_tokens": output,
        }


class LlamaResponses(Responses):
    """An answer cut short is "completed" like any other; its events have no numbers and no places."""

    @property
    def _status(self) -> str:
        return "completed"

    def _event(self, name: str, **members: Any) -> bytes:
        for place in ("output_index", "content_index"):
            members.pop(place, None)
        if name == "response.content_part.added":
            members["part"] = {"type": "output_text", "text": ""}
        return event({"type": name, **members}, name)

    def usage(self) -> Usage:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "input_tokens": prompt,
            "output_tokens": completion,
            "total_tokens": prompt + completion,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def begin(self) -> bytes:
        begun = {"id": self.id, "object": "response", "status": "in_progress"}
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def end(self) -> bytes:
        made = {"id": self.id, "object": "response", "created_at": self.created, "status": "completed"}
        ended = {**made, "model": self.ask.model, "output": self.output(), "usage": self.usage()}
        return self._event("response.completed", response=ended, timings=timings(self.choices[0]))

    def response(self, status: str, output: list[Any], usage: Usage | None) -> dict[str, Any]:
        done = {"completed_at": self.created} if status == "completed" else {}
        made = {"created_at": self.created, "id": self.id, "model": self.ask.model, "object": "response"}
        return {**done, **made, "output": output, "status": status, "usage": usage}

    def _item(self, at: int, status: str, text: str | None) -> dict[str, Any]:
        item = super()._item(at, status, text)
        if item["type"] != "message":
            return item
        content = [
            {name: part[name] for name in ("type", "annotations", "logprobs", "text")} for part in item["content"]
        ]
        return {"content": content, **{name: item[name] for name in ("id", "role", "status", "type")}}
