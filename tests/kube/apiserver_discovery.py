"""What a server says of itself: its version, groups and resources, and OpenAPI documents. (P)"""

from __future__ import annotations

from typing import Any

import msgspec

from tests.kube.apiserver_store import Refusal, Resource

Tree = dict[str, Any]
VERSION = {
    "major": "1", "minor": "33", "gitVersion": "v1.33.0-fake", "gitCommit": "0", "gitTreeState": "clean",
    "buildDate": "2025-04-23T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip

_EMPTY_V2 = b"\x0a\x032.0\x12\x0b\x0a\x04fake\x12\x031.0"
"""The older document, of nothing: all that kubectl asks it for stands in the newer ones."""


def answered(path: str, headers: dict[str, str], resources: list[Resource]) -> tuple[bytes, dict[str, str]] | None:
    """The body and headers of a path of discovery; None for other paths. Raises Refusal for groups unknown."""
    if path in ("/healthz", "/livez", "/readyz"):
        return b"ok", {"Content-Type": "text/plain"}
    if path == "/openapi/v2" and "protobuf" in headers.get("accept", ""):
        return _EMPTY_V2, {"Content-Type": "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"}
    tree = _tree(path.rstrip("/") or "/", resources)
    return None if tree is None else (msgspec.json.encode(tree), {})


def _tree(path: str, resources: list[Resource]) -> Tree | None:
    steps = path.strip("/").split("/")
    if path == "/":
        return {"paths": ["/api", "/api/v1", "/apis", "/healthz", "/openapi/v3", "/version"]}
    if path == "/version":
        return VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        groups = sorted({resource.group for resource in resources if resource.group})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, resources) for name in groups]}
    if steps[0] == "openapi":
        return _openapi(steps[1:], resources)
    if steps[0] == "apis" and len(steps) == 2:
        return {"apiVersion": "v1"} | _group(steps[1], resources) | {"kind": "APIGroup"}
    if (steps[0] == "api" and len(steps) == 2) or (steps[0] == "apis" and len(steps) == 3):
        return _resource_list("/".join(steps[1:]), resources)
    return None


def _absent() -> Refusal:
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def _group(name: str, resources: list[Resource]) -> Tree:
    versions = list(dict.fromkeys(resource.version for resource in resources if resource.group == name))
    if not versions:
        raise _absent()
    versions.sort(key=lambda version: (version.count("alpha"), version.count("beta"), version))
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _resource_list(api_version: str, resources: list[Resource]) -> Tree:
    found = [resource for resource in resources if resource.api_version == api_version]
    if not found:
        raise _absent()
    listed = []
    for resource in found:
        about: Tree = {"name": resource.plural, "singularName": resource.kind.lower()}
        about |= {"namespaced": resource.namespaced, "kind": resource.kind, "verbs": list(resource.verbs)}
        if resource.short:
            about["shortNames"] = list(resource.short)
        if resource.categories:
            about["categories"] = list(resource.categories)
        listed.append(about)
        if resource.has_status:
            part = {"name": f"{resource.plural}/status", "singularName": "", "namespaced": resource.namespaced}
            listed.append(part | {"kind": resource.kind, "verbs": ["get", "patch", "update"]})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": listed}


def _openapi(steps: list[str], resources: list[Resource]) -> Tree:
    if steps == ["v3"]:
        names = sorted({("api/" if not each.group else "apis/") + each.api_version for each in resources})
        return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}"} for name in names}}
    if steps[0] == "v3":
        found = [each for each in resources if each.api_version == "/".join(steps[2:])]
        if found:
            return _document(found)
    raise _absent()


def _document(resources: list[Resource]) -> Tree:
    paths: Tree = {}
    components: Tree = {}
    for resource in resources:
        mark = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        name = ".".join([*reversed((resource.group or "core").split(".")), resource.version, resource.kind])
        schema = dict(resource.schema or {"type": "object"})
        properties = dict(schema.get("properties") or {})
        for field in ("apiVersion", "kind"):
            properties.setdefault(field, {"type": "string"})
        schema |= {
            "properties": properties | {"metadata": {"type": "object"}},
            "x-kubernetes-group-version-kind": [mark],
        }
        components[name] = schema
        root = "/apis/" if resource.group else "/api/"
        path = f"{root}{resource.api_version}/" + ("namespaces/{namespace}/" if resource.namespaced else "")
        asked = {"x-kubernetes-group-version-kind": mark, "responses": {}, "parameters": _PARAMETERS}
        reference = {"$ref": f"#/components/schemas/{name}"}
        body = {"content": {"application/json": {"schema": reference}}}
        paths[f"{path}{resource.plural}"] = {"post": {**asked, "requestBody": body}}
        paths[f"{path}{resource.plural}/{{name}}"] = {"patch": asked, "put": {**asked, "requestBody": body}}
    info = {"title": "fake", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": components}}


_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string"}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]
