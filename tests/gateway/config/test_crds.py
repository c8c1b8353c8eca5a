"""The definitions are ones that an API server takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from gateway.config.crds import DEFINITIONS, Definition
from gateway.config.resources import ModelServer
from gateway.config.schema import schema
from tests.gateway.config.cel_check import UNBOUNDED, Wrong, cost
from tests.kube.apiserver_schema import problems, prune
from tools import generate_crds

Tree = dict[str, Any]
PRESERVE = "x-kubernetes-preserve-unknown-fields"
RULES = "x-kubernetes-validations"

every = pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.file)


def nodes(of: Tree, path: str = "$", times: int = 1) -> Iterator[tuple[str, Tree, int]]:
    """Every schema in a schema, and how often it may apply to one object."""
    yield path, of, times
    for name, inner in of.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}", times)
    if "items" in of:
        yield from nodes(of["items"], f"{path}[]", times * of.get("maxItems", UNBOUNDED))
    if "additionalProperties" in of:
        yield from nodes(of["additionalProperties"], f"{path}.*", times * of.get("maxProperties", UNBOUNDED))


def whole(definition: Definition) -> Tree:
    (version,) = definition.tree()["spec"]["versions"]
    made: Tree = version["schema"]["openAPIV3Schema"]
    return made


@every
def test_a_definition_is_one(definition: Definition) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        kubernetes_validate.validate(definition.tree(), "1.33", strict=True)
    spec = definition.tree()["spec"]
    assert definition.tree()["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"


VALUES = {
    "string": {"minLength", "maxLength", "pattern", "enum", "format"},
    "integer": {"minimum", "maximum", "enum", "format"},
    "number": {"minimum", "maximum", "enum", "format"},
    "boolean": {"enum"},
    "array": {"minItems", "maxItems", "items", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"},
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties", "anyOf", PRESERVE},
}
OPEN = {PRESERVE, "properties", "required", "minLength", "maxLength", "pattern"}


def unstructural(root: Tree) -> Iterator[str]:
    """What an API server would not take."""
    if set(root) - {"description", "type", "properties", "required"} or root["type"] != "object":
        yield "$: more at the root than a status beside it allows"
    if root["properties"]["metadata"] != {"type": "object"}:
        yield "$.metadata: more than a type"
    for path, of, _ in nodes(root):
        allowed = VALUES[of["type"]] if "type" in of else OPEN
        if "type" not in of and of.get(PRESERVE) is not True:
            yield f"{path}: no type"
        if extra := set(of) - allowed - {"type", "description", "default", RULES}:
            yield f"{path}: {extra}"
        if "properties" in of and "additionalProperties" in of:
            yield f"{path}: properties and additionalProperties"
        if of.get("type") == "array" and "items" not in of:
            yield f"{path}: no items"
        if set(of.get("required", ())) - set(of.get("properties", {})):
            yield f"{path}: required, but not there"
        if any(
            set(each) != {"required"} or set(each["required"]) - set(of["properties"]) for each in of.get("anyOf", ())
        ):
            yield f"{path}: more than value validation in anyOf"
        if "default" in of and (list(problems(of["default"], of)) or prune(of["default"], of, "$")[1]):
            yield f"{path}: a default that is not valid"
        if "pattern" in of and re.search(r"\(\?[^:i]|\\[ZA-Cbdswpz1-9]", of["pattern"]):
            yield f"{path}: a pattern that is not plain RE2"


@every
def test_its_schema_is_structural(definition: Definition) -> None:
    assert list(unstructural(whole(definition))) == []


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"properties": {"a": {}}}, ["$.spec.a: no type"]),
        ({"nullable": True}, ["$.spec: {'nullable'}"]),
        ({"additionalProperties": {"type": "string"}}, ["$.spec: properties and additionalProperties"]),
        ({"properties": {"a": {"type": "array"}}}, ["$.spec.a: no items"]),
        ({"required": ["b"]}, ["$.spec: required, but not there"]),
        ({"anyOf": [{"type": "object"}]}, ["$.spec: more than value validation in anyOf"]),
        ({"properties": {"a": {"type": "string", "default": 1}}}, ["$.spec.a: a default that is not valid"]),
        ({"default": {"x": 1}}, ["$.spec: a default that is not valid"]),
        ({"properties": {"a": {"type": "string", "pattern": "(?=a)"}}}, ["$.spec.a: a pattern that is not plain RE2"]),
    ],
)
def test_what_is_not_structural_is_seen(spoilt: Tree, said: list[str]) -> None:
    spec = {"type": "object", "properties": {"a": {"type": "string"}}, **spoilt}
    assert list(unstructural({"type": "object", "properties": {"metadata": {"type": "object"}, "spec": spec}})) == said


@every
def test_its_rules_compile_and_cost_little(definition: Definition) -> None:
    costs = {
        f"{path}: {rule['rule']}": times * cost(rule["rule"], of)
        for path, of, times in nodes(whole(definition))
        for rule in of.get(RULES, ())
    }
    assert len(costs) > 5
    assert {rule: price for rule, price in costs.items() if price > 1_000_000} == {}
    assert sum(costs.values()) < 10_000_000


@every
def test_its_rules_point_at_members_and_speak(definition: Definition) -> None:
    for path, of, _ in nodes(whole(definition)):
        for rule in of.get(RULES, ()):
            assert set(rule) <= {"rule", "message", "fieldPath"}
            assert rule["message"] == rule["message"].strip()
            assert "\n" not in rule["message"]
            if "fieldPath" in rule:
                assert rule["fieldPath"][1:] in of["properties"], path


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("has(self.nothing)", "no member 'nothing'"),
        ("has(self.endpoints)", "no member 'endpoints'"),
        ("self.model", "a rule that is a string"),
        ("self.model == 1", "== of a string and a int"),
        ("self.model.all(x, true)", "cannot go through a string"),
        ("self.model.matches('a'", "expected"),
        ("self.headers.all(k, k > 1)", "> of a string and a int"),
    ],
)
def test_a_rule_that_does_not_compile_is_seen(rule: str, said: str) -> None:
    with pytest.raises(Wrong, match=said):
        cost(rule, schema(ModelServer))


def test_a_rule_without_bounds_is_dear() -> None:
    unbounded = {"type": "array", "items": {"type": "string"}}
    assert cost("self.all(x, x.matches('^[a-z]+$'))", unbounded) > 10_000_000
    assert (
        cost(
            "self.all(x, x.matches('^[a-z]+$'))",
            {**unbounded, "maxItems": 9, "items": {"type": "string", "maxLength": 9}},
        )
        < 200
    )


# --- the chart's files ------------------------------------------------------------------------------------------------


def test_the_files_are_up_to_date() -> None:
    assert generate_crds.stale() == []


def test_files_that_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_crds.main([], tmp_path) == 0
    assert generate_crds.main(["--check"], tmp_path) == 0
    changed, missing, *_ = sorted(tmp_path.iterdir())
    changed.write_text(changed.read_text() + "\n")
    missing.unlink()
    (tmp_path / "other.yaml").write_text("")
    assert generate_crds.main(["--check"], tmp_path) == 1
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        changed.name,
        missing.name,
        "other.yaml",
    ]
