"""How long requests and answers are believed to be."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.estimate import BYTES_PER_TOKEN, OUTPUT_TOKENS, Estimate, Estimator
from gateway.types import Identity, InferenceRequest, Operation, Usage
from protocols.openai.parse import parse

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[Operation, dict[str, object]] = {
    Operation.CHAT: CHAT,
    Operation.COMPLETIONS: {"prompt": "hi"},
    Operation.RESPONSES: {"input": "hi"},
    Operation.MESSAGES: CHAT,
    Operation.COUNT_TOKENS: CHAT,
    Operation.EMBEDDINGS: {"input": "hi"},
    Operation.RERANK: {"query": "q", "documents": ["d"]},
    Operation.TOKENIZE: {"prompt": "hi"},
    Operation.DETOKENIZE: {"tokens": [1]},
}


def asked(
    operation: Operation = Operation.CHAT, *, model: str = "llama", user: str = "ann", **members: object
) -> InferenceRequest:
    body = msgspec.json.encode({"model": model, **BODIES[operation], **members})
    headers = [(b"content-type", b"application/json")]
    return parse(operation, body, headers, request_id="r", path=operation, identity=Identity(user=user, tenant="acme"))


def test_nothing_known_is_a_guess() -> None:
    assert Estimator().tokens(asked(), 4000) == Estimate(4000 / BYTES_PER_TOKEN, OUTPUT_TOKENS)
    assert Estimator().tokens(asked(), 0).input == 1.0


def test_a_count_is_believed() -> None:
    assert Estimator().tokens(asked(), 4000, 777).input == 777.0


def test_the_ratio_is_learned_by_model() -> None:
    estimator = Estimator()
    for _ in range(300):
        estimator.observe(asked(), 3000, Usage(prompt=1000, completion=10))
    assert estimator.ratio("llama") == pytest.approx(3.0, abs=0.02)
    assert estimator.ratio("other") == BYTES_PER_TOKEN
    assert estimator.tokens(asked(), 3000).input == pytest.approx(1000, rel=0.01)


def test_the_first_prompts_teach_most() -> None:
    estimator = Estimator()
    estimator.observe(asked(), 2000, Usage(prompt=1000))
    assert estimator.ratio("llama") == 3.0  # halfway from the guess
    for _ in range(1000):
        estimator.observe(asked(), 2000, Usage(prompt=1000))
    estimator.observe(asked(), 12_000, Usage(prompt=1000))
    assert estimator.ratio("llama") < 2.3  # one prompt among many


@pytest.mark.parametrize("prompt", [0, 1, 16])
def test_a_prompt_that_is_mostly_template_teaches_nothing(prompt: int) -> None:
    estimator = Estimator()
    estimator.observe(asked(), 16, Usage(prompt=prompt))
    estimator.observe(asked(), 0, Usage(prompt=5000))  # nobody has read the text
    assert estimator.ratio("llama") == BYTES_PER_TOKEN


@pytest.mark.parametrize(
    ("prompt", "answers"),
    [("hi", 1), (["hi"], 1), (["a", "b", "[c"], 3), ([[1, 2], [3]], 2), ([1, 2, 3], 1), ([], 1), ([{}, {}], 1)],
)
def test_each_of_several_prompts_has_an_answer(prompt: object, answers: int) -> None:
    """Else a thousand of them are let in as one, and make every stranger's answer look a thousand times as long."""
    many, estimator = asked(Operation.COMPLETIONS, prompt=prompt, n=2), Estimator()
    assert estimator.output(many) == 2 * answers * OUTPUT_TOKENS
    for _ in range(300):
        estimator.observe(many, 0, Usage(completion=10 * 2 * answers))
    assert estimator.output(asked(user="stranger")) == pytest.approx(10, rel=0.05)


def test_answers_are_learned_by_caller_then_by_model() -> None:
    estimator = Estimator()
    for _ in range(300):
        estimator.observe(asked(user="terse"), 0, Usage(completion=10))
        estimator.observe(asked(user="wordy"), 0, Usage(completion=1000))
    assert estimator.output(asked(user="terse")) == pytest.approx(10, rel=0.05)
    assert estimator.output(asked(user="wordy")) == pytest.approx(1000, rel=0.01)
    assert 300 < estimator.output(asked(user="new")) < 700
    assert estimator.output(asked(user="terse", model="another")) == OUTPUT_TOKENS


def test_a_new_caller_begins_with_what_the_models_answers_are_long() -> None:
    estimator = Estimator()
    for _ in range(300):
        estimator.observe(asked(user="ann"), 0, Usage(completion=1000))
    estimator.observe(asked(user="bob"), 0, Usage(completion=0))  # said nothing
    assert estimator.output(asked(user="bob")) == pytest.approx(1000, rel=0.01)
    estimator.observe(asked(user="bob"), 0, Usage(completion=500))
    assert estimator.output(asked(user="bob")) == pytest.approx(750, rel=0.01)


@pytest.mark.parametrize(
    ("operation", "members", "output"),
    [
        (Operation.CHAT, {"max_tokens": 7}, 7),
        (Operation.CHAT, {"max_tokens": 7, "max_completion_tokens": 5}, 5),
        (Operation.CHAT, {"max_tokens": 10**6}, OUTPUT_TOKENS),
        (Operation.CHAT, {"max_tokens": 0}, 0),
        (Operation.COMPLETIONS, {"max_tokens": 7, "n": 3}, 21),
        (Operation.CHAT, {"n": 2}, 2 * OUTPUT_TOKENS),
        (Operation.CHAT, {"n": 10**9, "max_tokens": 1}, 128),
        (Operation.RESPONSES, {"max_output_tokens": 7, "max_tokens": 3}, 7),
        (Operation.MESSAGES, {"max_tokens": 7}, 7),
        (Operation.EMBEDDINGS, {"max_tokens": 7}, 0),
        (Operation.RERANK, {}, 0),
    ],
)
def test_what_the_client_allows_bounds_the_answer(
    operation: Operation, members: dict[str, object], output: float
) -> None:
    assert Estimator().tokens(asked(operation, **members), 100) == Estimate(25.0, output)


@pytest.mark.parametrize("operation", [Operation.TOKENIZE, Operation.DETOKENIZE, Operation.COUNT_TOKENS])
def test_what_runs_no_model_takes_no_tokens(operation: Operation) -> None:
    assert Estimator().tokens(asked(operation), 4000) == Estimate(0.0, 0.0)


def test_several_answers_are_learned_as_one_length() -> None:
    estimator = Estimator()
    for _ in range(300):
        estimator.observe(asked(n=4), 0, Usage(completion=400))
    assert estimator.output(asked()) == pytest.approx(100, rel=0.01)
    assert estimator.output(asked(n=2)) == pytest.approx(200, rel=0.01)


def test_embeddings_say_nothing_of_answers() -> None:
    estimator = Estimator()
    estimator.observe(asked(Operation.EMBEDDINGS), 400, Usage(prompt=100, completion=1))
    assert estimator.output(asked()) == OUTPUT_TOKENS


def test_a_front_end_without_such_views_is_served() -> None:
    bare = InferenceRequest("r", Operation.CHAT, "m", b"{}")
    assert Estimator().tokens(bare, 400) == Estimate(100.0, OUTPUT_TOKENS)


def test_what_has_learned_nothing_for_longest_is_forgotten() -> None:
    estimator = Estimator(models=2, callers=2)
    told = Usage(prompt=1000, completion=10)
    for model in ("a", "b", "a", "c"):
        estimator.observe(asked(model=model), 2000, told)
    assert estimator.ratio("b") == BYTES_PER_TOKEN
    assert estimator.ratio("a") < 3.0
    assert estimator.ratio("c") == 3.0
    assert estimator.output(asked(model="b")) == OUTPUT_TOKENS
    estimator.observe(asked(model="c"), 2000, told)  # known already: nobody has to go
    assert estimator.ratio("a") < 3.0


@given(
    told=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d"]),
            st.integers(0, 10**9),
            st.integers(-5, 10**30),
            st.integers(-5, 10**30),
            st.integers(1, 2**31 - 1),
        ),
        max_size=30,
    )
)
@settings(max_examples=100)
def test_whatever_engines_say_estimates_stay_sane(told: list[tuple[str, int, int, int, int]]) -> None:
    estimator = Estimator(models=2, callers=3)
    for model, length, prompt, completion, n in told:
        estimator.observe(asked(model=model, user=str(n), n=n), length, Usage(prompt=prompt, completion=completion))
        estimate = estimator.tokens(asked(model=model, max_tokens=n), length)
        assert 1.0 <= estimator.ratio(model) <= 16.0
        assert 1.0 <= estimate.input < math.inf
        assert 0.0 <= estimate.output < math.inf
    for kept in (estimator._ratios, estimator._lengths):
        assert len(kept._means) <= 2
    assert len(estimator._answers._means) <= 3
