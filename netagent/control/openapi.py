"""The OpenAPI 3.1 document of the API, made from the declared commands. Pure.

msgspec describes types; this adds paths, parameters and answers.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import UnionType
from typing import Any, Final

import msgspec

from netagent import __version__
from netagent.control.conversion import types_of
from netagent.control.problem import MEDIA_TYPE
from netagent.interface import schema
from netagent.interface.catalogue import COMMANDS
from netagent.interface.command import REQUIRED, Argument, Command, Fields
from netgossip.slices import Slices

Schema = dict[str, Any]

JSON: Final = "application/json"
_REFERENCE: Final = "#/components/schemas/{name}"


def document() -> Slices[Schema]:
    """Return the document, in slices."""
    paths: dict[str, Schema] = {}
    (problem,), components = msgspec.json.schema_components([schema.Problem], ref_template=_REFERENCE)
    for command in COMMANDS:
        declared = command.declaration
        if not declared.verb:
            continue
        answers, parts = msgspec.json.schema_components(_kinds(answer_type(command)), ref_template=_REFERENCE)
        components |= parts
        answer = answers[0] if len(answers) == 1 else {"anyOf": list(answers)}
        paths.setdefault(declared.path, {})[declared.verb.lower()] = _operation(command, answer, problem)
        yield
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "netagent",
            "version": __version__,
            "description": "The agent of this host. A program that may open the socket may do everything.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def answer_type(command: type[Command[Any]]) -> Any:
    """Return the type of a command's answer."""
    return eval(command.answer(), {"schema": schema})


def _kinds(answer: Any) -> tuple[Any, ...]:
    """Return the types of which the answer has one; msgspec takes no union of TypedDicts."""
    return typing.get_args(answer) if typing.get_origin(answer) is UnionType else (answer,)


def _operation(command: type[Command[Any]], answer: Schema, problem: Schema) -> Schema:
    declared = command.declaration
    arguments = {name: one for name, one in types_of(command).items() if name not in declared.in_path}
    parameters = [_parameter(name, types_of(command)[name], "path") for name in declared.in_path]
    operation: Schema = {
        "operationId": declared.command.replace(" ", "-"),
        "summary": f"netagent {declared.command}",
        "description": command.description(),
    }
    if declared.has_body:
        body = {"content": {JSON: {"schema": _object(arguments)}}, "required": _is_any_required(arguments)}
        operation["requestBody"] = body
    else:
        parameters += [_parameter(name, one, "query") for name, one in arguments.items()]
    if parameters:
        operation["parameters"] = parameters
    return {**operation, "responses": _responses(command, answer, problem)}


def _responses(command: type[Command[Any]], answer: Schema, problem: Schema) -> Schema:
    declared = command.declaration
    whole = {"allOf": [answer, {"properties": {"schema": {"const": schema.SCHEMA}}, "required": ["schema"]}]}
    content: Schema = {JSON: {"schema": whole}}
    if any(one.attribute == "watch" for one in command.arguments()):
        content["application/x-ndjson"] = {"schema": {"type": "string"}}
    done = {"description": "Done.", "content": content}
    statuses = ["200"]
    if declared.creates:
        statuses = ["200", "201"] if "created" in typing.get_type_hints(answer_type(command)) else ["201"]
    error = {"description": "An error.", "content": {MEDIA_TYPE: {"schema": problem}}}
    return {**dict.fromkeys(statuses, done), "default": error}


def _parameter(name: str, one: tuple[Argument, Any], place: str) -> Schema:
    argument = one[0]
    found: Schema = {
        "name": name,
        "in": place,
        "required": argument.default is REQUIRED,
        "schema": _schema(one),
    }
    return {**found, "description": argument.help} if argument.help else found


def _object(arguments: Mapping[str, tuple[Argument, Any]]) -> Schema:
    """Return the schema of an object with these fields; `null` is the same as a missing one."""
    properties: Schema = {}
    for name, one in arguments.items():
        argument, found = one[0], _schema(one)
        if argument.help:
            found["description"] = argument.help
        properties[name] = found if argument.default is REQUIRED else {"anyOf": [found, {"type": "null"}]}
    required = [name for name, (argument, _) in arguments.items() if argument.default is REQUIRED]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _is_any_required(arguments: Mapping[str, tuple[Argument, Any]]) -> bool:
    return any(argument.default is REQUIRED for argument, _ in arguments.values())


def _schema(one: tuple[Argument, Any]) -> Schema:
    argument, type_ = one
    found = msgspec.json.schema(type_, schema_hook=_fields)
    return (
        found
        if argument.default in (REQUIRED, None, "", (), False)
        else {**found, "default": argument.default}
    )


def _fields(kind: type) -> Schema:
    if not issubclass(kind, Fields):
        raise NotImplementedError  # by this msgspec learns that a type has no schema
    return _object(types_of(kind))
