"""Dashboards: as the descriptions make them, and built as Grafana expects them. (IO)"""

from __future__ import annotations

import re

import msgspec
import pytest

from tests.monitoring.papers import Tree, dashboards, panels, queries
from tools import generate_dashboards
from tools.dashboard_panels import TAG, Page, Panel, Query, Row, dashboard, query

UNITS = {"short", "reqps", "ops", "s", "bytes", "percentunit"}
each_dashboard = pytest.mark.parametrize("tree", dashboards().values(), ids=dashboards())


def test_they_are_as_they_are_described() -> None:
    assert generate_dashboards.main(["--check"]) == 0
    assert len(dashboards()) == 4


def test_stale_ones_are_told_and_written_anew(tmp_path) -> None:
    (tmp_path / "gone.json").write_text("{}")
    assert generate_dashboards.main(["--check"], tmp_path) == 1
    assert generate_dashboards.main([], tmp_path) == 0
    assert generate_dashboards.main(["--check"], tmp_path) == 0


@each_dashboard
def test_no_panel_covers_another_and_numbers_are_their_own(tree: Tree) -> None:
    shown = list(panels(tree))
    assert len({panel["id"] for panel in shown}) == len(shown)
    for group in (tree["panels"], *(panel["panels"] for panel in tree["panels"] if panel.get("panels"))):
        taken: set[tuple[int, int]] = set()
        for panel in group:
            place = panel["gridPos"]
            assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells


@each_dashboard
def test_everything_comes_from_the_source_that_is_chosen(tree: Tree) -> None:
    sources = [panel["datasource"] for panel in panels(tree) if panel["type"] != "row"]
    sources += [target["datasource"] for panel in panels(tree) for target in panel.get("targets", ())]
    sources += [each["datasource"] for each in tree["templating"]["list"] if each["type"] == "query"]
    sources += [note["datasource"] for note in tree["annotations"]["list"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert "id" not in tree
    assert [each["name"] for each in tree["templating"]["list"]] == ["datasource", "namespace", "job", "pool", "model"]
    assert tree["links"][0]["tags"] == [TAG]
    assert TAG in tree["tags"]


@each_dashboard
def test_panels_have_queries_units_and_names_for_their_curves(tree: Tree) -> None:
    for panel in panels(tree):
        if panel["type"] == "row":
            continue
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))))
            assert named <= grouped | {"instance", "job"}, panel["title"]
            assert ("histogram_quantile" not in target["expr"]) or panel["fieldConfig"]["defaults"]["unit"] == "s"
        if "percent" in panel["fieldConfig"]["defaults"]["unit"] and panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["min"] == 0


@each_dashboard
def test_queries_keep_to_what_is_selected(tree: Tree) -> None:
    for title, target, _ in queries(tree):
        for labels in re.findall(r"infer\w+{([^}]*)}", target.get("expr", "")):
            assert 'namespace=~"$namespace", job=~"$job"' in labels, title


@pytest.mark.parametrize(
    ("short", "meant"),
    [
        ("a{@}", 'a{namespace=~"$namespace", job=~"$job"}'),
        ('a{@model, x="y"}', 'a{namespace=~"$namespace", job=~"$job", model=~"$model", x="y"}'),
        ("rate(a{@pool}[R])", 'rate(a{namespace=~"$namespace", job=~"$job", pool=~"$pool"}[$__rate_interval])'),
    ],
)
def test_short_queries(short: str, meant: str) -> None:
    assert query(short) == meant


def test_panels_stand_side_by_side_and_folded_rows_hold_theirs() -> None:
    panel = Panel("p", (Query("a"),), width=10, height=4)
    tree = dashboard(Page("u", "t", "", (Row("one", (panel,) * 3), Row("two", (panel,), folded=True))))
    places = [(each["gridPos"]["x"], each["gridPos"]["y"]) for each in tree["panels"]]
    assert places == [(0, 0), (0, 1), (10, 1), (0, 5), (0, 9)]
    assert [each["id"] for each in panels(tree)] == [1, 2, 3, 4, 5, 6]
    assert tree["panels"][-1]["panels"][0]["gridPos"] == {"x": 0, "y": 10, "w": 10, "h": 4}


def test_a_description_with_an_unknown_member_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        msgspec.yaml.decode(b"{uid: a, title: b, about: c, rows: [], unknown: 1}", type=Page)
