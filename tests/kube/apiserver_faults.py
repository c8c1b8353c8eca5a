"""What goes wrong on demand, who may do what, and what was asked. (P)"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from tests.kube.apiserver_store import Refusal

Tree = dict[str, Any]
REASONS = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
    422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One request as faults, permissions and the record see it."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    name: str = ""
    part: str = ""

    @property
    def full(self) -> str:
        return f"{self.resource}.{self.group}" if self.group else self.resource

    def is_of(self, verb: str, resource: str, namespace: str = "*") -> bool:
        """Resources go by `pods`, `pods/status`, `leases.coordination.k8s.io` or `*`; without a part, of any part."""
        name, _, part = resource.partition("/")
        return (
            verb in ("*", self.verb)
            and name in ("*", self.resource, self.full)
            and part in ("", self.part)
            and namespace in ("*", self.namespace)
        )


@dataclass
class Fault:
    """What happens to the next ``count`` requests that match (-1: to all). ``mode``: of streams, or "drop"."""

    verb: str = "*"
    resource: str = "*"
    namespace: str = "*"
    name: str = "*"
    status: int = 0
    mode: str = ""
    count: int = 1
    delay: float = 0.0
    reason: str = ""
    message: str = ""
    retry_after: int | None = None

    def refusal(self) -> Refusal:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        details = None if self.retry_after is None else {"retryAfterSeconds": self.retry_after}
        reason = self.reason or REASONS.get(self.status, "Unknown")
        return Refusal(self.status, reason, self.message or "asked to fail", details, headers)


@dataclass
class Trouble:
    """Faults, permissions and the record of one server."""

    faults: list[Fault] = field(default_factory=list)
    denied: list[tuple[str, str, str]] = field(default_factory=list)
    rules: list[Tree] | None = None
    tokens: list[str] = field(default_factory=list)
    record: list[Tree] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    gone_as_status: bool = False

    def next(self, asked: Asked) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                named = fault.name in ("*", asked.name)
                if fault.count and named and asked.is_of(fault.verb, fault.resource, fault.namespace):
                    fault.count -= fault.count > 0
                    return fault
        return None

    def allows(self, asked: Asked) -> bool:
        for verb, resource, namespace in self.denied:
            if asked.is_of(verb, resource, namespace):
                return False
        return self.rules is None or any(_grants(rule, asked) for rule in self.rules)

    def authorize(self, asked: Asked, user: str) -> None:
        """Raises Refusal 403."""
        if self.allows(asked):
            return
        resource = f"{asked.resource}/{asked.part}" if asked.part else asked.resource
        scope = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
        what = f'{asked.full} "{asked.name}" is forbidden' if asked.name else f"{asked.full} is forbidden"
        said = f'{what}: User "{user}" cannot {asked.verb} resource "{resource}" in API group "{asked.group}" {scope}'
        details = {"name": asked.name, "group": asked.group, "kind": asked.resource}
        raise Refusal(403, "Forbidden", said, {name: value for name, value in details.items() if value})

    def note(self, asked: Asked, entry: Tree) -> Tree:
        """Puts a request on record; its `code` is filled in when it is answered."""
        entry = {
            "verb": asked.verb, "resource": asked.full, "namespace": asked.namespace, "name": asked.name,
            "part": asked.part, "code": 0,
        } | entry  # fmt: skip
        with self.lock:
            self.record.append(entry)
        return entry


def _grants(rule: Tree, asked: Asked) -> bool:
    """A PolicyRule; with `namespace`, one of a Role of that namespace."""
    resource = f"{asked.resource}/{asked.part}" if asked.part else asked.resource
    names = rule.get("resourceNames")
    return (
        bool({"*", asked.verb} & set(rule.get("verbs", ())))
        and bool({"*", asked.group} & set(rule.get("apiGroups", ())))
        and bool({"*", resource} & set(rule.get("resources", ())))
        and (not names or asked.name in names)
        and rule.get("namespace") in (None, asked.namespace)
    )
