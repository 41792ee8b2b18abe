"""The messages of Triton's gRPC protocol that are used here, by their names and field numbers.

Written as a table, because the only package that carries them generated, `tritonclient`, brings numpy and three more
packages into every service; a test compares the table with it. The messages live in a pool of their own, so both can
be in one process. The protocol: https://github.com/triton-inference-server/common, `grpc_service.proto`.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "/inference.GRPCInferenceService/"

# Fields as "number name type"; `*` repeats, `{}` is a map from strings, `|` marks the alternatives of one choice.
_MESSAGES = {
    "ServerReadyRequest": "",
    "ServerReadyResponse": "1 ready bool",
    "ModelMetadataRequest": "1 name string, 2 version string",
    "TensorMetadata": "1 name string, 2 datatype string, 3 shape int64*",
    "ModelMetadataResponse": "1 name string, 4 inputs TensorMetadata*, 5 outputs TensorMetadata*",
    "InferParameter": "1 bool_param bool|, 2 int64_param int64|, 3 string_param string|",
    "InferInputTensor": "1 name string, 2 datatype string, 3 shape int64*",
    "ModelInferRequest": (
        "1 model_name string, 2 model_version string, 3 id string, 4 parameters InferParameter{}, "
        "5 inputs InferInputTensor*, 7 raw_input_contents bytes*"
    ),
    "InferOutputTensor": "1 name string, 2 datatype string, 3 shape int64*",
    "ModelInferResponse": (
        "1 model_name string, 2 model_version string, 3 id string, 4 parameters InferParameter{}, "
        "5 outputs InferOutputTensor*, 6 raw_output_contents bytes*"
    ),
    "ModelStreamInferResponse": "1 error_message string, 2 infer_response ModelInferResponse",
    "RepositoryIndexRequest": "1 repository_name string, 2 ready bool",
    "ModelIndex": "1 name string, 2 version string, 3 state string, 4 reason string",
    "RepositoryIndexResponse": "1 models ModelIndex*",
    "RepositoryModelLoadRequest": "1 repository_name string, 2 model_name string",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "1 repository_name string, 2 model_name string",
    "RepositoryModelUnloadResponse": "",
}
_NESTED = {
    "InferInputTensor": "ModelInferRequest",
    "InferOutputTensor": "ModelInferResponse",
    "TensorMetadata": "ModelMetadataResponse",
    "ModelIndex": "RepositoryIndexResponse",
}
"""Messages that the protocol declares inside another one; on the wire that makes no difference."""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="mainspring/triton.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for entry in filter(None, fields.split(", ")):
            number, field, kind = entry.split(" ")
            _add(message, int(number), field, kind)
    return file


def _add(message: descriptor_pb2.DescriptorProto, number: int, name: str, kind: str) -> None:
    plain = kind.rstrip("*{}|")
    label = _Field.LABEL_REPEATED if kind != plain and not kind.endswith("|") else _Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if kind.endswith("{}"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, 1, "key", "string")
        _add(entry, 2, "value", plain)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{message.name}.{entry.name}"
    elif plain in _SCALARS:
        field.type = _SCALARS[plain]
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".inference.{plain}"
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    found = (pool.FindMessageTypeByName(f"inference.{name}") for name in _MESSAGES)
    return {message.name: message_factory.GetMessageClass(message) for message in found}


messages: dict[str, Any] = _classes()
"""Message classes by their name in the protocol."""


def containing_message(name: str) -> str:
    """The message inside which the protocol declares `name`, or empty."""
    return _NESTED.get(name, "")
