"""A simulated trtllm-serve, TensorRT-LLM 1.2: vLLM's routes with its own errors and two metrics pages. (T)"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

from conformance.engines import intake, pydantic, text, trtllm_metrics
from conformance.engines.ask import Ask
from conformance.engines.call import Call, Headers, Refusal, Route
from conformance.engines.engine import Engine
from conformance.engines.forms import DONE, Form, encode, event
from conformance.engines.pydantic import Flaw
from conformance.engines.responses import Responses
from conformance.engines.settings import Settings
from conformance.engines.trtllm_forms import TrtChat, TrtCompletion

_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 501: "NotImplementedError"}
_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


class TensorRT(Engine):
    """Whatever the model is called in a request, it is the one that is served. No key is asked for."""

    kind: ClassVar[str] = "trtllm"
    newest: ClassVar[str] = "1.2.0"
    keep_alive_s: ClassVar[float] = 5.0
    own_headers: ClassVar[Headers] = ((b"server", b"uvicorn"),)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._iterations: deque[dict[str, Any]] = deque(maxlen=1000)
        self._told = 0

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        get, post = "GET", "POST"
        return {
            "/health": {get: self._health},
            "/health_generate": {get: self._health_generate},
            "/version": {get: self._version},
            "/v1/models": {get: self._models},
            "/metrics": {get: self._statistics},
            "/prometheus/metrics": {get: self._prometheus},
            "/server_info": {get: self._info},
            "/v1/chat/completions": {post: self._chat},
            "/v1/completions": {post: self._completions},
            "/v1/responses": {post: self._responses},
        }

    def inference(self, path: str) -> bool:
        return super().inference(path) and path != "/prometheus/metrics"

    # -- shapes -------------------------------------------------------------------------------------------------

    def error(self, status: int, message: str, kind: str = "", param: str | None = None, code: str = "") -> Refusal:
        kind = kind or _TYPES.get(status, "ServiceUnavailableError" if status == 503 else "InternalServerError")
        body = {"object": "error", "message": message, "type": kind, "param": None, "code": status}
        return Refusal(status, encode(body))

    def busy(self, call: Call, ask: Ask) -> Refusal:
        return self.error(503, "The server is overloaded. Please try again later.")

    def stream_error(self, message: str) -> bytes:
        error = {"object": "error", "message": message, "type": "InternalServerError", "param": None, "code": 500}
        return event({"error": error}) + DONE

    def invalid(self, flaw: Flaw) -> Refusal:
        """What the framework finds wrong is a text, made of its list of flaws."""
        where = ("body",) if flaw.member == "" else ("body", flaw.member)
        detail: dict[str, Any] = {"type": flaw.kind, "loc": where, "msg": flaw.message, "input": flaw.input}
        if flaw.context:
            detail["ctx"] = {"error": flaw.context}
        return Refusal(400, encode({"error": str([detail])}))

    def bad_json(self, call: Call, error: Exception) -> Refusal:
        return self.invalid(pydantic.bad_json(call.body))

    def not_object(self, call: Call, value: Any) -> Refusal:
        return self.invalid(pydantic.not_object(value))

    # -- checks -------------------------------------------------------------------------------------------------

    def read(self, call: Call, *required: str) -> dict[str, Any]:
        fields = self.decode(call)
        flaw = pydantic.missing(fields, "model", *required) or pydantic.mistyped(fields)
        if flaw is not None:
            raise self.invalid(flaw)
        for name in ("max_tokens", "max_completion_tokens", "n"):
            if fields.get(name) is not None and fields[name] < 1:
                raise self.error(400, f"require {name} > 0, got {name}={fields[name]}")
        return fields

    def check_length(self, ask: Ask) -> None:
        longest = self.settings.model_len
        tokens = max(text.count(prompt) for prompt in ask.prompts)
        if tokens < longest:
            return
        room = longest - tokens
        sum_ = f"max_seq_len ({longest}) - `splited_prompt_len` ({tokens}) - `query_token_len` (0)"
        raise self.error(400, f"`default_max_tokens` ({room}) should be greater than 0, `default_max_tokens` = {sum_}")

    # -- endpoints ----------------------------------------------------------------------------------------------

    async def _chat(self, call: Call) -> None:
        fields = self.read(call, "messages")
        if not fields["messages"]:
            raise self.error(400, "list index out of range")
        await self._run(call, intake.chat(fields, fields["model"]), TrtChat, "chatcmpl-")

    async def _completions(self, call: Call) -> None:
        fields = self.read(call, "prompt")
        await self._run(call, intake.completion(fields, fields["model"]), TrtCompletion, "cmpl-")

    async def _responses(self, call: Call) -> None:
        fields = self.read(call, "input")
        await self._run(call, intake.responses(fields, fields["model"]), Responses, "resp_")

    async def _run(self, call: Call, ask: Ask, form: type[Form], prefix: str) -> None:
        """``max_tokens`` beyond the room there is is cut to it."""
        ask.reasons = "reason" in self.models[0].lower() or "reason" in ask.model.lower()
        self.check_length(ask)
        id = prefix + self.new_id(32)
        choices = self.choices(ask, id, f"call_{self.new_id(24)}")
        self._iterations.append(trtllm_metrics.iteration(self.model))
        await self.generate(call, ask, form(ask, choices, id, int(self.wall())))

    async def _health(self, call: Call) -> None:
        await call.exchange.respond(200, self.own_headers)

    async def _health_generate(self, call: Call) -> None:
        await self.reply(call, b"Generation health check OK", content_type=b"text/plain; charset=utf-8")

    async def _version(self, call: Call) -> None:
        await self.reply(call, {"version": self.version})

    async def _info(self, call: Call) -> None:
        await self.reply(call, {"disaggregated_params": {}})

    async def _models(self, call: Call) -> None:
        card = {"id": self.models[0], "object": "model", "created": int(self.wall()), "owned_by": "tensorrt_llm"}
        await self.reply(call, {"object": "list", "data": [card]})

    async def _statistics(self, call: Call) -> None:
        """What has not been handed out yet, and how it is now if anything was computed since."""
        found = list(self._iterations)
        self._iterations.clear()
        if self.model.statistics.steps != self._told or self.model.batch.held:
            found.append(trtllm_metrics.iteration(self.model))
        self._told = self.model.statistics.steps
        await self.reply(call, found)

    async def _prometheus(self, call: Call) -> None:
        page = trtllm_metrics.page(self.model, self.models[0])
        await self.reply(call, page, content_type=_PROMETHEUS)
