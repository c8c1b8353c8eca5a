import math
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.utils import floatToGoString

from gateway.families import END, Family, Page, Row, number, wanted
from gateway.labels import label
from gateway.tally import TOKEN_BOUNDS, Exemplar, Histogram

openmetrics: Callable[[str], Iterator[Metric]] = parser.text_string_to_metric_families
COUNTER = Family("infer_gateway_x_total", "counter", 'A "count" \\ of\nthings.', ("model", "why"))
TIMES = Family("infer_gateway_x_seconds", "histogram", "Times.", ("model",), (0.1, 1.0))
TEXTS = st.text(max_size=300) | st.sampled_from(['a"b', "a\nb", "a\\", "\ud800", "\x00\x1b[2J", "\u2028", "}", "# EOF"])
NUMBERS = st.floats(min_value=0, allow_infinity=False) | st.integers(0, 1 << 60)


def written(family: Family, rows: Sequence[Row], *, om: bool = False) -> str:
    return b"".join(Page(om).write(family, rows)).decode()


@given(st.dictionaries(st.tuples(TEXTS, TEXTS), NUMBERS, max_size=20), st.booleans())
def test_whatever_labels_hold_is_read_back(rows: dict[tuple[str, str], float], om: bool) -> None:
    text = written(COUNTER, list(rows.items()), om=om)
    assert text.count("\n") == len(rows) + 2
    (family,) = openmetrics(text + END.decode()) if om else plain(text)
    assert (family.name, family.type) == ("infer_gateway_x", "counter")
    shown = {(sample.labels["model"], sample.labels["why"]): sample.value for sample in family.samples}
    assert shown == {(label(model), label(why)): float(value) for (model, why), value in rows.items()}


@given(st.lists(st.floats(0, 3), max_size=30), TEXTS, st.booleans())
@settings(max_examples=50)
def test_buckets_add_up(values: list[float], model: str, om: bool) -> None:
    histogram = Histogram(TIMES.bounds)
    for value in values:
        histogram.observe(value)
    text = written(TIMES, [((model,), histogram)], om=om)
    (family,) = openmetrics(text + END.decode()) if om else plain(text)
    shown = {(s.name.rpartition("_")[2], s.labels.get("le", "")): s.value for s in family.samples}
    if not values:
        assert not shown
        return
    for bound, le in ((0.1, "0.1"), (1.0, "1.0"), (math.inf, "+Inf")):
        assert shown["bucket", le] == sum(value <= bound for value in values)
    assert shown["count", ""] == len(values)
    assert math.isclose(shown["sum", ""], sum(values), abs_tol=1e-9)


def test_exemplars_stand_beside_their_buckets_for_those_who_can_read_them() -> None:
    histogram = Histogram(TIMES.bounds)
    histogram.observe(0.5)
    histogram.exemplify(0.5, "ab" * 16, 10.0)
    rows: list[Row] = [(("m",), histogram)]
    text = b"".join(Page(True, wall=1e9).write(TIMES, rows)).decode()
    (family,) = openmetrics(text + END.decode())
    (sample,) = [sample for sample in family.samples if sample.exemplar is not None]
    assert (sample.name, sample.labels["le"]) == ("infer_gateway_x_seconds_bucket", "1.0")
    assert sample.exemplar is not None
    assert (sample.exemplar.labels, sample.exemplar.value) == ({"trace_id": "ab" * 16}, 0.5)
    assert float(sample.exemplar.timestamp or 0) == 1_000_000_010
    assert family.unit == "seconds"
    assert "trace_id" not in written(TIMES, rows)


def test_an_exemplar_is_a_value_of_its_bucket() -> None:
    assert Exemplar(1.0, "a", 2.0) == Exemplar(1.0, "a", 2.0)
    histogram = Histogram((1.0, 2.0))
    histogram.exemplify(1.0, "first", 0.0)
    histogram.exemplify(2.5, "last", 0.0)
    assert {index: each.trace_id for index, each in (histogram.exemplars or {}).items()} == {0: "first", 2: "last"}


def test_a_large_family_comes_in_pieces_with_one_head() -> None:
    family = Family("x", "gauge", "X.", ("n",))
    pieces = list(Page().write(family, (((str(n),), n) for n in range(2500))))
    assert [piece.count(b"\n") for piece in pieces] == [500, 500, 500, 500, 500, 2]
    assert b"".join(pieces).count(b"# TYPE") == 1


def test_an_information_is_a_gauge_where_there_is_no_such_thing() -> None:
    family = Family("x_info", "info", "X.", ("version",))
    assert written(family, [(("1",), 1)]) == '# HELP x_info X.\n# TYPE x_info gauge\nx_info{version="1"} 1.0\n'
    assert written(family, [(("1",), 1)], om=True) == '# HELP x X.\n# TYPE x info\nx_info{version="1"} 1.0\n'


def test_numbers_are_written_as_both_formats_have_them() -> None:
    assert [number(value) for value in (1, True, 0.1, math.inf, -math.inf, math.nan, 1 << 60)] == [
        "1.0", "1.0", "0.1", "+Inf", "-Inf", "NaN", "1.152921504606847e+18",
    ]  # fmt: skip
    counted = Histogram(TOKEN_BOUNDS)
    counted.observe(1)
    text = written(Family("x", "histogram", "X.", (), TOKEN_BOUNDS), [((), counted)])
    bounds = [line.split('"')[1] for line in text.splitlines() if "_bucket" in line]
    assert bounds == [*map(floatToGoString, TOKEN_BOUNDS), "+Inf"]


@pytest.mark.parametrize(
    ("accept", "is_wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; q=0.5,text/plain;q=0.2,*/*;q=0.1", True),
        ("Application/OpenMetrics-Text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75", True),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", False),
        ("text/plain;q=0.5, application/openmetrics-text;q=0.5", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=many", False),
        (";;,;q=,,=", False),
    ],
)
def test_openmetrics_is_for_those_who_ask_for_it(accept: str, is_wanted: bool) -> None:
    assert wanted(accept) is is_wanted
    assert Page(is_wanted).content_type.startswith("application/openmetrics-text" if is_wanted else "text/plain")
