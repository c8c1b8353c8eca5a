"""Which requests may be run twice at once."""

from __future__ import annotations

import pytest

from gateway.repeatable import repeatable
from gateway.types import InferenceRequest, Operation

CHAT, RESPONSES, MESSAGES = Operation.CHAT, Operation.RESPONSES, Operation.MESSAGES


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (CHAT, b'{"model":"m","messages":[{"role":"user","content":"n"}]}'),
        (CHAT, b'{"n":1,"store":false,"tools":[{"type":"function","function":{"name":"f"}}]}'),
        (CHAT, b'{"n":null,"tools":null,"web_search_options":null}'),
        (RESPONSES, b'{"store":false,"input":"x","tools":[{"type":"function","name":"f"}]}'),
        (MESSAGES, b'{"tools":[{"name":"f","input_schema":{}}]}'),
        (Operation.EMBEDDINGS, b'{"input":"x"}'),
        (Operation.COMPLETIONS, b'{"prompt":"x","best_of":1}'),
    ],
)
def test_what_leaves_nothing_behind_may_be(operation: Operation, body: bytes) -> None:
    assert repeatable(InferenceRequest("r", operation, "m", body))


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (CHAT, b'{"store":true}'),
        (CHAT, b'{"n":2}'),
        (CHAT, b'{"web_search_options":{}}'),
        (Operation.COMPLETIONS, b'{"best_of":4}'),
        (Operation.COMPLETIONS, b'{"use_beam_search":true}'),
        (RESPONSES, b'{"input":"x"}'),
        (RESPONSES, b'{"store":false,"background":true}'),
        (RESPONSES, b'{"store":false,"conversation":"c1"}'),
        (RESPONSES, b'{"store":false,"tools":[{"type":"function"},{"type":"mcp","server_url":"https://x"}]}'),
        (MESSAGES, b'{"mcp_servers":[{"url":"https://x"}]}'),
        (MESSAGES, b'{"container":"c"}'),
        (MESSAGES, b'{"tools":[{"type":"code_execution_20250825","name":"x"}]}'),
        (CHAT, b'{"tools":"strange"}'),
        (CHAT, b"not JSON"),
        (CHAT, b""),
    ],
)
def test_what_may_leave_something_behind_may_not_be(operation: Operation, body: bytes) -> None:
    assert not repeatable(InferenceRequest("r", operation, "m", body))
