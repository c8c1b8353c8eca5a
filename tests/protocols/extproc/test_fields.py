from __future__ import annotations

from protocols.extproc import fields, messages


def head(*given: tuple[str, bytes], value: tuple[str, str] | None = None) -> fields.Head:
    message = messages.ProcessingRequest()
    for name, raw in given:
        message.request_headers.headers.headers.add(key=name, raw_value=raw)
    if value:
        message.request_headers.headers.headers.add(key=value[0], value=value[1])
    return fields.read(message.request_headers.headers)


def test_all_regular_fields_in_order_duplicates_kept() -> None:
    found = head((":path", b"/x"), ("accept", b"a"), ("Accept", b"b"), value=("hi", "mom"))
    assert found.fields == ((b"accept", b"a"), (b"accept", b"b"), (b"hi", b"mom"))
    assert found.named == {":path": b"/x"}
    assert found.control == ()


def test_current_vocabulary_wins_over_the_alias_whatever_the_order() -> None:
    found = head(
        ("x-gateway-inference-fairness-id", b"old"), ("x-llm-d-inference-fairness-id", b"new"), ("x-slo-ttft-ms", b"1")
    )
    assert found.text(*fields.FAIRNESS) == "new"
    assert set(found.control) == {
        "x-gateway-inference-fairness-id",
        "x-llm-d-inference-fairness-id",
        "x-slo-ttft-ms",
    }


def test_first_of_duplicates_and_empty_means_absent() -> None:
    found = head((fields.MODEL[0], b""), (fields.MODEL[1], b"one"), (fields.MODEL[1], b"two"))
    assert found.text(*fields.MODEL) == "one"
    assert head().text(*fields.MODEL) == ""
