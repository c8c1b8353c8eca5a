"""A compiler's front end for CEL, for rules in schemas: are they typed, and what do they cost at most?

An API server refuses a definition with a rule that names a member its schema does not have, that is no boolean, or
that may cost too much. Costs are reckoned as cel-go and Kubernetes do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import ceil
from typing import Any, NamedTuple

UNBOUNDED = 3 * 1024 * 1024
"""What a string, list or map without a bound is taken for: the size of a request."""
_TOKENS = re.compile(
    r"""\s*(?:(?P<text>r"[^"]*"|r'[^']*'|"[^"]*"|'[^']*')|(?P<int>\d+)|(?P<name>[A-Za-z_]\w*)"""
    r"""|(?P<sign>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]]))"""
)
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


class Wrong(Exception):
    """The rule does not compile."""


class Kind(NamedTuple):
    """A type: bool, int, string, duration, object, map or list, as large as ``size``; its parts."""

    name: str
    size: int = 1
    parts: Any = None


class Known(NamedTuple):
    kind: Kind
    cost: int


BOOL, INT, DURATION = Kind("bool"), Kind("int"), Kind("duration")


def kind_of(schema: dict[str, Any]) -> Kind | None:
    """What a rule sees of a schema; None: nothing."""
    match schema.get("type"):
        case "string":
            longest = 4 * schema["maxLength"] if "maxLength" in schema else UNBOUNDED
            if "enum" in schema and "maxLength" not in schema:
                longest = max(map(len, schema["enum"]))
            return Kind("string", longest)
        case "boolean":
            return BOOL
        case "integer":
            return INT
        case "array":
            item = kind_of(schema["items"])
            return item and Kind("list", schema.get("maxItems", UNBOUNDED), item)
        case "object" if "additionalProperties" in schema:
            item = kind_of(schema["additionalProperties"])
            return item and Kind("map", schema.get("maxProperties", UNBOUNDED), item)
        case "object":
            kinds = {name: kind_of(each) for name, each in schema.get("properties", {}).items()}
            return Kind("object", 1, {name: kind for name, kind in kinds.items() if kind is not None})
    return None


def cost(rule: str, schema: dict[str, Any]) -> int:
    """At most, of one evaluation. Raises Wrong."""
    kind = kind_of(schema)
    if kind is None:
        raise Wrong("a rule at a place that no rule sees")
    known = _Reader(rule, {"self": kind, "oldSelf": kind}).read()
    if known.kind != BOOL:
        raise Wrong(f"a rule that is a {known.kind.name}")
    return known.cost


def _tokens(rule: str) -> Iterator[str]:
    at = 0
    while at < len(rule.rstrip()):
        found = _TOKENS.match(rule, at)
        if found is None:
            raise Wrong(f"cannot read {rule[at:]!r}")
        yield found[0].strip()
        at = found.end()


class _Reader:
    """Reads and types at once, by recursive descent."""

    def __init__(self, rule: str, names: dict[str, Kind]) -> None:
        self.tokens = [*_tokens(rule), ""]
        self.at = 0
        self.names = names

    def read(self) -> Known:
        known = self.choice()
        self.take("")
        return known

    def take(self, *wanted: str) -> str:
        token = self.tokens[self.at]
        if token not in wanted:
            raise Wrong(f"expected {wanted}, got {token!r}")
        self.at += 1
        return token

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def given(self, token: str) -> bool:
        found = self.tokens[self.at] == token
        self.at += found
        return found

    # --- expressions --------------------------------------------------------------------------------------------------

    def choice(self) -> Known:
        condition = self.binary(0)
        if not self.given("?"):
            return condition
        yes = self.choice()
        self.take(":")
        no = self.choice()
        if condition.kind != BOOL or yes.kind.name != no.kind.name:
            raise Wrong("a choice between types")
        return Known(yes.kind, condition.cost + max(yes.cost, no.cost))

    def binary(self, level: int) -> Known:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.tokens[self.at] in _LEVELS[level]:
            sign = self.next()
            left = _joined(sign, left, self.binary(level + 1))
        return left

    def unary(self) -> Known:
        if self.given("!"):
            known = self.unary()
            if known.kind != BOOL:
                raise Wrong(f"not a {known.kind.name}")
            return Known(BOOL, known.cost + 1)
        known = self.primary()
        while self.tokens[self.at] in (".", "["):
            known = self.member(known) if self.next() == "." else self.indexed(known)
        return known

    def primary(self) -> Known:
        token = self.next()
        if token == "(":
            known = self.choice()
            self.take(")")
            return known
        if token == "[":
            return self.listed()
        if token in ("true", "false"):
            return Known(BOOL, 0)
        if token.isdigit():
            return Known(INT, 0)
        if token[:1] in "'\"" or token[:2] in ("r'", 'r"'):
            return Known(Kind("string", len(token) - 2 - (token[0] == "r")), 0)
        if self.given("("):
            return self.called(token)
        if token not in self.names:
            raise Wrong(f"no {token!r} here")
        return Known(self.names[token], 1)

    def listed(self) -> Known:
        items = [self.choice()]
        while self.given(","):
            items.append(self.choice())
        self.take("]")
        if len({item.kind.name for item in items}) > 1:
            raise Wrong("a list of several types")
        return Known(Kind("list", len(items), items[0].kind), 10 + sum(item.cost for item in items))

    def called(self, name: str) -> Known:
        argument = self.choice()
        self.take(")")
        if name == "has":
            if self.tokens[self.at - 3] != ".":
                raise Wrong("has() of what is no member")
            return Known(BOOL, argument.cost)
        if name == "size" and argument.kind.name in ("string", "list", "map"):
            return Known(INT, argument.cost + 1)
        if name == "duration" and argument.kind.name == "string":
            return Known(DURATION, argument.cost + 1)
        raise Wrong(f"no function {name}({argument.kind.name})")

    def indexed(self, known: Known) -> Known:
        key = self.choice()
        self.take("]")
        if known.kind.name not in ("map", "list"):
            raise Wrong(f"no members in a {known.kind.name}")
        return Known(known.kind.parts, known.cost + key.cost + 1)

    def member(self, known: Known) -> Known:
        name = self.next()
        if self.given("("):
            return self.method(known, name)
        if known.kind.name != "object" or name not in known.kind.parts:
            raise Wrong(f"no member {name!r}")
        return Known(known.kind.parts[name], known.cost + 1)

    def method(self, known: Known, name: str) -> Known:
        if name in ("all", "exists", "exists_one"):
            return self.walked(known)
        argument = None if self.given(")") else self.choice()
        if argument is not None:
            self.take(")")
        if known.kind.name != "string":
            raise Wrong(f"no {name} of a {known.kind.name}")
        if name == "lowerAscii" and argument is None:
            return Known(known.kind, known.cost + ceil(known.kind.size / 10))
        if name == "matches" and argument is not None and argument.kind.name == "string":
            price = ceil((known.kind.size + 1) / 10) * ceil(argument.kind.size / 4)
            return Known(BOOL, known.cost + argument.cost + price)
        raise Wrong(f"no method {name}")

    def walked(self, known: Known) -> Known:
        if known.kind.name not in ("list", "map"):
            raise Wrong(f"cannot go through a {known.kind.name}")
        name, outer = self.next(), self.names
        self.take(",")
        self.names = {**outer, name: known.kind.parts if known.kind.name == "list" else Kind("string", 0)}
        each = self.choice()
        self.names = outer
        self.take(")")
        if each.kind != BOOL:
            raise Wrong(f"a condition that is a {each.kind.name}")
        return Known(BOOL, known.cost + 3 + known.kind.size * (each.cost + 5))


def _joined(sign: str, left: Known, right: Known) -> Known:
    price = left.cost + right.cost
    if sign in ("&&", "||"):
        if left.kind != BOOL or right.kind != BOOL:
            raise Wrong(f"{sign} of a {left.kind.name} and a {right.kind.name}")
        return Known(BOOL, price)
    if sign == "in":
        if right.kind.name not in ("map", "list"):
            raise Wrong(f"in a {right.kind.name}")
        return Known(BOOL, price + (right.kind.size if right.kind.name == "list" else 1))
    if left.kind.name != right.kind.name:
        raise Wrong(f"{sign} of a {left.kind.name} and a {right.kind.name}")
    if sign in ("==", "!=", "<", "<=", ">", ">="):
        return Known(BOOL, price + max(1, ceil(min(left.kind.size, right.kind.size) / 10)))
    return Known(left.kind, price + 1)
