"""What the builders of all dialects do alike with the parts of a message."""

from __future__ import annotations

from typing import Any

from headrace.errors import BadRequest
from headrace.protocol.request import ChatRequest, ImagePart, Message, Part, TextPart


def text_only(message: Message, where: str) -> str:
    """Return the text of a message that can hold nothing else."""
    texts: list[str] = []
    for position, part in enumerate(message.parts()):
        if not isinstance(part, TextPart):
            raise misplaced(part, message, f"{where}[{position}]")
        texts.append(part.text)
    return "\n\n".join(texts)


def image_url(part: ImagePart, where: str) -> str:
    """Return the image as one URL, which holds the data where there are any."""
    if part.url and not part.data:
        return part.url
    if part.data and part.media_type and not part.url:
        return f"data:{part.media_type};base64,{part.data}"
    raise BadRequest("An image needs either url, or data and media_type.", field=where)


def misplaced(part: Part, message: Message, where: str) -> BadRequest:
    """Return the refusal of a part that has no place in such a message."""
    kind = part.__struct_config__.tag
    return BadRequest(f"A {message.role} message cannot hold a part of type {kind} for this provider.", field=where)


def metadata_fields(request: ChatRequest, *, user: bool, send: bool) -> dict[str, Any]:
    """Return what both of OpenAI's dialects say of the caller: `user` from `metadata.user_id`, and the metadata themselves if asked to."""
    metadata = request.metadata or {}
    fields: dict[str, Any] = {}
    if isinstance(metadata.get("user_id"), str) and user:
        fields["user"] = metadata["user_id"]
    if metadata and send:
        for name, value in metadata.items():
            if not isinstance(value, str):
                raise BadRequest("This provider takes only strings as metadata.", field=f"metadata.{name}")
        fields["metadata"] = metadata
    return fields
