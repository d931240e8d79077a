"""The description of the interface for programs (OpenAPI 3.1), from the models that it answers with."""

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bloodedge import RESEARCH_USE, __version__
from bloodedge_device.web.models import (
    MOST,
    CellList,
    CellsQuery,
    ExportQuery,
    NewReview,
    Problem,
    ReviewReference,
    SlideLabel,
    SlideList,
    SlideReference,
    SlidesQuery,
    StatusQuery,
)
from bloodedge_device.web.status import Status

Json = dict[str, Any]

_RULES = (
    f"{RESEARCH_USE} Reading needs no login from the device itself. From other machines every request but /healthz and"
    " /readyz needs the access token as a Bearer token (make one with: bloodedge device token), or a session of the"
    " page. Writing over TCP always needs the token, or a session with its CSRF token (header X-CSRF-Token) from the"
    " page's own origin. The Unix socket control.sock in the state folder, which only the daemon's user may open, needs"
    ' neither. Every request must name the device in its Host header. Errors are {"error": one sentence}.'
)

_ERRORS = {
    400: "The request is invalid",
    401: "The access token is missing or wrong",
    403: "Writing without the access token or a session of the page",
    404: "It was not found",
    405: "This address does not allow this method",
    408: "The request came too slowly",
    409: "Not possible at this moment",
    413: "The request is larger than 64 KiB",
    421: "The Host header does not name this device",
    429: "Too many wrong tokens; Retry-After says how long to wait",
    500: "The device failed",
    503: "The device cannot do it now; the disk may be full",
}
_ALWAYS = (401, 405, 421, 429, 500, 503)
_WRITING = (400, 403, 408, 413)


@cache
def description() -> Json:
    """The OpenAPI document."""
    models: list[type[BaseModel]] = [
        Status, SlideList, CellList, SlideReference, ReviewReference, Problem, SlideLabel, NewReview,
    ]  # fmt: skip
    _, schemas = models_json_schema(
        [(model, "validation" if model in {SlideLabel, NewReview} else "serialization") for model in models],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "bloodedge device", "version": __version__, "description": _RULES},
        "paths": _paths(),
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> Json:
    image = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    anything = {"application/json": {"schema": {"type": "object"}}}
    return {
        "/api/v1/status": {"get": _reading("The daemon now, or at the next frame", Status, StatusQuery)},
        "/api/v1/slides": {
            "get": _reading("Stored slides, newest first", SlideList, SlidesQuery),
            "post": _writing("End the current slide, if any, and begin one", SlideReference, SlideLabel, 201),
        },
        "/api/v1/slides/current/end": {"post": _writing("End the current slide", SlideReference, None, 200, 409)},
        "/api/v1/slides/{slide}": {
            "parameters": [_id("slide")],
            "get": _operation("A slide's report", {200: anything}, 404),
            "patch": _writing("Give a slide another label", SlideReference, SlideLabel, 200, 404),
        },
        "/api/v1/slides/{slide}/cells": {
            "parameters": [_id("slide")],
            "get": _reading("A slide's cells, oldest first", CellList, CellsQuery, 404),
        },
        "/api/v1/cells/{cell}/review": {
            "parameters": [_id("cell")],
            "post": _writing("Store a person's label for a cell", ReviewReference, NewReview, 201, 404),
        },
        "/api/v1/cells/{cell}/crop": {
            "parameters": [_id("cell")],
            "get": _operation("A cell's image", {200: image}, 404),
        },
        "/api/v1/cells.zip": {"get": _export()},
        "/live/{frame}.jpg": {
            "parameters": [_id("frame")],
            "get": _operation("A recent frame, by the number that status gives", {200: image}, 404),
        },
        "/metrics": {"get": _operation("Figures for Prometheus", {200: text})},
        "/healthz": {"get": _probe("Whether frames come in")},
        "/readyz": {"get": _probe("Whether network, camera and store are ready")},
        "/api/v1/openapi.json": {"get": _operation("This document", {200: anything})},
    }


def _id(name: str) -> Json:
    return {
        "name": name, "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1, "maximum": MOST - 1},
    }  # fmt: skip


def _reading(summary: str, answer: type[BaseModel], query: type[BaseModel] | None, *errors: int) -> Json:
    operation = _operation(summary, {200: _content(answer)}, 400, *errors)
    properties = query.model_json_schema()["properties"] if query else {}
    operation["parameters"] = [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()
    ]
    return operation


def _writing(summary: str, answer: type[BaseModel], body: type[BaseModel] | None, status: int, *errors: int) -> Json:
    operation = _operation(summary, {status: _content(answer)}, *_WRITING, *errors)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation | {"security": [{"token": []}]}


def _operation(summary: str, answers: dict[int, Json], *errors: int) -> Json:
    problem = _content(Problem)
    responses = {str(status): {"description": summary, "content": content} for status, content in answers.items()}
    for status in sorted({*_ALWAYS, *errors}):
        responses[str(status)] = {"description": _ERRORS[status], "content": problem}
    return {"summary": summary, "responses": responses}


def _export() -> Json:
    operation = _reading("Stored cells as a data set that train reads", CellList, ExportQuery, 503)
    archive = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
    operation["responses"]["200"]["content"] = archive
    return operation


def _probe(summary: str) -> Json:
    text = {"text/plain": {"schema": {"type": "string"}}}
    operation = _operation(summary, {200: text})
    operation["responses"]["503"] = {"description": "No", "content": text}
    return operation | {"security": [{}]}


def _content(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
