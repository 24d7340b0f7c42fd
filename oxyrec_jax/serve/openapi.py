"""The OpenAPI document of the server, made from its schema."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from oxyrec_jax import __version__
from oxyrec_jax.serve import schema

_REFS = "#/components/schemas/{model}"
_WHY = {400: "The body is not JSON.", 401: "The token is missing or wrong.",
        403: "The server takes no swaps.", 408: "The body came too slowly.",
        409: "What stands on disk cannot be served, or nothing was served before.",
        413: "The body is too long.", 415: "The body is not said to be JSON.",
        422: "A field is wrong, or names what there is not; the message says which.",
        429: "Too many requests wait; Retry-After says when to come again.",
        500: "The server failed.", 503: "The server ends, or the batch did not fit.",
        504: "The deadline passed."}
_POSTS = (400, 408, 413, 415, 422, 429, 500, 503, 504)


def document(*, secured: bool) -> dict[str, Any]:
    """Makes the document.

    Args:
      secured: whether requests need a token.
    """
    models: list[type[BaseModel]] = [
        schema.RecommendRequest, schema.SimilarRequest, schema.RecommendResponse,
        schema.Response, schema.ErrorResponse, schema.SwapResponse]
    _, found = models_json_schema([(model, "validation") for model in models],
                                  ref_template=_REFS)
    token: list[dict[str, list]] = [{"token": []}] if secured else []
    codes = (401,) if secured else ()
    plain = {"200": {"description": "As said.", "content": {
        "application/json": {"schema": {"type": "object"}}}}}
    text = {"200": {"description": "As said.", "content": {
        "text/plain": {"schema": {"type": "string"}}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "oxyrec serve", "version": __version__, "description":
                 "Recommendations from one trained network and one catalogue."},
        "paths": {
            "/v1/recommend": {"post": _operation(
                "recommend", "The best items for a user or a history.",
                schema.RecommendResponse, _POSTS + codes, token,
                schema.RecommendRequest)},
            "/v1/similar": {"post": _operation(
                "similar", "Items like an item.", schema.Response, _POSTS + codes,
                token, schema.SimilarRequest)},
            "/v1/swap": {"post": _operation(
                "swap", "Serve what stands in the work directory now.",
                schema.SwapResponse, (401, 403, 408, 409, 413, 500, 503),
                [{"admin": []}])},
            "/v1/rollback": {"post": _operation(
                "rollback", "Serve the version before again.", schema.SwapResponse,
                (401, 403, 408, 409, 413, 500, 503), [{"admin": []}])},
            "/healthz": {"get": {
                "operationId": "healthz", "summary": "Whether the process works.",
                "responses": plain | _errors((503,))}},
            "/readyz": {"get": {
                "operationId": "readyz", "summary": "Whether requests are welcome, and "
                "which version answers them.", "responses": plain | _errors((503,))}},
            "/metrics": {"get": {
                "operationId": "metrics", "summary": "Counts, for Prometheus.",
                "security": token, "responses": text | _errors(codes)}},
        },
        "components": {
            "schemas": found["$defs"],
            "securitySchemes": {name: {"type": "http", "scheme": "bearer"}
                                for name in ("token", "admin")}},
    }


def _operation(name: str, summary: str, answer: type[BaseModel],
               codes: tuple[int, ...], security: list[dict[str, list]],
               body: type[BaseModel] | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": name, "summary": summary, "security": security,
        "responses": {"200": {"description": "The answer.", "content": _json(answer)},
                      **_errors(codes)}}
    if body is not None:
        made["requestBody"] = {"required": True, "content": _json(body)}
    return made


def _errors(codes: tuple[int, ...]) -> dict[str, Any]:
    return {str(code): {"description": _WHY[code],
                        "content": _json(schema.ErrorResponse)} for code in codes}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {
        "$ref": _REFS.format(model=model.__name__)}}}
