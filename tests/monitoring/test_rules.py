"""Alerts: each fires when it should and not when all is well, says what it is about, and leads to what to do. (IO)"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import subprocess
from itertools import chain

import pytest
import yaml

import gateway
from gateway.families import Family
from tests.monitoring.papers import RULES, TESTS, Tree, alerts, dashboards, metrics, queries, rules
from tests.process import ROOT
from tools import docs_check

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
ADDED = {"namespace", "job", "instance", "le"}
"""Labels that scraping adds."""
each_alert = pytest.mark.parametrize("alert", alerts().values(), ids=alerts())


def known() -> dict[str, Family]:
    """Metrics that the program has."""
    modules = (importlib.import_module(f"gateway.{found.name}") for found in pkgutil.iter_modules(gateway.__path__)
               if found.name.startswith("telemetry_"))  # fmt: skip
    families = (each for module in modules for each in vars(module).values() if isinstance(each, Family))
    return {family.name: family for family in families}


def fired() -> list[Tree]:
    """Labels of alerts that the tests expect, as text."""
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    cases = chain.from_iterable(test["promql_expr_test"] for test in tests)
    found = chain.from_iterable(case["exp_samples"] for case in cases)
    return [dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"])) for sample in found]


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_example_that_loads_them() -> None:
    file = ROOT / "examples" / "monitoring" / "prometheus.yml"
    assert (file.parent / yaml.safe_load(file.read_text())["rule_files"][0]).resolve() == RULES
    done = subprocess.run([PROMTOOL, "check", "config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    done = subprocess.run([PROMTOOL, "test", "rules", TESTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@each_alert
def test_an_alert_has_a_test_in_which_it_fires(alert: Tree) -> None:
    assert alert["alert"] in {labels["alertname"] for labels in fired()}


@each_alert
def test_an_alert_says_what_is_wrong_and_where(alert: Tree) -> None:
    assert re.fullmatch(r"InferGateway[A-Z]\w+", alert["alert"])
    assert set(alert) == {"alert", "expr", "labels", "annotations"} | ({"for"} & set(alert))
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning")
    said = alert["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert "{{" not in said["summary"]
    (labels, *_) = [labels for labels in fired() if labels["alertname"] == alert["alert"]]
    named = set(re.findall(r"\$labels\.(\w+)", said["description"]))
    assert named <= labels.keys()
    assert labels.keys() - named <= {"alertname", "alertstate", "severity", "namespace", "job", "instance"}


@each_alert
def test_an_alert_leads_to_what_to_do(alert: Tree) -> None:
    target = alert["annotations"]["runbook_url"]
    assert target.startswith("docs/")
    assert not list(docs_check.broken_links(ROOT / "README.md", f"[x]({target})"))


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "alerts.md").read_text()
    headings = set(re.findall(r"^### (InferGateway\w+)$", page, re.MULTILINE))
    assert headings == set(alerts())
    for name, alert in alerts().items():
        section = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        assert alert["labels"]["severity"] in section


def asked() -> dict[str, str]:
    """All queries, by what they are for."""
    found = {(rule.get("alert") or rule["record"]): rule["expr"] for rule in rules()}
    for dashboard in dashboards().values():
        found |= {title: expr for title, _, expr in queries(dashboard)}
    return found


def test_rules_and_dashboards_ask_for_metrics_that_there_are() -> None:
    names = known().keys()
    missing = {title: gone for title, expr in asked().items() if (gone := metrics(expr) - names)}
    assert not missing
    assert sum(len(metrics(expr)) for expr in asked().values()) > 100


def test_queries_name_labels_that_their_metrics_have() -> None:
    families = known()
    for title, expr in asked().items():
        here = ADDED.union(*(families[name].labels for name in metrics(expr)))
        here |= set(re.findall(r'"(\w+)", "\$1"', expr))
        if ":" in re.sub(r'"[^"]*"|\[[^]]*\]', "", expr) or "ALERTS" in expr:
            continue
        named = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expr)
        named += [label for group in re.findall(r"(?:by|on) \(([^)]*)\)", expr) for label in group.split(", ")]
        assert set(named) <= here, title


def test_papers_name_metrics_that_there_are() -> None:
    recorded = {
        name for rule in rules() if "record" in rule for name in re.findall(r"infer_gateway_\w+", rule["record"])
    }
    names = known().keys() | recorded
    pages = [*docs_check.documents(ROOT), *(ROOT / "charts").rglob("*.yaml"), *(ROOT / "charts").rglob("*.tpl")]
    for page in (*pages, *(ROOT / "examples").rglob("*.y*ml")):
        said = set(
            re.findall(
                r"(?<![\w/.-])(?:infer_gateway|inference_pool|inference_model)_[a-z_]+[a-z]\b(?![*.])", page.read_text()
            )
        )
        gone = {name for name in said if re.sub(r"_(bucket|count|sum)$", "", name) not in names}
        assert not gone, page


def test_recorded_metrics_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    exprs = [rule["expr"] for rule in rules()]
    exprs += [expr for dashboard in dashboards().values() for _, _, expr in queries(dashboard)]
    used = {name for expr in exprs for name in re.findall(r"[\w]+:[\w:]+", re.sub(r'"[^"]*"', "", expr))}
    assert used - {"infer_gateway:error_budget"} <= recorded
