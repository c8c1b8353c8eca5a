"""Grafana's panels and dashboards as plain dicts, laid out from left to right. (P)

Queries say whose series they want in short: `@` stands for the selected namespaces and jobs, `@model`, `@pool` and
`@both` for these with the selected models, pools, or both. `$__rate_interval` is written `[R]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

Tree = dict[str, Any]
WIDTH = 24
SOURCE: Tree = {"type": "prometheus", "uid": "${datasource}"}
_SCOPE = 'namespace=~"$namespace", job=~"$job"'
_MODEL, _POOL = 'model=~"$model"', 'pool=~"$pool"'
_SHORT = {
    "@": _SCOPE,
    "@model": f"{_SCOPE}, {_MODEL}",
    "@pool": f"{_SCOPE}, {_POOL}",
    "@both": f"{_SCOPE}, {_MODEL}, {_POOL}",
}
SCHEMA_VERSION = 41
"""Of Grafana 11.6 and 12.0: older releases show it, newer ones read it as their own."""
TAG = "infer-gateway"


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One curve or more. ``legend`` as Grafana has it, "" for a single one. ``exemplars``: requests are shown on it."""

    expr: str
    legend: str = ""
    exemplars: bool = False


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Curves of the histogram ``of``, for each value of the label ``by``; exemplars on the highest."""

    of: str
    by: str
    scope: str
    shares: tuple[float, ...]

    def queries(self) -> Iterator[Query]:
        for share in self.shares:
            rates = f"sum by ({self.by}, le) (rate({self.of}_bucket{{{self.scope}}}[R]))"
            legend = f"{{{{{self.by}}}}} p{share * 100:g}"
            yield Query(f"histogram_quantile({share}, {rates})", legend, exemplars=share == max(self.shares))


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is seen, by which queries. ``width`` is of 24 columns, ``height`` in rows of 30 pixels. ``steps``: the
    colour from a value on. ``names``: what 0, 1, … are called, with their colours. ``empty``: shown where there are no
    series.
    """

    title: str
    queries: tuple[Query, ...] = ()
    quantiles: Quantiles | None = None
    unit: str = "short"
    about: str = ""
    kind: Literal["stat", "timeseries", "table", "heatmap", "state-timeline", "bargauge"] = "timeseries"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[float | None, str], ...] = ()
    names: tuple[tuple[str, str], ...] = ()
    stacked: bool = False
    lowest: float | None = 0
    highest: float | None = None
    empty: str = ""

    @property
    def curves(self) -> tuple[Query, ...]:
        return self.queries or tuple(self.quantiles.queries() if self.quantiles else ())


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Panels under a title; folded ones ask nothing until they are opened."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dashboard; ``uid`` is its address in Grafana and the name of its file."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]


def query(expr: str) -> str:
    """The PromQL that the short form stands for."""
    written = re.sub(r"@(model|pool|both)?\b|@", lambda found: _SHORT[found[0]], expr)
    return re.sub(r"\s+", " ", written.replace("[R]", "[$__rate_interval]")).strip()


def dashboard(page: Page) -> Tree:
    """Everything but the numbers of Grafana's own database."""
    return {
        "uid": page.uid,
        "title": page.title,
        "description": page.about,
        "tags": [TAG, "llm"],
        "timezone": "",
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "links": [_siblings()],
        "annotations": {"list": [_reloads()]},
        "templating": {"list": list(_variables())},
        "panels": list(_laid_out(page.rows)),
    }


def _siblings() -> Tree:
    return {
        "type": "dashboards",
        "title": "infer-gateway",
        "icon": "external link",
        "tooltip": "",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _reloads() -> Tree:
    return {
        "name": "Configuration changed",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "expr": query("max by (job) (changes(infer_gateway_config_generation{@}[$__interval])) > 0"),
        "titleFormat": "{{job}} has a new configuration",
        "step": "30s",
    }


def _variables() -> Iterator[Tree]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }
    yield _variable("namespace", "Namespace", "label_values(infer_gateway_build_info, namespace)")
    yield _variable("job", "Job", 'label_values(infer_gateway_build_info{namespace=~"$namespace"}, job)')
    yield _variable("pool", "Pool", f"label_values(infer_gateway_endpoint_up{{{_SCOPE}}}, pool)")
    yield _variable("model", "Model", f"label_values(infer_gateway_requests_total{{{_SCOPE}}}, model)")


def _variable(name: str, label: str, definition: str) -> Tree:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "definition": definition,
        "query": {"query": definition, "refId": name},
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "allValue": ".*",
        "includeAll": True,
        "multi": True,
        "hide": 0,
        "options": [],
        "refresh": 2,
        "regex": "",
        "skipUrlSync": False,
        "sort": 1,
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[Tree]:
    """Panels with their numbers and places, in rows."""
    number, y = 0, 0
    for row in rows:
        number += 1
        head: Tree = {"id": number, "title": row.title, "type": "row", "collapsed": row.folded, "panels": []}
        head["gridPos"] = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        x, y, tallest, made = 0, y + 1, 0, []
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            number += 1
            made.append(
                _panel(panel) | {"id": number, "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height}}
            )
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
        yield head | ({"panels": made} if row.folded else {})
        yield from () if row.folded else made


def _panel(panel: Panel) -> Tree:
    made: Tree = {"title": panel.title, "type": panel.kind, "description": panel.about, "datasource": SOURCE}
    made["fieldConfig"] = {"defaults": _field(panel), "overrides": []}
    made["options"] = _OPTIONS[panel.kind]
    made["targets"] = [_target(panel, number, each) for number, each in enumerate(panel.curves)]
    if panel.kind == "table":
        made["transformations"] = _table(panel)
    return made


def _field(panel: Panel) -> Tree:
    """How values are read, shown and coloured."""
    field: Tree = {"unit": panel.unit, "custom": _custom(panel), "mappings": _mappings(panel)}
    field["color"] = {"mode": "thresholds" if panel.steps else "palette-classic"}
    steps = [{"value": value, "color": colour} for value, colour in panel.steps or ((None, "green"),)]
    field["thresholds"] = {"mode": "absolute", "steps": steps}
    if panel.lowest is not None and panel.kind != "table":
        field["min"] = panel.lowest
    if panel.highest is not None:
        field["max"] = panel.highest
    return field | ({"noValue": panel.empty} if panel.empty else {})


def _custom(panel: Panel) -> Tree:
    if panel.kind == "timeseries":
        return {
            "drawStyle": "line",
            "fillOpacity": 25 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    if panel.kind == "state-timeline":
        return {"fillOpacity": 80, "lineWidth": 0}
    return {}


def _mappings(panel: Panel) -> list[Tree]:
    """Numbers that have a name and a colour."""
    named = {
        str(number): {"text": text, "color": colour, "index": number}
        for number, (text, colour) in enumerate(panel.names)
    }  # fmt: skip
    return [{"type": "value", "options": named}] if named else []


def _target(panel: Panel, number: int, each: Query) -> Tree:
    made: Tree = {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query(each.expr)}
    made["legendFormat"] = each.legend or "__auto"
    if panel.kind in ("stat", "table", "bargauge"):
        return made | {"instant": True, "range": False, "format": "table" if panel.kind == "table" else "time_series"}
    return made | {
        "instant": False,
        "range": True,
        "exemplar": each.exemplars,
        "format": "heatmap" if panel.kind == "heatmap" else "time_series",
    }


def _table(panel: Panel) -> list[Tree]:
    """One line a set of labels, a column a query by its legend; columns that say nothing are left out."""
    names = {f"Value #{chr(ord('A') + number)}": each.legend for number, each in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        names = {"Value": panel.queries[0].legend}
    columns = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": names}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": columns},
    ]


_CALCULATED: Tree = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, Tree] = {
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": _CALCULATED,
        "textMode": "auto",
    },
    "timeseries": {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"cellHeight": "sm", "showHeader": True, "footer": {"show": False, "reducer": ["sum"], "fields": ""}},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange",
                  "reverse": False, "scale": "exponential"},
        "exemplars": {"color": "rgba(31, 96, 196, 0.8)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
    },
    "state-timeline": {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "bargauge": {
        "displayMode": "basic",
        "minVizHeight": 16,
        "minVizWidth": 8,
        "orientation": "horizontal",
        "reduceOptions": _CALCULATED,
        "showUnfilled": True,
        "valueMode": "color",
    },
}  # fmt: skip
