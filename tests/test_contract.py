"""The contract is frozen: names, numbers and types of the stubs against a listing of the agreed skeleton.

`buf breaking` compares proto/ with the frozen descriptors beside the listing: besides, they hold the names of files, Go
packages and JSON fields. A copy in the repository, since a clone of one branch has no other to compare with.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor import FileDescriptor

from twotower import v1

GOLDEN = Path(__file__).parent / "golden" / "contract.txt"
FROZEN = GOLDEN.with_suffix(".txtpb")
MODULES = sorted(f"twotower.v1.{module.name}" for module in pkgutil.iter_modules(v1.__path__))
FILES: list[FileDescriptor] = [getattr(v1, name) for name in v1.__all__ if name.endswith("_FILE")]

_Field = descriptor_pb2.FieldDescriptorProto


def test_names_numbers_and_types_are_the_agreed_ones() -> None:
    files = []
    for file in FILES:
        described = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(described)
        files.append(described)
    assert sorted(line for file in files for line in listing(file)) == GOLDEN.read_text("utf-8").splitlines()


def test_the_frozen_descriptors_hold_all_of_the_contract() -> None:
    """What was added to the contract and not frozen yet could still be broken: `make freeze-contract`."""
    frozen = text_format.Parse(FROZEN.read_text("utf-8"), descriptor_pb2.FileDescriptorSet())
    assert sorted(line for file in frozen.file for line in listing(file)) == GOLDEN.read_text("utf-8").splitlines()


def test_every_proto_file_is_compared() -> None:
    protos = (Path(__file__).parents[1] / "proto" / "twotower" / "v1").glob("*.proto")
    assert sorted(Path(file.name).name for file in FILES) == sorted(proto.name for proto in protos)


@pytest.mark.parametrize("name", MODULES)
def test_generated_module_imports(name: str) -> None:
    module = importlib.import_module(name)
    # The package re-exports what each file defines: callers need not know which file holds a message.
    if name.endswith("_pb2"):
        defined = [*module.DESCRIPTOR.message_types_by_name, *module.DESCRIPTOR.enum_types_by_name]
    else:
        defined = [symbol for symbol in vars(module) if symbol.endswith(("Stub", "Servicer", "Servicer_to_server"))]
    assert defined
    for symbol in defined:
        assert getattr(v1, symbol) is getattr(module, symbol)


def listing(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """One line for everything that callers rely on, such as `User.features = 2 map<string, double>`."""
    for service in file.service:
        for method in service.method:
            assert not method.client_streaming and not method.server_streaming
            request, response = _local(method.input_type), _local(method.output_type)
            yield f"rpc {service.name}.{method.name}({request}) {response}"
    for enum in file.enum_type:
        for value in enum.value:
            yield f"enum {enum.name}.{value.name} = {value.number}"
    for message in file.message_type:
        yield f"message {message.name}"
        for reserved in message.reserved_range:
            yield f"reserved {message.name} = {reserved.start} to {reserved.end - 1}"
        for field in message.field:
            yield f"field {message.name}.{field.name} = {field.number} {_type(message, field)}"


def _type(message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto) -> str:
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{message.name}.{entry.name}"):
            key, value = entry.field
            return f"map<{_type(entry, key)}, {_type(entry, value)}>"
    if field.type_name:
        name = _local(field.type_name)
    else:
        name = _Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == _Field.LABEL_REPEATED:
        return f"repeated {name}"
    if field.proto3_optional:
        return f"optional {name}"
    if field.HasField("oneof_index"):
        return f"{name} in {message.oneof_decl[field.oneof_index].name}"
    return name


def _local(name: str) -> str:
    return name.removeprefix(".twotower.v1.")
