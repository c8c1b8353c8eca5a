from __future__ import annotations

import json
from typing import ClassVar

import pytest

from adapters.providers import Ollama
from adapters.vllm import VLLM
from gateway.types import Operation
from tools import generate_matrix
from tools.generate_matrix import PROBES, Column, cell, members_of


def test_the_page_says_what_the_adapters_do() -> None:
    assert generate_matrix.rendered(generate_matrix.PAGE.read_text()) == generate_matrix.PAGE.read_text(), "make proto"


@pytest.mark.parametrize(
    ("column", "name", "verdict"),
    [
        (Column("", VLLM()), "top_k", "passes"),
        (Column("", VLLM()), "max_completion_tokens", "passes"),
        (Column("", Ollama()), "max_completion_tokens", "translated"),
        (Column("", Ollama()), "n", "refused"),
        (Column("", Ollama()), "tool_choice: required", "**refused**"),
        (Column("", Ollama()), "an image", "passes"),
    ],
)
def test_a_cell_is_what_encoding_shows(column: Column, name: str, verdict: str) -> None:
    assert cell(column, Operation.CHAT, members_of(name, PROBES[Operation.CHAT][name])) == verdict


def test_what_an_engine_has_no_operation_for_is_a_dash() -> None:
    class Mute(Ollama):
        paths: ClassVar[dict[Operation, bytes]] = {}

    assert cell(Column("", Mute()), Operation.CHAT, {}) == "–"


def test_every_probe_asks_for_something() -> None:
    for operation, probes in PROBES.items():
        for name, probe in probes.items():
            members = members_of(name, probe)
            assert members, f"{operation}: {name}"
            json.dumps(members)


def test_a_page_without_its_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="operations"):
        generate_matrix.rendered("# Engines")
