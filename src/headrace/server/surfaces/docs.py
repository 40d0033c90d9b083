"""What OpenAPI says of the surfaces: where they are. What they take and give, their own documentation says."""

from __future__ import annotations

from typing import Any


def path_item(tag: str, summary: str, description: str) -> dict[str, Any]:
    """Return the path item of a `POST` with a JSON body."""
    anything = {"application/json": {"schema": {"type": "object", "additionalProperties": True}}}
    return {
        "post": {
            "tags": [tag],
            "summary": summary,
            "description": description,
            "operationId": summary.lower().replace(" ", "_"),
            "requestBody": {"required": True, "content": anything},
            "responses": {200: {"description": "The answer.", "content": {"text/event-stream": {}, **anything}}},
        }
    }
