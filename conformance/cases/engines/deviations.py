"""What raw engines are known not to meet of the ``openai`` profile, since their adapters mend or refuse it. (P)

Learned from simulated engines that follow recordings and documentation, and from real llama.cpp. A failure that is not
here is news; one that is here and does not happen is told, too.
"""

from __future__ import annotations

from collections.abc import Mapping

Reasons = Mapping[str, str]

_ID = "it sends no x-request-id; the gateway's own stands on every answer"
_REFUSAL = "it leaves out members that may be null; SDKs read them as null"
_NUMBER = "its errors have a number for a code; the adapter makes them OpenAI's"
_FLAT = "its errors are flat, without the member error; the adapter makes them OpenAI's"
_STRING = "its errors are a string; the adapter makes them OpenAI's"
_CODE = "it has no codes of OpenAI's; the adapter knows unknown models and full contexts by status and words"
_ANY_MODEL = "it serves any model name; the gateway knows which there are"
_NO_MODEL = "it needs no model; the gateway does"
_ANY_ROLE = "it hands any role to the chat template"
_RANGES = "its ranges are wider than OpenAI's"
_UNCHECKED = "it does not look at it, or only once it is used"
_UNKNOWN_TOOL = "it does not look whether the tool that is named is there"
_IGNORED = "it ignores this; the adapter refuses it by name"
_CHUNKS = "chunks have no finish_reason until the last"
_CREATED = "it tells no time of creation; the gateway says 0"

_NO_IDS: Reasons = {"openai.connections.request-id*": _ID}
_CODES: Reasons = {"openai.errors.unknown-model-code": _CODE, "openai.errors.context-code": _CODE}
_ANY: Reasons = {
    "openai.errors.unknown-model*": _ANY_MODEL,
    "openai.errors.shape-model": _ANY_MODEL,
    "openai.errors.no-model": _NO_MODEL,
}
_LAX: Reasons = {
    "openai.errors.messages-type": _UNCHECKED,
    "openai.errors.role": _ANY_ROLE,
    "openai.errors.no-role": _UNCHECKED,
    "openai.errors.content-type": _UNCHECKED,
    "openai.errors.part-type": _UNCHECKED,
    "openai.errors.types*": _UNCHECKED,
    "openai.errors.model-type": _UNCHECKED,
    "openai.errors.ranges": _RANGES,
    "openai.formats.unknown": _UNCHECKED,
    "openai.tools.unknown-name": _UNKNOWN_TOOL,
}


def _without(reasons: Reasons, *names: str) -> Reasons:
    return {name: reason for name, reason in reasons.items() if name not in names}


def _errors(reason: str, responses: bool = True) -> Reasons:
    """All cases that look at the object of an error; ``responses``: it has the Responses API."""
    found = {
        "openai.errors.shape*": reason,
        "openai.errors.param": reason,
        "openai.errors.key-shape": reason,
        "openai.models.unknown-error": reason,
        "openai.responses.error": reason,
    }
    return found if responses else _without(found, "openai.responses.error")


_VLLM: Reasons = {
    **_NO_IDS,
    **_CODES,
    **_errors(_NUMBER),
    "openai.errors.role": _ANY_ROLE,
    "openai.errors.ranges": "a temperature above 2 is taken",
    "openai.errors.no-model": _NO_MODEL,
    "openai.errors.not-object": "a body that is no object is a 500 before 0.26",
    "openai.responses.text": "0.12's last event has the last piece of the text only",
    "openai.responses.incomplete": "before 0.26 a response that was cut says completed",
    "openai.embeddings.empty": "it embeds nothing, and says so with 200",
}

_SGLANG: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    **_CODES,
    **_ANY,
    **_without(_errors(_FLAT), "openai.models.unknown-error"),
    "openai.errors.envelope": _FLAT,
    "openai.errors.message": _FLAT,
    "openai.errors.not-object": "a body that is no object is a 500",
    "openai.errors.ranges": "a temperature above 2 is taken",
    "openai.tools.unknown-name": _UNKNOWN_TOOL,
}

_TGI: Reasons = {
    "openai.chat.ids": "all its ids are empty; the adapter puts the request's in",
    "openai.stream.id": "all its ids are empty; the adapter puts the request's in",
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    **_CODES,
    **_ANY,
    **_errors("its errors are strings, or text without JSON; the adapter makes them OpenAI's", False),
    "openai.errors.envelope": "what its framework refuses is told in text/plain",
    "openai.errors.message": "what its framework refuses is told in text/plain",
    "openai.errors.stream-status": "what its framework refuses is told in text/plain",
    "openai.errors.role": _ANY_ROLE,
    "openai.errors.n": _IGNORED,
    "openai.errors.ranges": _RANGES,
    "openai.n.*": _IGNORED,
    "openai.completions.n": _IGNORED,
    "openai.completions.logprobs": _IGNORED,
    "openai.completions.stream": "chunks before the last have an empty finish_reason; the adapter makes it null",
    "openai.completions.stream-usage": "usage comes with the last choice; the adapter gives it a chunk of its own",
    "openai.limits.stop-list": "finish_reason is stop_sequence; the adapter makes it stop",
    "openai.limits.stop-stream": "finish_reason is stop_sequence; the adapter makes it stop",
    "openai.models.created": _CREATED,
    "openai.stream.role-once": "the role is on every chunk; the adapter leaves it on the first",
    "openai.tools.required": "finish_reason is stop; the adapter makes it tool_calls",
    "openai.tools.auto": "finish_reason is stop; the adapter makes it tool_calls",
    "openai.tools.stream": "finish_reason is stop; the adapter makes it tool_calls",
    "openai.tools.ids": "every call's id is 0; the adapter makes ids",
    "openai.tools.stream-opening": "every delta repeats id and type; the adapter leaves them on the first",
    "openai.tools.unknown-name": _UNKNOWN_TOOL,
}

_DEEPSEEK: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    "openai.errors.unknown-model*": "an unknown model is a 400; the adapter makes it a 404",
    "openai.errors.param": "max_tokens is told by its newer name",
    "openai.errors.message": "max_tokens is told by its newer name",
}

_LLAMACPP: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    **_CODES,
    **_ANY,
    **_without(_LAX, "openai.formats.unknown"),
    **_errors(_NUMBER),
    "openai.completions.stream-usage": "usage comes with the last choice; the adapter gives it a chunk of its own",
    "openai.completions.prompts-stream": "an event of several prompts is an array",
    "openai.completions.echo": "it ignores echo",
    "openai.completions.logprobs": "logprobs have the shape of a chat's",
    "openai.connections.after-*": "it closes the connection after errors and streams",
    "openai.errors.empty-messages": "it applies the template to no message; the gateway refuses that",
    "openai.errors.max-tokens": "it takes a limit below 0 for none",
    "openai.errors.huge-numbers": _UNCHECKED,
    "openai.errors.temperature-negative": "it takes a temperature below 0 for 0",
    "openai.errors.top-p": _UNCHECKED,
    "openai.prompts.image": "an image that it cannot see is a 500",
    "openai.n.usage": "usage counts the tokens of one choice",
    "openai.responses.required-members": "required members of a response are missing",
    "openai.responses.incomplete": "a response that was cut says completed",
    "openai.responses.numbers": "its events have no numbers",
}

_OLLAMA: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    **_without(_CODES, "openai.errors.context-code"),
    **_LAX,
    "openai.completions.echo": _IGNORED,
    "openai.completions.logprobs": _IGNORED,
    "openai.completions.no-prompt": "without a prompt it loads the model and says nothing",
    "openai.errors.shape-path": "an unknown path is told in text/plain; the gateway serves what it knows",
    "openai.errors.param": "errors name no parameter",
    "openai.errors.max-tokens": "it takes a limit below 0 for none",
    "openai.errors.huge-numbers": _UNCHECKED,
    "openai.errors.n": _IGNORED,
    "openai.errors.temperature-negative": _UNCHECKED,
    "openai.errors.top-p": _UNCHECKED,
    "openai.errors.key-*": "it asks nobody for a key; the gateway does",
    "openai.n.*": _IGNORED,
    "openai.limits.max-completion-tokens": "it reads max_tokens only; the adapter renames the other",
    "openai.models.listed-once": "a model is listed with its tag, and served without it",
    "openai.tools.none": "tool_choice is ignored; the adapter leaves out the tools",
}

_THOUGHTS = "thoughts count in the total only; the adapter counts them as said"
_GEMINI: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    **_CODES,
    **_LAX,
    **_errors("its errors are Google's, in a list; the adapter makes them OpenAI's", False),
    "openai.errors.envelope": "its errors are Google's, in a list; the adapter makes them OpenAI's",
    "openai.errors.message": "its errors are Google's, in a list; the adapter makes them OpenAI's",
    "openai.errors.key-*": "a wrong key is a 400; the adapter says that the operator's key is wrong",
    "openai.chat.usage": _THOUGHTS,
    "openai.n.usage": _THOUGHTS,
    "openai.logprobs.*": _IGNORED,
    "openai.models.list*": _CREATED,
    "openai.models.created": _CREATED,
    "openai.models.one*": _CREATED,
    "openai.stream.required-members": _CHUNKS,
    "openai.stream.role-once": "the role is on every chunk; the adapter leaves it on the first",
    "openai.stream.usage*": "every chunk has the usage so far; the adapter keeps the last",
    "openai.tools.stream*": "streamed calls have no index; the adapter numbers them",
}

_HUGGINGFACE: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    "openai.chat.model": "the answer has the provider's name of the model; the adapter puts the client's back",
    "openai.stream.same-model": "the answer has the provider's name of the model; the adapter puts the client's back",
    **_CODES,
    **_without(_LAX, "openai.errors.model-type"),
    **_errors(_STRING),
    "openai.errors.envelope": _STRING,
    "openai.errors.message": _STRING,
    "openai.errors.unknown-model*": "an unknown model is a 400; the adapter makes it a 404",
}

_TRTLLM: Reasons = {
    "openai.chat.required-members": _REFUSAL,
    **_NO_IDS,
    **_CODES,
    **_without(_ANY, "openai.errors.no-model"),
    **_errors("its errors are strings or flat; the adapter makes them OpenAI's"),
    "openai.errors.envelope": "its errors are strings or flat; the adapter makes them OpenAI's",
    "openai.errors.message": "its errors are strings or flat; the adapter makes them OpenAI's",
    "openai.errors.role": _ANY_ROLE,
    "openai.errors.temperature-negative": _UNCHECKED,
    "openai.errors.top-p": _UNCHECKED,
    "openai.errors.ranges": _UNCHECKED,
    "openai.errors.huge-numbers": _UNCHECKED,
    "openai.errors.key-*": "it asks nobody for a key; the gateway does",
    "openai.stream.required-members": _CHUNKS,
    "openai.tools.unknown-name": _UNKNOWN_TOOL,
}

DEVIATIONS: Mapping[str, Reasons] = {
    "vllm": _VLLM,
    "sglang": _SGLANG,
    "tgi": _TGI,
    "openai": {},
    "deepseek": _DEEPSEEK,
    "llamacpp": _LLAMACPP,
    "ollama": _OLLAMA,
    "gemini": _GEMINI,
    "huggingface": _HUGGINGFACE,
    "trtllm": _TRTLLM,
}
"""Engine → pattern of case ids → reason."""
