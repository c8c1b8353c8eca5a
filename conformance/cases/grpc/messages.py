"""The messages spoken of: inference.v1's from its proto, health's and reflection's as theirs have them. (P)

Invariant: these are contracts, not code of a server: nothing else of what is tested is imported.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from protocols.grpc.generated.upb import inference as api

SERVICE = "inference.v1.InferenceService"

_HEALTH = """
name: "grpc/health/v1/health.proto" package: "grpc.health.v1" syntax: "proto3"
message_type { name: "HealthCheckRequest" field { name: "service" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "HealthCheckResponse" field { name: "status" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 } }
"""
_REFLECTION = """
name: "reflection.proto" package: "grpc.reflection" syntax: "proto3"
message_type { name: "Request" oneof_decl { name: "asked" }
  field { name: "host" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "file_by_filename" number: 3 label: LABEL_OPTIONAL type: TYPE_STRING oneof_index: 0 }
  field { name: "file_containing_symbol" number: 4 label: LABEL_OPTIONAL type: TYPE_STRING oneof_index: 0 }
  field { name: "list_services" number: 7 label: LABEL_OPTIONAL type: TYPE_STRING oneof_index: 0 } }
message_type { name: "Files" field { name: "file_descriptor_proto" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "Services"
  field { name: "service" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "Service" } }
message_type { name: "Service" field { name: "name" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "Error"
  field { name: "error_code" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 }
  field { name: "error_message" number: 2 label: LABEL_OPTIONAL type: TYPE_STRING } }
message_type { name: "Response" oneof_decl { name: "answer" }
  field { name: "valid_host" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
  field { name: "file_descriptor_response" number: 4 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Files"
          oneof_index: 0 }
  field { name: "list_services_response" number: 6 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Services"
          oneof_index: 0 }
  field { name: "error_response" number: 7 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: "Error"
          oneof_index: 0 } }
"""


def _messages(text: str) -> dict[str, Any]:
    """Classes by name, in a pool of their own."""
    file = text_format.Parse(text, FileDescriptorProto())
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = f".{file.package}.{field.type_name}"
    built = descriptor_pool.DescriptorPool().AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(kind) for name, kind in built.message_types_by_name.items()}


HEALTH = _messages(_HEALTH)
REFLECTION = _messages(_REFLECTION)

__all__ = ["HEALTH", "REFLECTION", "SERVICE", "api"]
