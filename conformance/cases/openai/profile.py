"""The ``openai`` profile: what any OpenAI-compatible server owes the clients that were written for OpenAI's API. (P)

Sources that cases name by their short forms are spelled out here.
"""

from __future__ import annotations

from conformance.suite.case import Profile

PROFILE = Profile("openai", "any OpenAI-compatible server")

CHAT_OBJECT = "OpenAI API reference, The chat completion object"
CHAT_CREATE = "OpenAI API reference, Create chat completion"
CHUNK_OBJECT = "OpenAI API reference, The chat completion chunk object"
STREAMING = "OpenAI API reference, Create chat completion: stream"
STREAM_OPTIONS = "OpenAI API reference, Create chat completion: stream_options"
COMPLETION = "OpenAI API reference, Create completion"
EMBEDDING = "OpenAI API reference, Create embeddings"
MODEL = "OpenAI API reference, Models"
RESPONSE = "OpenAI API reference, Create a model response"
RESPONSE_EVENTS = "OpenAI API reference, Responses: streaming events"
ERRORS = "OpenAI openapi.json, ErrorResponse; OpenAI guide, Error codes"
PYTHON = "openai-python 3.52"
NODE = "openai-node 7.55"
