"""What holds an answer to a form, beyond OpenAI's ``response_format``: one engine's words for it in another's. (P)

Invariant: an answer is never left unconstrained that was to be constrained: what an engine has no word for is refused.
Sources: the request models of vLLM 0.6 to 0.33, SGLang 0.5.23, TensorRT-LLM's serve; llama-server's README.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from adapters import dialect
from adapters.shapes import invalid, read
from gateway.wire import splice


class Constraint(NamedTuple):
    """``kind``: json, json_object, regex, choice or grammar. ``value`` is JSON text; ``member`` is where it stood."""

    kind: str
    value: bytes
    member: str


Writer = Callable[[bytes], tuple[str, bytes]]
"""The constraint's value → the member that an engine has for it, and that member's value, both as JSON text."""

_FLAT: Final[Mapping[str, str]] = {
    "guided_json": "json",
    "guided_json_object": "json_object",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "regex": "regex",
    "ebnf": "grammar",
    "json_schema": "json",
}
"""vLLM's before 0.12, then SGLang's."""

NESTED: Final = "structured_outputs"
"""vLLM's since 0.11: an object with one of the kinds."""

_KINDS: Final = frozenset(_FLAT.values())
_VALUES: Final = {"json": "a JSON schema", "choice": "a list of texts"}
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXTS: Final = msgspec.json.Decoder(Annotated[list[str], msgspec.Meta(min_length=1)])
MEMBERS: Final = frozenset((*_FLAT, NESTED))
FORMAT: Final = "response_format"


def foreign(watched: dialect.Members, spoken: Collection[str]) -> list[Constraint]:
    """The constraints among a request's members that its engine does not know by that name."""
    found: list[Constraint] = []
    for name, raw in watched.items():
        if name in MEMBERS and name not in spoken and dialect.always(dialect.decoded(raw, name), {}):
            found += _inside(name, raw) if name == NESTED else [Constraint(_FLAT[name], bytes(raw), name)]
    return found


def _inside(name: str, raw: msgspec.Raw) -> list[Constraint]:
    """``structured_outputs``: its one kind, and options that nobody else has."""
    given = [(kind, bytes(value)) for kind, value in read(_OBJECT, raw, name).items()]
    return [Constraint(kind, value, name) for kind, value in given if value not in (b"null", b"false")]


def written(engine: str, found: Sequence[Constraint], writers: Mapping[str, Writer], body: bytes) -> bytes:
    """``body`` with what was found in the engine's words. Raises Unsupported where it has none, or has to take one of
    several, InvalidRequest for a value that is none of its kind.
    """
    (kind, value, named), *more = found
    if kind not in writers or more:
        raise dialect.unsupported(engine, more[0].member if more else named)
    given = dialect.value(dialect.members(body), FORMAT)
    if isinstance(given, dict) and given.get("type", "text") != "text":
        raise dialect.unsupported(engine, named, why=f"not together with '{FORMAT}'")
    try:
        name, value = writers[kind](value)
    except (ValueError, RecursionError):
        raise invalid(named, f"expected {_VALUES.get(kind, 'another type')}") from None
    return splice.insert(splice.remove(body, [named, name, FORMAT]), name, value)


def member(name: str) -> Writer:
    """The value as it is, in a member of this name."""
    return lambda value: (name, value)


def nested(kind: str) -> Writer:
    return lambda value: (NESTED, b'{"%b":%b}' % (kind.encode(), value))


def in_format(template: bytes) -> Writer:
    """Into a ``response_format`` with a place for the value."""
    return lambda value: (FORMAT, template % value)


def schema(write: Writer) -> Writer:
    """For a value that is a JSON schema: vLLM and SGLang also take one as text. Raises ValueError."""
    return lambda value: write(_unquoted(value))


def _unquoted(value: bytes) -> bytes:
    if not value.startswith(b'"'):
        return value
    text = msgspec.json.decode(value, type=str)
    _OBJECT.decode(text)
    return text.encode()


def chosen(write: Writer, form: Callable[[list[str]], str]) -> Writer:
    """For a value that is a list of texts, of which the answer is to be one. Raises ValueError."""
    return lambda value: write(msgspec.json.encode(form(_TEXTS.decode(value))))


def as_grammar(texts: list[str]) -> str:
    """As a grammar in EBNF, which GBNF and xgrammar read alike."""
    return "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)


def as_regex(texts: list[str]) -> str:
    return f"({'|'.join(_META.sub(_escaped, text) for text in texts)})"


_META: Final = re.compile(r"[\\.^$*+?{}\[\]|()]")


def _escaped(found: re.Match[str]) -> str:
    return "\\" + found.group()


VLLM: Final[Mapping[str, Writer]] = {kind: nested(kind) for kind in _KINDS}
VLLM_BEFORE_0_11: Final[Mapping[str, Writer]] = {kind: member(f"guided_{kind}") for kind in _KINDS}
_ANY_OBJECT: Final = b'{"type":"json_object"}'
_IN_OPENAI: Final = schema(in_format(b'{"type":"json_schema","json_schema":{"name":"answer","schema":%b}}'))
OPENAI: Final[Mapping[str, Writer]] = {"json": _IN_OPENAI, "json_object": lambda _: (FORMAT, _ANY_OBJECT)}
"""For whoever has OpenAI's ``response_format`` and nothing else."""
OBJECTS: Final[Mapping[str, Writer]] = {"json_object": OPENAI["json_object"]}
SGLANG: Final[Mapping[str, Writer]] = {
    **OPENAI,
    "regex": member("regex"),
    "grammar": member("ebnf"),
    "choice": chosen(member("ebnf"), as_grammar),
}
TENSORRT: Final[Mapping[str, Writer]] = {
    "json": schema(in_format(b'{"type":"json","schema":%b}')),
    "json_object": OPENAI["json_object"],
    "regex": in_format(b'{"type":"regex","regex":%b}'),
    "grammar": in_format(b'{"type":"ebnf","ebnf":%b}'),
    "choice": chosen(in_format(b'{"type":"ebnf","ebnf":%b}'), as_grammar),
}
LLAMACPP: Final[Mapping[str, Writer]] = {
    "json": schema(member("json_schema")),
    "json_object": lambda _: ("json_schema", b'{"type":"object"}'),
    "choice": chosen(member("grammar"), as_grammar),
}
TGI: Final[Mapping[str, Writer]] = {
    "json": schema(in_format(b'{"type":"json","value":%b}')),
    "json_object": lambda _: (FORMAT, b'{"type":"json","value":{"type":"object"}}'),
    "regex": in_format(b'{"type":"regex","value":%b}'),
    "choice": chosen(in_format(b'{"type":"regex","value":%b}'), as_regex),
}
