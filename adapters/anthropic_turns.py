"""A chat's messages as turns of Anthropic's Messages, and what stands before them. (P)

Invariant: turns alternate, and each tool result stands at the head of the user's turn after its call.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from adapters import dialect
from adapters.shapes import absent, arguments, data_url, invalid, read

TITLE: Final = "Anthropic"
Blocks = list[dict[str, Any]]

_ABSENT: Final = msgspec.Raw()


class _Image(msgspec.Struct):
    url: str


class _File(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _Image | str | None = None
    file: _File | None = None
    cache_control: msgspec.Raw = _ABSENT


class _Called(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _Call(msgspec.Struct):
    id: str
    function: _Called


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    thinking_blocks: list[dict[str, Any]] | None = None
    function_call: msgspec.Raw = _ABSENT


_MESSAGES: Final = msgspec.json.Decoder(list[_Message])
_NULL: Final = msgspec.Raw(b"null")


def conversation(raw: msgspec.Raw | None) -> tuple[Blocks, Blocks]:
    """What stands before the turns, wherever it stood in the chat, and the turns. Raises InvalidRequest."""
    messages = read(_MESSAGES, _NULL if raw is None else raw, "messages")
    system: Blocks = []
    turns: Blocks = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        role, content = message.role, message.content
        if role == "user":
            _say(turns, "user", content if isinstance(content, str) else _parts(content, where))
        elif role == "assistant":
            _say(turns, "assistant", _answer(message, where))
        elif role == "tool":
            _say(turns, "user", [_result(message, where)])
        elif role in ("system", "developer"):
            system += _blocks(content if isinstance(content, str) else _parts(content, where, text_only=True))
        else:
            raise invalid(f"{where}.role", "expected system, developer, user, assistant or tool")
    return system, turns


def _say(turns: Blocks, role: str, content: str | Blocks) -> None:
    """Add to whoever spoke last, if it is the same; nobody is given an empty turn by what says nothing."""
    if not turns or turns[-1]["role"] != role:
        if content or role == "user":
            turns.append({"role": role, "content": content})
        return
    said = turns[-1]["content"]
    if isinstance(said, str):
        turns[-1]["content"] = said = _blocks(said)
    said += _blocks(content)


def _blocks(content: str | Blocks) -> Blocks:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _answer(message: _Message, where: str) -> str | Blocks:
    """Thoughts come first and unchanged: their signatures are looked at."""
    if not absent(message.function_call):
        raise dialect.unsupported(TITLE, f"{where}.function_call")
    content = message.content
    if isinstance(content, str) and not message.tool_calls and not message.thinking_blocks:
        return content
    thoughts = _thoughts(message.thinking_blocks or [], message.reasoning_content or "")
    said = _blocks(content if isinstance(content, str) else _parts(content, where))
    if not said and message.refusal:
        said = _blocks(message.refusal)
    calls = [
        {"type": "tool_use", "id": c.id, "name": c.function.name, "input": arguments(c.function.arguments)}
        for c in message.tool_calls or ()
    ]
    return [*thoughts, *said, *calls]


def _thoughts(blocks: Blocks, text: str) -> Blocks:
    """A stream gives the signature alone; what it signs is in ``reasoning_content``, where several cannot be told
    apart: then there are none, rather than some that were signed otherwise.
    """
    bare = [block.get("type") == "thinking" and "thinking" not in block for block in blocks]
    if sum(bare) > 1:
        return []
    return [{**block, "thinking": text} if alone else block for alone, block in zip(bare, blocks, strict=True)]


def _result(message: _Message, where: str) -> dict[str, Any]:
    if message.tool_call_id is None:
        raise invalid(f"{where}.tool_call_id", "a tool's answer needs it")
    content = message.content
    made = content if isinstance(content, str) else _parts(content, where)
    return {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": made}


def _parts(parts: list[_Part] | None, where: str, *, text_only: bool = False) -> Blocks:
    blocks = []
    for at, part in enumerate(parts or ()):
        here = f"{where}.content[{at}]"
        if part.type == "text":
            if part.text:
                blocks.append(marked({"type": "text", "text": part.text}, part.cache_control))
        elif text_only:
            raise invalid(f"{here}.type", "expected text")
        elif part.type == "image_url":
            blocks.append(marked(_image(part.image_url, here), part.cache_control))
        elif part.type == "file":
            blocks.append(marked(_document(part.file, here), part.cache_control))
        elif part.type == "refusal":
            blocks += _blocks(part.refusal or "")
        else:
            raise dialect.unsupported(TITLE, f"{here}.type", why=f"no content of type '{part.type[:40]}'")
    return blocks


def _image(image: _Image | str | None, where: str) -> dict[str, Any]:
    url = image.url if isinstance(image, _Image) else image or ""
    inline = data_url(url)
    if inline is not None:
        return {"type": "image", "source": {"type": "base64", "media_type": inline[0], "data": inline[1]}}
    if not url.startswith(("https://", "http://")):
        raise invalid(f"{where}.image_url.url", "expected an http URL or a data URL in base64")
    return {"type": "image", "source": {"type": "url", "url": url}}


def _document(file: _File | None, where: str) -> dict[str, Any]:
    inline = data_url(file.file_data) if file is not None and file.file_data else None
    if file is None or inline is None:
        raise dialect.unsupported(TITLE, f"{where}.file", why="its bytes it takes, as a data URL in base64")
    source = {"type": "base64", "media_type": inline[0], "data": inline[1]}
    title = {"title": file.filename} if file.filename else {}
    return {"type": "document", "source": source, **title}


def marked(block: dict[str, Any], control: msgspec.Raw) -> dict[str, Any]:
    """The block with Anthropic's mark of where a prompt may be cached, if the client put one there."""
    if not absent(control):
        block["cache_control"] = control
    return block


def thoughtful(turns: Blocks) -> bool:
    """Whether every turn that calls tools begins with thoughts."""
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant" and isinstance(turn["content"], list)]
    return all(
        said[0].get("type") in ("thinking", "redacted_thinking")
        for said in answers
        if any(block.get("type") == "tool_use" for block in said)
    )
