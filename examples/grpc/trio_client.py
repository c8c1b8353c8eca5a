"""Chat with a gateway from a Trio program.

infer-gateway demo --grpc 127.0.0.1:50051 &
python examples/grpc/trio_client.py 127.0.0.1:50051 demo-vllm "Why is the sky blue?"
"""

import sys

import trio
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from protocols.grpc.client import RpcError, connect
from protocols.grpc.client.inference import InferenceClient
from protocols.grpc.generated.inference import v1


async def main(target: str, model: str, question: str) -> None:
    async with connect(target) as channel:
        client = InferenceClient(channel, metadata={"authorization": "Bearer example-key"})
        request = v1.CreateChatCompletionRequest(
            model=model, messages=[v1.ChatMessage(role="user", text=question)], max_tokens=16, temperature=0.0
        )
        try:
            answer = await client.create_chat_completion(request, timeout=60)
            print("whole:", answer.choices[0].message.content)

            with trio.fail_after(60):  # the gateway learns of this deadline, too
                async with client.stream_chat_completion(request) as stream:
                    print("piece by piece: ", end="")
                    async for piece in stream:  # leaving the loop early would cancel the work
                        for choice in piece.choices:
                            print(choice.delta.content or "", end="", flush=True)
                        if piece.usage:
                            print(f"\ntokens: {piece.usage.prompt_tokens} + {piece.usage.completion_tokens}")
        except RpcError as error:
            info, retry = error.detail(ErrorInfo), error.detail(RetryInfo)
            reason = f" ({info.reason})" if info else ""
            again = f"; again in {retry.retry_delay.seconds} s" if retry else ""
            sys.exit(f"{error}{reason}{again}")


trio.run(main, *sys.argv[1:])
