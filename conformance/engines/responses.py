"""``/v1/responses``: the answer as output items, and the event sequence that builds them. (P)

Invariant: sequence numbers count up by one without a gap, and the last event carries the whole response.
"""

from __future__ import annotations

from typing import Any

from conformance.engines.forms import Choice, Form, encode, event


class Responses(Form):
    """One reasoning item if the model reasons, then one message or one function call."""

    _number = 0

    def _event(self, name: str, **members: Any) -> bytes:
        data = {"type": name, "sequence_number": self._number, **members}
        self._number += 1
        return event(data, name)

    @property
    def _choice(self) -> Choice:
        return self.choices[0]

    @property
    def _status(self) -> str:
        return "incomplete" if self._choice.plan.finish == "length" else "completed"

    def usage(self) -> dict[str, Any]:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": prompt + completion,
        }

    def response(self, status: str, output: list[Any], usage: dict[str, Any] | None) -> dict[str, Any]:
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "model": self.ask.model,
            "output": output,
            "status": status,
            "usage": usage,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "incomplete_details": reason,
            "instructions": None,
            "max_output_tokens": self.ask.limit,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": True,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "top_p": 1.0,
            "truncation": "disabled",
            "user": None,
            "metadata": {},
        }

    # -- items --------------------------------------------------------------------------------------------------

    def _item(self, at: int, status: str, text: str | None) -> dict[str, Any]:
        """The item that token ``at`` belongs to; ``text`` None while it is still empty."""
        choice = self._choice
        if at < choice.plan.reasoning:
            content = [] if text is None else [{"type": "reasoning_text", "text": text}]
            return {"id": f"rs_{choice.id}", "type": "reasoning", "summary": [], "content": content, "status": status}
        if choice.plan.tool is not None:
            item = {
                "id": f"fc_{choice.id}",
                "type": "function_call",
                "call_id": choice.call_id,
                "name": choice.plan.tool,
            }
            return {**item, "arguments": text or "", "status": status}
        content = [] if text is None else [_part(text)]
        return {"id": f"msg_{choice.id}", "type": "message", "role": "assistant", "content": content, "status": status}

    def output(self) -> list[Any]:
        plan = self._choice.plan
        items = [self._item(0, "completed", plan.thoughts)] if plan.reasoning else []
        if plan.length > plan.reasoning or not plan.length:
            items.append(self._item(plan.reasoning, "completed", plan.content))
        return items

    def whole(self) -> bytes:
        return encode(self.response(self._status, self.output(), self.usage()))

    # -- events -------------------------------------------------------------------------------------------------

    def begin(self) -> bytes:
        begun = self.response("in_progress", [], None)
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        plan = choice.plan
        out: list[bytes] = []
        for at in range(start, stop):
            if at == plan.reasoning and at:
                out += self._item_done(0, 0, plan.thoughts)
            index = int(0 < plan.reasoning <= at)
            if at in (0, plan.reasoning):
                out += self._item_added(at, index)
            name, where = self._where(at, index)
            out.append(self._event(f"{name}.delta", **where, delta=plan.pieces[at]))
        if stop == plan.length and stop:
            index = int(0 < plan.reasoning < stop)
            out += self._item_done(stop - 1, index, plan.content if plan.reasoning < stop else plan.thoughts)
        return b"".join(out)

    def _where(self, at: int, index: int) -> tuple[str, dict[str, Any]]:
        where: dict[str, Any] = {"item_id": self._item(at, "", None)["id"], "output_index": index}
        if at < self._choice.plan.reasoning:
            return "response.reasoning_text", {**where, "content_index": 0}
        if self._choice.plan.tool is not None:
            return "response.function_call_arguments", where
        return "response.output_text", {**where, "content_index": 0}

    def _item_added(self, at: int, index: int) -> list[bytes]:
        item = self._item(at, "in_progress", None)
        out = [self._event("response.output_item.added", output_index=index, item=item)]
        if item["type"] == "message":
            where = self._where(at, index)[1]
            out.append(self._event("response.content_part.added", **where, part=_part("")))
        return out

    def _item_done(self, at: int, index: int, text: str) -> list[bytes]:
        name, where = self._where(at, index)
        member = "arguments" if name.endswith("arguments") else "text"
        out = [self._event(f"{name}.done", **where, **{member: text})]
        if name == "response.output_text":
            out.append(self._event("response.content_part.done", **where, part=_part(text)))
        item = self._item(at, "completed", text)
        return [*out, self._event("response.output_item.done", output_index=index, item=item)]

    def failure(self, message: str) -> bytes:
        failed = {**self.response("failed", [], None), "error": {"code": "server_error", "message": message}}
        return self._event("response.failed", response=failed)

    def end(self) -> bytes:
        status = self._status
        return self._event(f"response.{status}", response=self.response(status, self.output(), self.usage()))


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
