"""The rules and dashboards that are delivered, as trees. (IO)"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.process import ROOT

CHART = ROOT / "charts" / "infer-gateway"
RULES = CHART / "files" / "alerts.yaml"
TESTS = ROOT / "tests" / "monitoring" / "alerts_test.yaml"
Tree = dict[str, Any]
OURS = re.compile(r"(?<![\w:])((?:infer_gateway|inference|process)_\w+)(?![\w:]|\()")
"""Names of metrics in a query, not of recorded ones."""


def rules() -> list[Tree]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Tree]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def dashboards() -> dict[str, Tree]:
    """By uid."""
    trees = [json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))]
    return {tree["uid"]: tree for tree in trees}


def panels(dashboard: Tree) -> Iterator[Tree]:
    """Rows too, and those in folded ones."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries(dashboard: Tree) -> Iterator[tuple[str, Tree, str]]:
    """(what it is for, target, PromQL with the variables as they are at first)."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield f"{dashboard['uid']}: {panel['title']} {target['refId']}", target, filled(target["expr"])
    for note in dashboard["annotations"]["list"]:
        yield f"{dashboard['uid']}: {note['name']}", {"range": True}, filled(note["expr"])


def filled(expr: str) -> str:
    """With everything selected, as Grafana puts it in."""
    written = re.sub(r'"\$(namespace|job|pool|model)"', '".*"', expr)
    return re.sub(r"\$__(rate_interval|interval|range)", "30s", written)


def metrics(expr: str) -> set[str]:
    """What Prometheus has to have scraped for it; buckets of a histogram by its own name."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in OURS.findall(re.sub(r'"[^"]*"', "", expr))}
