r"""Chat with a gateway over grpcio, with stubs generated from the proto.

pip install grpcio grpcio-tools grpcio-status
mkdir -p stubs
python -m grpc_tools.protoc -I protocols/grpc/proto --python_out=stubs --grpc_python_out=stubs \
  inference/v1/inference.proto
infer-gateway demo --grpc 127.0.0.1:50051 &
PYTHONPATH=stubs python examples/grpc/grpcio_client.py 127.0.0.1:50051 demo-vllm "Why is the sky blue?"
"""

import sys

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from inference.v1 import inference_pb2 as pb
from inference.v1 import inference_pb2_grpc as service

OPTIONS = [
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),  # grpcio's default is 4 MiB
    ("grpc.keepalive_time_ms", 30_000),  # an answer may be silent for a while
]
METADATA = [("authorization", "Bearer example-key"), ("x-request-id", "example-1")]


def main(target: str, model: str, question: str) -> None:
    request = pb.CreateChatCompletionRequest(
        model=model, messages=[pb.ChatMessage(role="user", text=question)], max_tokens=16, temperature=0.0
    )
    with grpc.insecure_channel(target, OPTIONS) as channel:
        stub = service.InferenceServiceStub(channel)
        try:
            answer = stub.CreateChatCompletion(request, metadata=METADATA, timeout=60)
            print("whole:", answer.choices[0].message.content)

            print("piece by piece: ", end="")
            wrapped = pb.StreamChatCompletionRequest(request=request)
            for piece in stub.StreamChatCompletion(wrapped, metadata=METADATA, timeout=60):
                for choice in piece.choices:
                    print(choice.delta.content, end="", flush=True)
                if piece.HasField("usage"):
                    print(f"\ntokens: {piece.usage.prompt_tokens} + {piece.usage.completion_tokens}")
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()} {reason(error)}")


def reason(error: grpc.RpcError) -> str:
    """The word to go by: ErrorInfo's reason."""
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "") if status else ""


main(*sys.argv[1:])
