"""What an HTTPRoute's rules come to, backends apart: matches, filters, timeouts. (P)

Invariant: a rule either comes to all that it says, or its problems are told, each with its path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final

from gateway.config import duration
from gateway.config.gateway_objects import (
    FieldSpec,
    FilterSpec,
    HeaderModifier,
    HeaderValue,
    MatchSpec,
    PathModifier,
    PathSpec,
    RedirectSpec,
    RewriteSpec,
    RouteSpec,
    RuleSpec,
    Timeouts,
)
from gateway.config.resources import is_header_name, is_header_value
from gateway.expression import Allowance, Expression
from gateway.httproute import Changes, Field, HttpMatch, HttpRule, PathMatch, Redirect, Rewrite

_PATH: Final = re.compile(r"/[\x21-\x7e]*\Z")
_HOST: Final = re.compile(r"[a-z0-9.-]+\Z", re.IGNORECASE)
_KINDS: Final = {"Exact": "exact", "PathPrefix": "prefix", "RegularExpression": "regex"}
_OWN: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade", "te",
     "trailer", "expect", "accept-encoding"),
)  # fmt: skip
_STATUSES: Final = (301, 302, 303, 307, 308)


class Rules:
    """Translates the rules of one HTTPRoute; what cannot be is added to ``problems`` as "path: message"."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._allowance = Allowance()

    def of(self, spec: RouteSpec) -> tuple[HttpRule, ...]:
        """One for each, still without shares."""
        return tuple(self._rule(f"$.spec.rules[{index}]", rule) for index, rule in enumerate(spec.rules))

    def _refuse(self, path: str, message: str) -> None:
        self.problems.append(f"{path}: {message}")

    def _rule(self, path: str, rule: RuleSpec) -> HttpRule:
        matches = [self._match(f"{path}.matches[{n}]", match) for n, match in enumerate(rule.matches)]
        for index, ref in enumerate(rule.backend_refs):
            if ref.filters:
                self._refuse(f"{path}.backendRefs[{index}].filters", "filters of one backend are not supported")
        given = self._filters(path, rule)
        rewrite = given.get("URLRewrite")
        redirect = given.get("RequestRedirect")
        return HttpRule(
            matches=tuple(matches) or (HttpMatch(),),
            name=rule.name,
            request=self._changes(given.get("RequestHeaderModifier"), "requestHeaderModifier"),
            response=self._changes(given.get("ResponseHeaderModifier"), "responseHeaderModifier"),
            rewrite=None if rewrite is None else self._rewrite(*rewrite, rule),
            redirect=None if redirect is None else self._redirect(*redirect, rule),
            timeout=self._timeout(f"{path}.timeouts", rule.timeouts),
        )

    # -- matches --------------------------------------------------------------------------------------------------

    def _match(self, path: str, match: MatchSpec) -> HttpMatch:
        return HttpMatch(
            self._path(f"{path}.path", match.path),
            match.method,
            self._fields(f"{path}.headers", match.headers, lower=True),
            self._fields(f"{path}.queryParams", match.query_params),
        )

    def _path(self, path: str, spec: PathSpec) -> PathMatch:
        kind = _KINDS.get(spec.type)
        if kind == "regex":
            return PathMatch("regex", spec.value, self._regex(f"{path}.value", spec.value))
        if kind is None:
            self._refuse(f"{path}.type", f"{spec.type} is not supported; {', '.join(_KINDS)} are")
        elif not spec.value.startswith("/"):
            self._refuse(f"{path}.value", "a path begins with a slash")
        return PathMatch("exact" if kind == "exact" else "prefix", spec.value)

    def _fields(self, path: str, specs: Iterable[FieldSpec], *, lower: bool = False) -> tuple[Field, ...]:
        """Of a name given twice the first counts."""
        found: dict[str, Field] = {}
        for index, spec in enumerate(specs):
            name, regex = spec.name.lower() if lower else spec.name, None
            if spec.type == "RegularExpression":
                regex = self._regex(f"{path}[{index}].value", spec.value)
            elif spec.type != "Exact":
                self._refuse(f"{path}[{index}].type", f"{spec.type} is not supported; Exact, RegularExpression are")
            found.setdefault(name, Field(name, spec.value, regex))
        return tuple(found.values())

    def _regex(self, path: str, text: str) -> Expression | None:
        try:
            return self._allowance.read(text, whole=True)
        except ValueError as error:
            self._refuse(path, str(error))
            return None

    # -- filters --------------------------------------------------------------------------------------------------

    def _filters(self, path: str, rule: RuleSpec) -> dict[str, tuple[str, FilterSpec]]:
        """By type, each with its path."""
        found: dict[str, tuple[str, FilterSpec]] = {}
        for index, spec in enumerate(rule.filters):
            where = f"{path}.filters[{index}]"
            if spec.type not in _FILTERS:
                self._refuse(f"{where}.type", f"{spec.type} is not supported; {', '.join(_FILTERS)} are")
            elif spec.type in found:
                self._refuse(f"{where}.type", f"{spec.type} is given twice")
            found.setdefault(spec.type, (where, spec))
        if "URLRewrite" in found and "RequestRedirect" in found:
            self._refuse(f"{path}.filters", "URLRewrite and RequestRedirect exclude each other")
        return found

    def _changes(self, given: tuple[str, FilterSpec] | None, member: str) -> Changes | None:
        if given is None:
            return None
        path, spec = f"{given[0]}.{member}", given[1]
        modifier: HeaderModifier = (
            spec.request_header_modifier if member.startswith("request") else spec.response_header_modifier
        )
        for index, name in enumerate(modifier.remove):
            self._check_name(f"{path}.remove[{index}]", name)
        return Changes(
            self._values(f"{path}.set", modifier.set),
            self._values(f"{path}.add", modifier.add),
            tuple(name.lower().encode("latin-1", "replace") for name in modifier.remove),
        )

    def _values(self, path: str, values: Iterable[HeaderValue]) -> tuple[tuple[bytes, bytes], ...]:
        made = []
        for index, field in enumerate(values):
            self._check_name(f"{path}[{index}].name", field.name)
            if field.value and not is_header_value(field.value):
                self._refuse(f"{path}[{index}].value", "not a header value (printable ASCII, no space at its ends)")
            made.append((field.name.lower().encode("latin-1", "replace"), field.value.encode("latin-1", "replace")))
        return tuple(made)

    def _check_name(self, path: str, name: str) -> None:
        if not is_header_name(name):
            self._refuse(path, "not a header name")
        elif name.lower() in _OWN:
            self._refuse(path, "the gateway sets this header itself")

    def _rewrite(self, path: str, spec: FilterSpec, rule: RuleSpec) -> Rewrite | None:
        given: RewriteSpec = spec.url_rewrite
        if given.hostname:
            self._refuse(f"{path}.urlRewrite.hostname", "not supported: an engine is asked under its own address")
        return self._replaced(f"{path}.urlRewrite.path", given.path, rule)

    def _redirect(self, path: str, spec: FilterSpec, rule: RuleSpec) -> Redirect:
        given: RedirectSpec = spec.request_redirect
        path = f"{path}.requestRedirect"
        if given.scheme not in (None, "http", "https"):
            self._refuse(f"{path}.scheme", "expected http or https")
        if given.hostname is not None and not _HOST.match(given.hostname):
            self._refuse(f"{path}.hostname", "not a hostname")
        if given.status_code not in _STATUSES:
            self._refuse(f"{path}.statusCode", f"expected one of {', '.join(map(str, _STATUSES))}")
        replaced = self._replaced(f"{path}.path", given.path, rule)
        return Redirect(given.scheme, given.hostname, given.port, replaced, given.status_code)

    def _replaced(self, path: str, given: PathModifier | None, rule: RuleSpec) -> Rewrite | None:
        if given is None:
            return None
        if given.type == "ReplaceFullPath":
            if not _PATH.match(given.replace_full_path):
                self._refuse(f"{path}.replaceFullPath", "not a path")
            return Rewrite(full=given.replace_full_path)
        if given.type != "ReplacePrefixMatch":
            self._refuse(f"{path}.type", f"{given.type} is not supported; ReplaceFullPath, ReplacePrefixMatch are")
        elif given.replace_prefix_match and not _PATH.match(given.replace_prefix_match):
            self._refuse(f"{path}.replacePrefixMatch", "not a path")
        elif any(match.path.type != "PathPrefix" for match in rule.matches):
            self._refuse(f"{path}.type", "ReplacePrefixMatch needs matches by PathPrefix")
        return Rewrite(prefix=given.replace_prefix_match)

    def _timeout(self, path: str, given: Timeouts) -> float:
        """Of the whole; a backend's is no longer than that, and there is but one for both. 0 is none."""
        found = math.inf
        for member, text in (("request", given.request), ("backendRequest", given.backend_request)):
            try:
                found = min(found, (text and duration.parse(text)) or math.inf)
            except ValueError as error:
                self._refuse(f"{path}.{member}", str(error))
        return found


_FILTERS: Final = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite")
