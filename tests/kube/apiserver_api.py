"""The API itself, without sockets: a request comes, an answer or a watch to be streamed goes. (P)

Requests of an admin (tests themselves) are never refused, delayed or recorded, create what namespaces they need, and
keep the status, uid and times that their objects come with.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
import yaml

from tests.kube import apiserver_apply as apply
from tests.kube import apiserver_discovery as discovery
from tests.kube import apiserver_schema as schemas
from tests.kube.apiserver_faults import Asked, Fault, Trouble
from tests.kube.apiserver_kinds import BUILT_IN, CRDS, absent, defined, definition_problems, established, invalid
from tests.kube.apiserver_patch import json_patch, merge_patch, strategic_patch
from tests.kube.apiserver_protobuf import decoded
from tests.kube.apiserver_store import (
    Entry,
    Key,
    Match,
    Refusal,
    Resource,
    Store,
    Tree,
    kept,
    now,
    selection,
    shown,
)
from tests.kube.apiserver_table import partial, table

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_RBAC_NAME = re.compile(r"[^/%]+")
_GENERATED = ("pods", "services", "namespaces", "events", "leases.coordination.k8s.io", "nodes")
"""Kinds without a generation."""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    admin: bool = False
    user: str = "system:admin"

    @property
    def accept(self) -> str:
        """What the object is to be shown as: "Table", "PartialObjectMetadata" or nothing."""
        found = re.search(r"as=(Table|PartialObjectMetadata)", self.headers.get("accept", "").split(",")[0])
        return found[1] if found else ""

    def body_tree(self) -> Tree:
        kind = self.headers.get("content-type", "")
        if "protobuf" in kind:
            return decoded(self.body)
        try:
            tree = yaml.safe_load(self.body) if "yaml" in kind else msgspec.json.decode(self.body)
        except (yaml.YAMLError, msgspec.DecodeError, UnicodeDecodeError) as wrong:
            raise Refusal(400, "BadRequest", f"the body could not be read: {wrong}") from wrong
        if not isinstance(tree, dict):
            raise Refusal(400, "BadRequest", "couldn't get version/kind; json parse error")
        return _with_metadata(tree)


@dataclass
class Answer:
    code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


@dataclass(eq=False)
class Watch:
    """A watch to stream. ``orders``: what is to go wrong with it, from outside."""

    resource: Resource
    namespace: str
    match: Match
    version: int
    initial: list[Entry]
    timeout: float | None
    bookmarks: bool
    shape: str
    asked: Asked
    fault: Fault | None = None
    orders: list[Tree] = field(default_factory=list)


def _with_metadata(tree: Tree) -> Tree:
    """Raises Refusal where the metadata are none, or have what no metadata have."""
    metadata = tree.get("metadata") or {}
    parts = [metadata.get(name) or {} for name in ("labels", "annotations")] if isinstance(metadata, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise Refusal(400, "BadRequest", "json: cannot unmarshal the metadata into Go value of type v1.ObjectMeta")
    return tree


def answer(code: int, tree: Tree, headers: dict[str, str] | None = None) -> Answer:
    return Answer(code, msgspec.json.encode(tree), headers or {})


@dataclass
class Target:
    """What a path leads to."""

    resource: Resource
    namespace: str
    name: str
    part: str

    @property
    def key(self) -> Key:
        return (self.namespace if self.resource.namespaced else "", self.name)


@dataclass
class Api:
    store: Store = field(default_factory=Store)
    trouble: Trouble = field(default_factory=Trouble)
    resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    resources_version: int = 0

    def __post_init__(self) -> None:
        for resource in BUILT_IN:
            self.resources[resource.group, resource.version, resource.plural] = resource
        for namespace in ("default", "kube-system", "kube-public", "kube-node-lease"):
            self.need_namespace(namespace)

    def need_namespace(self, name: str) -> None:
        if self.store.get("namespaces", ("", name)) is None:
            metadata: Tree = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
            metadata["labels"] = {"kubernetes.io/metadata.name": name}
            tree: Tree = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
            tree |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
            self.store.put("namespaces", ("", name), tree)

    # -- the way of a request

    def handle(self, request: Request) -> Answer | Watch:
        entry: Tree | None = None
        try:
            found = discovery.answered(request.path, request.headers, list(self.resources.values()))
            if found is not None:
                return Answer(200, *found)
            target = self.target(request.path)
            asked = self._asked(request, target)
            if not request.admin:
                entry = self.trouble.note(asked, self._noted(request))
            result = self._faulty(request, target, asked)
        except Refusal as refusal:
            result = answer(refusal.code, refusal.status(), refusal.headers)
        if entry is not None:
            entry["code"] = result.code if isinstance(result, Answer) else 200
        return result

    def _faulty(self, request: Request, target: Target, asked: Asked) -> Answer | Watch:
        if request.admin:
            return self._act(request, target, asked)
        fault = self.trouble.next(asked)
        if fault is not None and fault.mode == "drop":
            return Answer(0, b"", drop=True, delay=fault.delay)
        if fault is not None and fault.status:
            refusal = fault.refusal()
            result: Answer | Watch = answer(refusal.code, refusal.status(), refusal.headers)
        else:
            self.trouble.authorize(asked, request.user)
            result = self._act(request, target, asked)
        if isinstance(result, Watch):
            result.fault = fault
        elif fault is not None:
            result.delay = fault.delay
        return result

    def _noted(self, request: Request) -> Tree:
        body: Any = None
        if request.body and request.method != "GET":
            try:
                body = yaml.safe_load(request.body) if b"{" not in request.body[:1] else json.loads(request.body)
            except (ValueError, yaml.YAMLError):
                body = request.body.decode(errors="replace")
        kind = request.headers.get("content-type", "")
        return {"query": request.query, "type": kind, "agent": request.headers.get("user-agent", ""), "body": body}

    def target(self, path: str) -> Target:
        steps = [unquote(step) for step in path.strip("/").split("/")]
        if steps[0] == "api" and len(steps) > 2:
            group, version, rest = "", steps[1], steps[2:]
        elif steps[0] == "apis" and len(steps) > 3:
            group, version, rest = steps[1], steps[2], steps[3:]
        else:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and not (not group and rest[2] in ("status", "finalize")):
            namespace, rest = rest[1], rest[2:]
        resource = self.resources.get((group, version, rest[0]))
        if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        target = Target(resource, namespace, *[*rest[1:], "", ""][:2])
        if target.part and not (target.part == "status" and resource.has_status):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return target

    def _asked(self, request: Request, target: Target) -> Asked:
        resource = target.resource
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}.get(
            request.method, request.method.lower()
        )
        if verb == "get" and not target.name:
            verb = "watch" if request.query.get("watch") in ("true", "1") else "list"
        elif verb == "get" and request.query.get("watch") in ("true", "1"):
            verb = "watch"
        elif verb == "delete" and not target.name:
            verb = "deletecollection"
        name = target.name
        selected = re.search(r"(?:^|,)metadata\.name==?([^,]+)", request.query.get("fieldSelector", ""))
        if not name and selected:
            name = selected[1]
        return Asked(verb, resource.plural, resource.group, target.namespace, name, target.part)

    def _act(self, request: Request, target: Target, asked: Asked) -> Answer | Watch:
        if asked.verb not in target.resource.verbs:
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        with self.store.changed:
            if asked.verb in ("list", "watch"):
                return self._list(request, target) if asked.verb == "list" else self._watch(request, target, asked)
            if asked.verb == "get":
                return self._shown(request, target.resource, self._there(target))
            if asked.verb == "create":
                return self._create(request, target)
            if asked.verb == "deletecollection":
                return self._delete_all(request, target)
            act = {"update": self._update, "patch": self._patch, "delete": self._delete}[asked.verb]
            return act(request, target)

    # -- reading

    def _there(self, target: Target) -> Entry:
        entry = self.store.get(target.resource.store, target.key)
        if entry is None:
            raise absent(target.resource, target.name)
        return entry

    def _shown(self, request: Request, resource: Resource, entry: Entry, code: int = 200) -> Answer:
        if request.accept == "Table":
            tree = shown(entry.tree, resource)
            return answer(code, table(resource, [tree], {"resourceVersion": tree["metadata"]["resourceVersion"]}))
        if request.accept == "PartialObjectMetadata":
            return answer(code, partial(entry.tree))
        return Answer(code, entry.raw(resource))

    def _selected(self, request: Request, target: Target) -> Match:
        fields = request.query.get("fieldSelector", "")
        if target.name:
            fields = f"metadata.name={target.name}"
        return selection(target.resource, target.namespace, request.query.get("labelSelector", ""), fields)

    def _list(self, request: Request, target: Target) -> Answer:
        resource, query = target.resource, request.query
        match = self._selected(request, target)
        wanted = query.get("resourceVersion", "")
        if wanted.isdigit() and int(wanted) > self.store.version:
            message = f"Too large resource version: {wanted}, current: {self.store.version}"
            details = {"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge", "message": message}]}
            raise Refusal(504, "Timeout", message, details, {"Retry-After": "1"})
        gone = (
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter."
        )
        page = self.store.page(resource.store, match, int(query.get("limit") or 0), query.get("continue", ""), gone)
        metadata: Tree = {"resourceVersion": str(page.version)}
        if page.token:
            metadata["continue"] = page.token
            if not query.get("labelSelector") and not query.get("fieldSelector"):
                metadata["remainingItemCount"] = page.remaining
        if request.accept == "Table":
            return answer(200, table(resource, [shown(entry.tree, resource) for entry in page.entries], metadata))
        head: Tree = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
        if request.accept == "PartialObjectMetadata":
            head |= {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
            return answer(200, head | {"items": [partial(entry.tree) for entry in page.entries]})
        items = b",".join(entry.raw(resource) for entry in page.entries)
        return Answer(200, msgspec.json.encode(head)[:-1] + b',"items":[' + items + b"]}")

    def _watch(self, request: Request, target: Target, asked: Asked) -> Watch:
        query, resource = request.query, target.resource
        if "sendInitialEvents" in query:
            said = (
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature "
                "gate is enabled"
            )
            raise Refusal(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {said}')
        match = self._selected(request, target)
        given = query.get("resourceVersion", "")
        initial: list[Entry] = []
        if given in ("", "0"):
            there = self.store.objects.get(resource.store, {})
            initial = [there[key] for key in sorted(there) if match(key, there[key].tree)]
            version = self.store.version
        elif not given.isdigit():
            said = f'Invalid value: "{given}": invalid resource version'
            raise Refusal(400, "BadRequest", f"resourceVersion: {said}")
        else:
            version = int(given)
            if version < self.store.compacted and self.trouble.gone_as_status:
                self.store.since(resource.store, version)
        timeout = float(query["timeoutSeconds"]) if query.get("timeoutSeconds") else None
        bookmarks = query.get("allowWatchBookmarks") in ("true", "1")
        return Watch(resource, target.namespace, match, version, initial, timeout, bookmarks, request.accept, asked)

    # -- writing

    def _create(self, request: Request, target: Target) -> Answer:
        tree = request.body_tree()
        if target.name:
            raise Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if target.resource.verbs != ("create",):
            return self._created(request, target, tree)
        allowed = True
        if target.resource.kind == "SelfSubjectAccessReview":
            on = (tree.get("spec") or {}).get("resourceAttributes") or {}
            asked = Asked(*(on.get(name, "") for name in ("verb", "resource", "group", "namespace", "name")))
            allowed = self.trouble.allows(asked)
        status: Tree = {"allowed": allowed}
        if target.resource.kind == "TokenReview":
            known = (tree.get("spec") or {}).get("token") in self.trouble.tokens
            status = {"authenticated": known, "user": {"username": request.user}} if known else {}
        return answer(201, {**tree, "status": status})

    def _created(self, request: Request, target: Target, tree: Tree) -> Answer:
        resource = target.resource
        self._right_kind(resource, tree)
        tree = self._placed(request, target, tree)
        key = (tree["metadata"].get("namespace", ""), tree["metadata"]["name"])
        if self.store.get(resource.store, key) is not None:
            details = {"name": key[1], "group": resource.group, "kind": resource.plural}
            raise Refusal(409, "AlreadyExists", f'{resource.full} "{key[1]}" already exists', details)
        if "resourceVersion" in tree["metadata"]:
            raise Refusal(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        tree = self._born(request, resource, tree)
        tree, warnings = self._settled(request, resource, tree, None)
        manager = self._manager(request, resource, "Update")
        tree = apply.updated(None, tree, manager, self._apply_schema(resource), resource.has_status)
        return self._stored(request, target.resource, key, tree, warnings, 201)

    def _right_kind(self, resource: Resource, tree: Tree) -> None:
        if not tree.get("kind") or not tree.get("apiVersion"):
            # the real server takes the kind of a built-in one from the path
            if resource.custom:
                raise Refusal(400, "BadRequest", "Object 'Kind' is missing in the body")
            tree |= {"kind": resource.kind, "apiVersion": resource.api_version}
        if (tree["kind"], tree["apiVersion"]) != (resource.kind, resource.api_version):
            given, wanted = (
                f"{tree['apiVersion']}, Kind={tree['kind']}",
                f"{resource.api_version}, Kind={resource.kind}",
            )
            said = f"the object in the body ({given}) does not match the type of the request ({wanted})"
            raise Refusal(400, "BadRequest", said)

    def _placed(self, request: Request, target: Target, tree: Tree) -> Tree:
        """With name and namespace."""
        metadata = dict(tree.get("metadata") or {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        name = metadata.get("name")
        pattern = _RBAC_NAME if "rbac" in target.resource.group else _NAME
        if not name or not pattern.fullmatch(name) or len(name) > 253:
            said = (
                "Required value: name or generateName is required"
                if not name
                else f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
                "characters, '-' or '.', and must start and end with an alphanumeric character"
            )
            reason = "FieldValueInvalid" if name else "FieldValueRequired"
            raise invalid(target.resource, name or "", [schemas.Cause("metadata.name", reason, said)])
        if target.resource.namespaced:
            namespace = target.namespace or metadata.get("namespace") or "default"
            if metadata.get("namespace", namespace) != namespace:
                said = "the namespace of the provided object does not match the namespace sent on the request"
                raise Refusal(400, "BadRequest", said)
            metadata["namespace"] = namespace
            if request.admin:
                self.need_namespace(namespace)
            elif self.store.get("namespaces", ("", namespace)) is None:
                raise absent(self.resources["", "v1", "namespaces"], namespace)
        else:
            metadata.pop("namespace", None)
        return {**tree, "metadata": metadata}

    def _born(self, request: Request, resource: Resource, tree: Tree) -> Tree:
        """With what the server gives an object once."""
        metadata = {name: value for name, value in tree["metadata"].items() if name != "managedFields"}
        if not request.admin:
            for name in ("uid", "creationTimestamp", "deletionTimestamp", "generation", "selfLink"):
                metadata.pop(name, None)
            if resource.has_status:
                tree = {name: value for name, value in tree.items() if name != "status"}
        metadata.setdefault("uid", str(uuid.uuid4()))
        metadata.setdefault("creationTimestamp", now())
        if resource.store not in _GENERATED:
            metadata.setdefault("generation", 1)
        tree = {**tree, "metadata": metadata}
        if resource.full == "pods":
            tree.setdefault("status", {"phase": "Pending", "qosClass": "BestEffort"})
        if resource.full == "namespaces":
            metadata["labels"] = {"kubernetes.io/metadata.name": metadata["name"]} | (metadata.get("labels") or {})
            tree.setdefault("status", {"phase": "Active"})
        if resource.full == "secrets" and "stringData" in tree:
            tree = _encoded(tree)
        return tree

    def _update(self, request: Request, target: Target) -> Answer:
        given = request.body_tree()
        self._right_kind(target.resource, given)
        resource = target.resource
        if self.store.get(resource.store, target.key) is None and resource.kind == "Lease" and not target.part:
            return self._created(request, Target(resource, target.namespace, "", ""), given)
        live = shown(self._there(target).tree, resource)
        metadata: Tree = given.get("metadata") or {}
        if metadata.get("name") != target.name:
            name = metadata.get("name", "")
            said = f"the name of the object ({name}) does not match the name on the URL ({target.name})"
            raise Refusal(400, "BadRequest", said)
        if not metadata.get("resourceVersion") and (resource.custom or resource.kind == "Lease") and not request.admin:
            said = "Invalid value: 0: must be specified for an update"
            raise invalid(resource, target.name, [schemas.Cause("metadata.resourceVersion", "FieldValueInvalid", said)])
        return self._written(request, target, live, given, "Update")

    def _patch(self, request: Request, target: Target) -> Answer:
        kind = request.headers.get("content-type", "").partition(";")[0]
        resource = target.resource
        if kind.startswith("application/apply-patch"):
            return self._apply(request, target)
        if "force" in request.query:
            cause = schemas.Cause("force", "FieldValueForbidden", "Forbidden: may not be specified for non-apply patch")
            raise Refusal(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: {cause}')
        live = shown(self._there(target).tree, resource)
        if kind == "application/json-patch+json":
            given = json_patch(live, msgspec.json.decode(request.body))
        elif kind == "application/merge-patch+json":
            given = merge_patch(live, request.body_tree())
        elif kind == "application/strategic-merge-patch+json" and not resource.custom:
            given = strategic_patch(live, request.body_tree())
        else:
            supported = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            said = f"the body of the request was in an unknown format - accepted media types include: {supported}"
            raise Refusal(415, "UnsupportedMediaType", said)
        return self._written(request, target, live, given, "Update")

    def _written(self, request: Request, target: Target, live: Tree, given: Tree, way: str) -> Answer:
        """A whole object takes the place of ``live``."""
        resource = target.resource
        self._fresh(resource, target.name, live, given)
        if target.part == "status":
            new = {name: value for name, value in live.items() if name != "status"}
            if "status" in given:
                new["status"] = given["status"]
        else:
            new = self._kept_system(live, given, request.admin)
            if resource.has_status and not (request.admin and "status" in given):
                new = {name: value for name, value in new.items() if name != "status"}
                if "status" in live:
                    new["status"] = live["status"]
            if resource.full == "secrets" and "stringData" in new:
                new = _encoded(new)
        new, warnings = self._settled(request, resource, new, live)
        manager = self._manager(request, resource, way, target.part)
        new = apply.updated(live, new, manager, self._apply_schema(resource), resource.has_status)
        return self._replaced(request, target, live, new, warnings)

    def _fresh(self, resource: Resource, name: str, live: Tree, given: Tree) -> None:
        metadata = given.get("metadata") or {}
        version, uid = metadata.get("resourceVersion"), metadata.get("uid")
        details = {"name": name, "group": resource.group, "kind": resource.plural}
        if version and version != live["metadata"]["resourceVersion"]:
            said = "the object has been modified; please apply your changes to the latest version and try again"
            message = f'Operation cannot be fulfilled on {resource.full} "{name}": {said}'
            raise Refusal(409, "Conflict", message, details)
        if uid and uid != live["metadata"]["uid"]:
            said = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {live['metadata']['uid']}"
            raise Refusal(
                409, "Conflict", f'Operation cannot be fulfilled on {resource.full} "{name}": {said}', details
            )

    def _kept_system(self, live: Tree, given: Tree, admin: bool) -> Tree:
        metadata = dict(given.get("metadata") or {})
        for name in (
            "uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp", "name", "namespace",
            "deletionGracePeriodSeconds", "managedFields",
        ):  # fmt: skip
            if admin and name in metadata and name in ("creationTimestamp", "deletionTimestamp"):
                continue
            metadata.pop(name, None)
            if name in live["metadata"]:
                metadata[name] = live["metadata"][name]
        return {**given, "apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata}

    def _apply(self, request: Request, target: Target) -> Answer:
        config = self._config(request, target)
        resource, name = target.resource, target.name
        entry = self.store.get(resource.store, target.key)
        manager = self._manager(request, resource, "Apply", target.part)
        force = request.query.get("force") in ("true", "1")
        schema = self._apply_schema(resource)
        if entry is None:
            if target.part:
                raise absent(resource, name)
            config = self._placed(request, target, config)
            tree = self._born(request, resource, config)
            tree = apply.applied(None, tree, manager, schema, resource.has_status, force)
            tree, warnings = self._settled(request, resource, tree, None)
            return self._stored(request, resource, target.key, tree, warnings, 201)
        live = shown(entry.tree, resource)
        self._fresh(resource, name, live, config)
        new = apply.applied(live, config, manager, schema, resource.has_status, force)
        entries = new["metadata"].get("managedFields")
        new = self._kept_system(live, new, False)
        new["metadata"] = {**new["metadata"], "managedFields": entries or []}
        new, warnings = self._settled(request, resource, new, live)
        return self._replaced(request, target, live, new, warnings)

    def _config(self, request: Request, target: Target) -> Tree:
        try:
            config = yaml.load(request.body, yaml.CSafeLoader) if request.body[:1] != b"{" else json.loads(request.body)
        except (ValueError, yaml.YAMLError) as wrong:
            raise Refusal(400, "BadRequest", f"error decoding YAML: {wrong}") from wrong
        if not isinstance(config, dict):
            raise Refusal(400, "BadRequest", "error decoding YAML: the configuration is no object")
        _with_metadata(config)
        if not request.query.get("fieldManager"):
            cause = schemas.Cause("fieldManager", "FieldValueRequired", "Required value: is required for apply patch")
            raise Refusal(422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: {cause}')
        if not config.get("kind") or not config.get("apiVersion"):
            raise Refusal(400, "BadRequest", "Object 'Kind' is missing in the configuration")
        self._right_kind(target.resource, config)
        metadata = dict(config.get("metadata") or {})
        if metadata.get("managedFields"):
            raise Refusal(400, "BadRequest", "metadata.managedFields must be nil")
        if metadata.setdefault("name", target.name) != target.name:
            said = f"name in URL does not match name in the object: {target.name} {metadata['name']}"
            raise Refusal(400, "BadRequest", said)
        metadata.pop("managedFields", None)
        return {**config, "metadata": {name: value for name, value in metadata.items() if value is not None}}

    def _manager(self, request: Request, resource: Resource, way: str, part: str = "") -> apply.Manager:
        agent = request.headers.get("user-agent", "unknown").partition("/")[0]
        return apply.Manager(request.query.get("fieldManager") or agent, way, resource.api_version, part)

    def _apply_schema(self, resource: Resource) -> Tree | None:
        return resource.schema if resource.custom else None

    def _settled(self, request: Request, resource: Resource, tree: Tree, live: Tree | None) -> tuple[Tree, list[str]]:
        """Pruned, defaulted and found valid, or Refusal. With warnings about what was pruned."""
        unknown: list[str] = []
        if resource.schema is not None:
            tree, unknown = schemas.prune(tree, resource.schema)
            if unknown and request.query.get("fieldValidation") == "Strict":
                raise _strict(resource, tree["metadata"]["name"], unknown)
            tree = schemas.with_defaults(tree, resource.schema)
            if causes := schemas.check(tree, resource.schema, live):
                raise invalid(resource, tree["metadata"]["name"], causes)
        if resource.full == CRDS:
            if problems := definition_problems(tree):
                raise invalid(resource, tree["metadata"]["name"], problems)
            tree = established(tree, tree["metadata"]["creationTimestamp"])
        if live is not None:
            tree = self._counted(resource, live, tree)
        ignored = request.query.get("fieldValidation") == "Ignore"
        return tree, [] if ignored else [f'unknown field "{path}"' for path in unknown]

    def _counted(self, resource: Resource, live: Tree, tree: Tree) -> Tree:
        """With the generation of what was asked for: a change of metadata or status makes no new one."""
        apart = ("metadata", "apiVersion", "kind") + (("status",) if resource.has_status else ())
        was = {name: value for name, value in live.items() if name not in apart}
        now_is = {name: value for name, value in tree.items() if name not in apart}
        if was == now_is or resource.store in _GENERATED:
            return tree
        generation = live["metadata"].get("generation", 0) + 1
        return {**tree, "metadata": {**tree["metadata"], "generation": generation}}

    def _replaced(self, request: Request, target: Target, live: Tree, new: Tree, warnings: list[str]) -> Answer:
        resource = target.resource
        if apply.bare(new) == apply.bare(live) and _untimed(new) == _untimed(live):
            return self._shown(request, resource, self._there(target))
        metadata = new["metadata"]
        if metadata.get("deletionTimestamp") and live["metadata"].get("finalizers") and not metadata.get("finalizers"):
            self.store.put(resource.store, target.key, kept(new, resource))
            return self._shown(request, resource, self._removed(resource, target.key))
        return self._stored(request, resource, target.key, new, warnings, 200)

    def _stored(
        self, request: Request, resource: Resource, key: Key, tree: Tree, warnings: list[str], code: int
    ) -> Answer:
        if request.query.get("dryRun"):
            version = tree["metadata"].get("resourceVersion", "")
            entry = Entry({**kept(tree, resource), "metadata": {**tree["metadata"], "resourceVersion": version}})
        else:
            entry = self.store.put(resource.store, key, kept(tree, resource))
            if resource.full == CRDS:
                self._install(entry.tree)
        result = self._shown(request, resource, entry, code)
        if warnings:
            result.headers["Warning"] = ", ".join(f"299 - {json.dumps(warning)}" for warning in warnings)
        return result

    # -- deleting

    def _delete(self, request: Request, target: Target) -> Answer:
        entry = self._there(target)
        options = request.body_tree() if request.body not in (b"", b"null") else {}
        conditions = options.get("preconditions") or {}
        self._fresh(target.resource, target.name, entry.tree, {"metadata": conditions})
        if request.query.get("dryRun") or options.get("dryRun"):
            return self._shown(request, target.resource, entry)
        if entry.tree["metadata"].get("finalizers"):
            metadata = {**entry.tree["metadata"]}
            metadata.setdefault("deletionTimestamp", now())
            metadata.setdefault("deletionGracePeriodSeconds", 0)
            entry = self.store.put(target.resource.store, target.key, {**entry.tree, "metadata": metadata})
            return self._shown(request, target.resource, entry)
        self._removed(target.resource, target.key)
        status: Tree = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        details = {"name": target.name, "group": target.resource.group, "kind": target.resource.plural}
        return answer(200, status | {"details": details | {"uid": entry.tree["metadata"]["uid"]}})

    def _delete_all(self, request: Request, target: Target) -> Answer:
        match = self._selected(request, target)
        there = self.store.objects.get(target.resource.store, {})
        for key in [key for key in sorted(there) if match(key, there[key].tree)]:
            self._delete(request, Target(target.resource, key[0], key[1], ""))
        return answer(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})

    def _removed(self, resource: Resource, key: Key) -> Entry:
        """Takes an object away, and with a namespace or a definition what is in it or of it."""
        last = self.store.remove(resource.store, key)
        if resource.full == "namespaces":
            for store, there in self.store.objects.items():
                for inner in [inner for inner in there if inner[0] == key[1]]:
                    self.store.remove(store, inner)
        if resource.full == CRDS:
            for inner in list(self.store.objects.get(key[1], {})):
                self.store.remove(key[1], inner)
            self._uninstall(key[1])
        return last

    # -- custom resources

    def _install(self, crd: Tree) -> None:
        self._uninstall(crd["metadata"]["name"])
        for resource in defined(crd):
            self.resources[resource.group, resource.version, resource.plural] = resource

    def _uninstall(self, full: str) -> None:
        for path in [path for path, resource in self.resources.items() if resource.custom and resource.full == full]:
            del self.resources[path]

    # -- for tests

    def resource_of(self, tree: Tree) -> Resource:
        for resource in self.resources.values():
            if (resource.api_version, resource.kind) == (tree.get("apiVersion"), tree.get("kind")):
                return resource
        raise Refusal(
            404, "NotFound", f'no matches for kind "{tree.get("kind")}" in version "{tree.get("apiVersion")}"'
        )

    def load(self, trees: list[Tree], check: bool = True) -> int:
        """Puts many objects there at once, as an admin; those that are there get a new version."""
        request = Request("POST", "", {}, {}, admin=True)
        for tree in trees:
            resource = self.resource_of(tree)
            tree = self._placed(request, Target(resource, "", "", ""), tree)
            key = (tree["metadata"].get("namespace", ""), tree["metadata"]["name"])
            there = self.store.get(resource.store, key)
            if there is None:
                live, tree = None, self._born(request, resource, tree)
            else:
                live = shown(there.tree, resource)
                status = {"status": live["status"]} if resource.has_status and "status" in live else {}
                tree = status | self._kept_system(live, tree, True)
            if check:
                tree, _ = self._settled(request, resource, tree, live)
            elif live is not None:
                tree = self._counted(resource, live, tree)
            self._stored(request, resource, key, tree, [], 201)
        return len(trees)


def _strict(resource: Resource, name: str, unknown: list[str]) -> Refusal:
    said = ", ".join(f'unknown field "{path}"' for path in unknown)
    kind, details = resource.kind, {"name": name, "group": resource.group, "kind": resource.plural}
    message = f'{kind} in version "{resource.version}" cannot be handled as a {kind}: strict decoding error: {said}'
    return Refusal(400, "BadRequest", message, details)


def _untimed(tree: Tree) -> list[Tree]:
    entries = tree["metadata"].get("managedFields") or []
    return [{name: value for name, value in entry.items() if name != "time"} for entry in entries]


def _encoded(tree: Tree) -> Tree:
    """A Secret with its plain strings among its data."""
    data = {name: base64.b64encode(value.encode()).decode() for name, value in tree["stringData"].items()}
    rest = {name: value for name, value in tree.items() if name != "stringData"}
    return {"type": "Opaque"} | rest | {"data": (tree.get("data") or {}) | data}
