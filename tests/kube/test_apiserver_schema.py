"""Schemas of custom resources: what is pruned, defaulted and refused, in the real server's words. (P)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.apiserver import FIXTURES, definitions
from tests.kube.apiserver_cost import units
from tests.kube.apiserver_kinds import definition_problems
from tests.kube.apiserver_schema import check, prune, schema_problems, with_defaults
from tests.kube.cluster import Cluster, Refused, inference_pool, thing

SCHEMA: dict[str, Any] = yaml.safe_load(r"""
type: object
properties:
  spec:
    type: object
    required: [name]
    x-kubernetes-validations:
      - rule: "!has(oldSelf.name) || self.name == oldSelf.name"
        message: name is immutable
      - rule: "has(self.a) != has(self.b)"
        messageExpression: "'one of a and b, not both, of ' + self.name"
        fieldPath: .a
      - rule: "self.name != 'rule without message'"
    properties:
      name: {type: string, minLength: 1, maxLength: 30, pattern: '^[a-z ]*$'}
      a: {type: integer, minimum: 1, maximum: 9}
      b: {type: integer, nullable: true}
      kind: {type: string, enum: [x, y], default: x}
      port: {x-kubernetes-int-or-string: true}
      flag: {type: boolean}
      ratio: {type: number, exclusiveMinimum: true, minimum: 0}
      when: {type: string, format: date-time}
      any: {type: object, x-kubernetes-preserve-unknown-fields: true}
      words: {type: object, additionalProperties: {type: string, maxLength: 3}}
      wait:
        type: string
        format: duration
        x-kubernetes-validations: [{rule: "self > duration('1s')", message: too short}]
      items:
        type: array
        minItems: 1
        maxItems: 2
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [id]
        items:
          type: object
          required: [id]
          properties:
            id: {type: string}
            size: {type: integer, default: 3}
          x-kubernetes-validations: [{rule: self.size >= oldSelf.size, message: must not shrink}]
""")


def said(spec: Any, old: Any = None) -> list[str]:
    tree = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "n"}, "spec": spec}
    before = None if old is None else {**tree, "spec": old}
    return [str(cause) for cause in check(with_defaults(tree, SCHEMA), SCHEMA, before)]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"a": 1}, "spec.name: Required value"),
        (
            {"name": 1, "a": 1},
            'spec.name: Invalid value: "integer": spec.name in body must be of type string: "integer"',
        ),
        ({"name": "", "a": 1}, 'spec.name: Invalid value: "": spec.name in body should be at least 1 chars long'),
        ({"name": "a" * 31, "a": 1}, "spec.name: Too long: may not be more than 30 bytes"),
        ({"name": "A", "a": 1}, "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z ]*$'"),
        ({"name": "n", "a": 0}, "spec.a: Invalid value: 0: spec.a in body should be greater than or equal to 1"),
        ({"name": "n", "a": 10}, "spec.a: Invalid value: 10: spec.a in body should be less than or equal to 9"),
        (
            {"name": "n", "a": True},
            'spec.a: Invalid value: "boolean": spec.a in body must be of type integer: "boolean"',
        ),
        ({"name": "n", "a": 1, "kind": "z"}, 'spec.kind: Unsupported value: "z": supported values: "x", "y"'),
        (
            {"name": "n", "a": 1, "ratio": 0},
            "spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0",
        ),
        (
            {"name": "n", "a": 1, "when": "now"},
            'spec.when: Invalid value: "now": spec.when in body must be of type date-time: "now"',
        ),
        ({"name": "n", "a": 1, "words": {"w": "four"}}, "spec.words.w: Too long: may not be more than 3 bytes"),
        (
            {"name": "n", "a": 1, "items": []},
            "spec.items: Invalid value: 0: spec.items in body should have at least 1 items",
        ),
        (
            {"name": "n", "a": 1, "items": [{"id": "1"}, {"id": "2"}, {"id": "3"}]},
            "spec.items: Too many: 3: must have at most 2 items",
        ),
        ({"name": "n", "a": 1, "items": [{}]}, "spec.items[0].id: Required value"),
        ({"name": "n", "a": 1, "items": [{"id": "1"}, {"id": "1"}]}, 'spec.items[1]: Duplicate value: {"id":"1"}'),
        (
            {"name": "n", "a": 1, "port": 1.5},
            'spec.port: Invalid value: "number": spec.port in body must be of type integer,string: "number"',
        ),
        ({"name": "n", "a": 1, "b": 2}, 'spec.a: Invalid value: "object": one of a and b, not both, of n'),
        (
            {"name": "rule without message", "a": 1},
            "spec: Invalid value: \"object\": failed rule: self.name != 'rule without message'",
        ),
        ({"name": "n", "a": 1, "wait": "500ms"}, 'spec.wait: Invalid value: "500ms": too short'),
    ],
)
def test_what_is_wrong(spec: Any, problem: str) -> None:
    assert said(spec) == [problem]


@pytest.mark.parametrize(
    "more",
    [{}, {"port": 80}, {"port": "http"}, {"when": "2026-01-01T00:00:00.5Z"}, {"wait": "1m30s"}, {"words": {"a": "b"}}],
)
def test_what_is_right(more: dict[str, Any]) -> None:
    assert said({"name": "n", "a": 1} | more) == []


def test_rules_about_the_old_value_hold_for_changes_only() -> None:
    assert said({"name": "n", "a": 1}) == []
    assert said({"name": "n", "a": 2}, {"name": "n", "a": 1}) == []
    assert said({"name": "m", "a": 1}, {"name": "n", "a": 1}) == ['spec: Invalid value: "object": name is immutable']
    old = {"name": "n", "a": 1, "items": [{"id": "1", "size": 5}]}
    new = {"name": "n", "a": 1, "items": [{"id": "2", "size": 1}, {"id": "1", "size": 4}]}
    assert said(new, old) == ['spec.items[1]: Invalid value: "object": must not shrink']


def test_what_was_wrong_before_and_stays_as_it_was_is_let_pass() -> None:
    old = {"name": "N", "a": 1, "b": 1, "items": [{"id": "1"}, {"id": "2"}, {"id": "3"}], "flag": "no"}
    wrong = said(old)
    assert {each.partition(":")[0] for each in wrong} == {"spec.name", "spec.items", "spec.flag"}
    assert said(old, old) == []
    assert said({**old, "kind": "y", "a": 0}, old) == [
        "spec.a: Invalid value: 0: spec.a in body should be greater than or equal to 1"
    ]
    changed = {**old, "name": "M", "flag": "yes"}
    assert {each.partition(":")[0] for each in said(changed, old)} == {"spec.name", "spec.flag"}
    schema = yaml.safe_load(
        "{type: object, properties: {list: {type: array, items: {type: integer, x-kubernetes-validations: "
        "[{rule: self > 1}]}}, other: {type: integer}}}"
    )
    assert check({"list": [1], "other": 2}, schema, {"list": [1]}) == []
    assert [cause.field for cause in check({"list": [1, 2]}, schema, {"list": [1]})] == ["list[0]"]


def test_what_is_unknown_goes_and_defaults_come() -> None:
    spec = {"name": "n", "colour": "red", "any": {"x": {"y": 1}}, "words": {"w": "x"}, "items": [{"id": "1", "z": 1}]}
    tree, gone = prune({"kind": "Thing", "spec": spec, "other": 1, "metadata": {"labels": {"a": "b"}}}, SCHEMA)
    assert gone == ["spec.colour", "spec.items[0].z", "other"]
    assert with_defaults(tree, SCHEMA) == {
        "kind": "Thing",
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "name": "n",
            "kind": "x",
            "any": {"x": {"y": 1}},
            "words": {"w": "x"},
            "items": [{"id": "1", "size": 3}],
        },
    }
    assert with_defaults({"spec": {"kind": None, "b": None}}, SCHEMA) == {"spec": {"kind": "x", "b": None}}


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"properties": {"a": {}}}, ".properties[a].type"),
        ({"properties": {"a": {"type": "array"}}}, ".properties[a].items"),
        (
            {"properties": {"a": {"type": "object", "additionalProperties": False}}},
            ".properties[a].additionalProperties",
        ),
        ({"properties": {"a": {"type": "string", "$ref": "#/x"}}}, ".properties[a].$ref"),
        ({"properties": {"a": {"type": "string", "oneOf": [{"type": "string"}]}}}, ".properties[a].oneOf[0].type"),
        ({"properties": {"a": {"type": "integer", "default": "x"}}}, ".properties[a].default"),
        ({"x-kubernetes-validations": [{"rule": "self. =="}]}, ".x-kubernetes-validations[0].rule"),
        (
            {"properties": {"a": {"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}}},
            ".properties[a].x-kubernetes-list-map-keys",
        ),
        (
            {
                "properties": {
                    "a": {
                        "type": "array",
                        "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]},
                    }
                }
            },
            ".properties[a].items.x-kubernetes-validations[0].rule",
        ),
    ],
)
def test_schemas_that_are_not_structural(schema: dict[str, Any], field: str) -> None:
    assert [cause.field for cause in schema_problems({"type": "object", **schema}, "")] == [field]


def test_definitions_that_tests_bring_are_structural() -> None:
    found = definitions(FIXTURES)
    assert len(found) == 15
    assert [cause for crd in found for cause in definition_problems(crd)] == []


def test_an_invalid_object_is_refused_over_http_with_its_causes() -> None:
    with Cluster(crds=()) as cluster:
        with pytest.raises(Refused) as refused:
            cluster.create(inference_pool("twice", {"a": "b"}, 8000, 8000))
        assert refused.value.status == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'InferencePool.inference.networking.k8s.io "twice" is invalid: spec.targetPorts: Invalid value: '
            '"array": port number must be unique',
            "reason": "Invalid",
            "details": {
                "name": "twice",
                "group": "inference.networking.k8s.io",
                "kind": "InferencePool",
                "causes": [
                    {
                        "reason": "FieldValueInvalid",
                        "message": 'Invalid value: "array": port number must be unique',
                        "field": "spec.targetPorts",
                    }
                ],
            },
            "code": 422,
        }
        made = cluster.create(inference_pool("once", {"a": "b"}, 8000, picker="epp"))[0]
        assert made["spec"]["endpointPickerRef"]["failureMode"] == "FailClose"
        with pytest.raises(Refused) as worse:
            cluster.patch(made, {"spec": {"endpointPickerRef": {"port": None}}})
        assert "port is required when kind is 'Service'" in worse.value.status["message"]
        assert cluster.get(made) == made
        unknown = thing("example.com/v1", "Thing", "x")
        with pytest.raises(Refused) as absent:
            cluster.ask("POST", "/apis/example.com/v1/namespaces/default/things", unknown)
        assert (absent.value.code, absent.value.reason) == (404, "NotFound")


def test_definitions_are_loaded_from_directories(tmp_path: Path) -> None:
    spec = {"group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    crd = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
    crd |= {"metadata": {"name": "things.example.com"}, "spec": spec | {"versions": [version]}}
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(crd))
    with Cluster(crds=[tmp_path]) as cluster:
        cluster.create({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "one"}})
        assert len(cluster.list("example.com/v1", "Thing")) == 1


@pytest.mark.parametrize(
    ("bounds", "dear"),
    [
        ({"maxItems": 16}, False),
        ({"maxItems": 2000}, True),
        ({}, True),
    ],
)
def test_rules_that_could_cost_too_much_are_refused(bounds: dict[str, int], dear: bool) -> None:
    each = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}}
    rule = {"rule": "self.all(a, self.exists_one(b, a.name == b.name))", "message": "twice"}
    names = {"type": "array", "items": each, "x-kubernetes-validations": [rule], **bounds}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"names": names}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    spec = {"group": "example.com", "scope": "Cluster", "names": {"plural": "things", "kind": "Thing"}}
    found = definition_problems({"metadata": {"name": "things.example.com"}, "spec": spec | {"versions": [version]}})
    assert ["estimated rule cost exceeds budget" in cause.message for cause in found] == [True] * dear


@pytest.mark.parametrize(
    "rule",
    [
        "self.matches(r'^[a-z]+$') ? size(self) > 1 : self in ['a', \"b\"]",
        "has(self.a) && !(self.b[0].c == -1.5e3 || {'x': 1}.size() > 0)",
        "self.filter(x, x.y != 'z').map(x, x.y.lowerAscii()).exists(k, k.startsWith('a'))",
        "duration(self) >= duration('1s') && true != false",
    ],
)
def test_rules_of_all_kinds_are_costed(rule: str) -> None:
    assert 1 < units(rule, {"type": "string", "maxLength": 10}) < 10_000


def test_a_pattern_ends_where_the_text_ends() -> None:
    assert said({"name": "n\n", "a": 1}) != []
