"""The resources that a server has before any definition of custom ones, and how definitions become resources. (P)"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.kube.apiserver_cost import DEFINITION_LIMIT, RULE_LIMIT, costs
from tests.kube.apiserver_schema import Cause, schema_problems
from tests.kube.apiserver_store import Refusal, Resource

Tree = dict[str, Any]


def _resource(api_version: str, plural: str, kind: str, short: str = "", flags: str = "") -> Resource:
    """Flags: c of the cluster, s with a status, o can only be created, a of the category "all"."""
    group, _, version = api_version.rpartition("/")
    verbs: Tree = {"verbs": ("create",)} if "o" in flags else {}
    shorts = tuple(short.split())
    categories = ("all",) if "a" in flags else ()
    return Resource(
        group, version, plural, kind, "c" not in flags, shorts, "s" in flags, categories=categories, **verbs
    )


_RBAC, _AUTHZ, _ADMISSION = "rbac.authorization.k8s.io/v1", "authorization.k8s.io/v1", "admissionregistration.k8s.io/v1"
CRDS = "customresourcedefinitions.apiextensions.k8s.io"
BUILT_IN = (
    _resource("v1", "namespaces", "Namespace", "ns", "cs"),
    _resource("v1", "nodes", "Node", "no", "cs"),
    _resource("v1", "pods", "Pod", "po", "sa"),
    _resource("v1", "secrets", "Secret"),
    _resource("v1", "configmaps", "ConfigMap", "cm"),
    _resource("v1", "services", "Service", "svc", "sa"),
    _resource("v1", "endpoints", "Endpoints", "ep"),
    _resource("v1", "serviceaccounts", "ServiceAccount", "sa"),
    _resource("v1", "events", "Event", "ev"),
    _resource("v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc", "s"),
    _resource("v1", "resourcequotas", "ResourceQuota", "quota", "s"),
    _resource("v1", "limitranges", "LimitRange", "limits"),
    _resource("events.k8s.io/v1", "events", "Event", "ev"),
    _resource("coordination.k8s.io/v1", "leases", "Lease"),
    _resource("apps/v1", "deployments", "Deployment", "deploy", "sa"),
    _resource("apps/v1", "replicasets", "ReplicaSet", "rs", "sa"),
    _resource("apps/v1", "statefulsets", "StatefulSet", "sts", "sa"),
    _resource("apps/v1", "daemonsets", "DaemonSet", "ds", "sa"),
    _resource("batch/v1", "jobs", "Job", "", "sa"),
    _resource("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "hpa", "sa"),
    _resource("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb", "s"),
    _resource("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", "netpol"),
    _resource("networking.k8s.io/v1", "ingresses", "Ingress", "ing", "s"),
    _resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice"),
    _resource(_RBAC, "roles", "Role"),
    _resource(_RBAC, "rolebindings", "RoleBinding"),
    _resource(_RBAC, "clusterroles", "ClusterRole", "", "c"),
    _resource(_RBAC, "clusterrolebindings", "ClusterRoleBinding", "", "c"),
    _resource(_AUTHZ, "selfsubjectaccessreviews", "SelfSubjectAccessReview", "", "co"),
    _resource(_AUTHZ, "subjectaccessreviews", "SubjectAccessReview", "", "co"),
    _resource("authentication.k8s.io/v1", "tokenreviews", "TokenReview", "", "co"),
    _resource(_ADMISSION, "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "", "c"),
    _resource(_ADMISSION, "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "", "c"),
    _resource("scheduling.k8s.io/v1", "priorityclasses", "PriorityClass", "pc", "c"),
    _resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", "crd crds", "cs"),
)


def defined(crd: Tree) -> Iterator[Resource]:
    """The resources of a definition, one for each version that is served."""
    spec = crd["spec"]
    names = spec["names"]
    storage = next(each["name"] for each in spec["versions"] if each.get("storage"))
    for version in spec["versions"]:
        if version.get("served"):
            yield Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                short=tuple(names.get("shortNames") or ()),
                has_status="status" in (version.get("subresources") or {}),
                schema=version["schema"]["openAPIV3Schema"],
                columns=tuple(version.get("additionalPrinterColumns") or ()),
                storage_version=storage,
                custom=True,
                categories=tuple(names.get("categories") or ()),
            )


def definition_problems(crd: Tree) -> list[Cause]:
    """Why a definition would not be taken."""
    spec: Tree = crd.get("spec") or {}
    found = [
        Cause(f"spec.{name}", "FieldValueRequired", "Required value")
        for name in ("group", "names", "scope", "versions")
        if not spec.get(name)
    ]
    if found:
        return found
    expected = f"{spec['names'].get('plural')}.{spec['group']}"
    if crd["metadata"]["name"] != expected:
        said = f'Invalid value: "{crd["metadata"]["name"]}": must be spec.names.plural+"."+spec.group'
        found.append(Cause("metadata.name", "FieldValueInvalid", said))
    if spec["scope"] not in ("Namespaced", "Cluster"):
        found.append(Cause("spec.scope", "FieldValueNotSupported", f'Unsupported value: "{spec["scope"]}"'))
    if [bool(each.get("storage")) for each in spec["versions"]].count(True) != 1:
        said = "Invalid value: must have exactly one version marked as storage version"
        found.append(Cause("spec.versions", "FieldValueInvalid", said))
    protected = re.search(r"(^|\.)(k8s|kubernetes)\.io$", spec["group"])
    if protected and "api-approved.kubernetes.io" not in (crd["metadata"].get("annotations") or {}):
        said = 'Required value: protected groups must have approval annotation "api-approved.kubernetes.io"'
        found.append(Cause("metadata.annotations[api-approved.kubernetes.io]", "FieldValueRequired", said))
    for at, version in enumerate(spec["versions"]):
        where = f"spec.versions[{at}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if not schema:
            found.append(Cause(where, "FieldValueRequired", "Required value: schemas are required"))
        elif schema.get("type") != "object":
            found.append(Cause(f"{where}.type", "FieldValueInvalid", "Invalid value: must be object at the root"))
        else:
            wrong = list(schema_problems(_unrooted(schema), where))
            found += wrong or _too_dear(schema, where)
    return found


def _too_dear(schema: Tree, where: str) -> list[Cause]:
    """The rules that could cost more than the server spends."""
    try:
        found = dict(costs(schema, where))
    except ValueError as unreadable:
        return [
            Cause(where, "FieldValueInvalid", f"Invalid value: a rule that the fake server cannot cost: {unreadable}")
        ]
    advice = (
        "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings "
        "are declared)"
    )
    dear = [
        Cause(
            path,
            "FieldValueForbidden",
            f"Forbidden: estimated rule cost exceeds budget by factor of {cost / RULE_LIMIT:.1f}x {advice}",
        )
        for path, cost in found.items()
        if cost > RULE_LIMIT
    ]
    if sum(found.values()) > DEFINITION_LIMIT and not dear:
        total = f"x-kubernetes-validations estimated cost total {sum(found.values()):.0f} exceeds {DEFINITION_LIMIT}"
        dear.append(Cause(where, "FieldValueForbidden", f"Forbidden: {total}"))
    return dear


def _unrooted(schema: Tree) -> Tree:
    properties = {name: each for name, each in (schema.get("properties") or {}).items() if name != "metadata"}
    return {**schema, "properties": properties}


def established(crd: Tree, at: str) -> Tree:
    """A definition with the status of one that is in force."""
    names = crd["spec"]["names"]
    full = {"singular": names["kind"].lower(), "listKind": f"{names['kind']}List", **names}
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "message": said, "lastTransitionTime": at}
        for kind, reason, said in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    stored = [each["name"] for each in crd["spec"]["versions"] if each.get("storage")]
    status = {"conditions": conditions, "acceptedNames": full, "storedVersions": stored}
    return {**crd, "spec": {"conversion": {"strategy": "None"}, **crd["spec"], "names": full}, "status": status}


def invalid(resource: Resource, name: str, causes: list[Cause]) -> Refusal:
    """422, worded as the real server words it."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    said = ", ".join(str(cause) for cause in causes)
    message = f'{kind} "{name}" is invalid: ' + (f"[{said}]" if len(causes) > 1 else said)
    details: Tree = {"name": name, "group": resource.group, "kind": resource.kind}
    return Refusal(422, "Invalid", message, details | {"causes": [cause.tree() for cause in causes]})


def absent(resource: Resource, name: str) -> Refusal:
    details = {"name": name, "group": resource.group, "kind": resource.plural}
    return Refusal(404, "NotFound", f'{resource.full} "{name}" not found', details)
