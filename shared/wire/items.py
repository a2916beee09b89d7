"""Items, content parts and tools of the Responses API, as they are accepted, stored and returned.

One struct serves both directions: clients may leave out (or send null for) what a stored item must have, so ``id`` and
``status`` are optional here and filled in when an item is accepted. Fields whose value is ``None`` are not written.
Source: the OpenAPI documents of OpenAI (2.3.0) and Open Responses (2026-04-24).
"""

from typing import Any, Literal

import msgspec

ItemStatus = Literal["in_progress", "completed", "incomplete"]
Role = Literal["user", "assistant", "system", "developer"]
Phase = Literal["commentary", "final_answer"]


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    text: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image", omit_defaults=True):
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["low", "high", "auto", "original"] | None = None


class InputFile(msgspec.Struct, tag_field="type", tag="input_file", omit_defaults=True):
    file_id: str | None = None
    file_url: str | None = None
    file_data: str | None = None
    filename: str | None = None


class AudioData(msgspec.Struct):
    """Base64 without an address before it."""

    data: str
    format: Literal["mp3", "wav"]


class InputAudio(msgspec.Struct, tag_field="type", tag="input_audio"):
    input_audio: AudioData


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(msgspec.Struct):
    """One token of an answer. ``bytes`` is the token's UTF-8, always a list in what we return."""

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: list[msgspec.Raw] = []
    logprobs: list[Logprob] = []


class Refusal(msgspec.Struct, tag_field="type", tag="refusal"):
    refusal: str


class ReasoningText(msgspec.Struct, tag_field="type", tag="reasoning_text"):
    text: str


class SummaryText(msgspec.Struct, tag_field="type", tag="summary_text"):
    text: str


InputPart = InputText | InputImage | InputFile
OutputPart = OutputText | Refusal
MessagePart = InputText | InputImage | InputFile | OutputText | Refusal | InputAudio
ContentPart = OutputText | Refusal | ReasoningText
"""What ``response.content_part.added`` and ``.done`` carry."""


class Message(msgspec.Struct, tag_field="type", tag="message", omit_defaults=True):
    role: Role
    content: str | list[MessagePart]
    id: str | None = None
    status: ItemStatus | None = None
    phase: Phase | None = None


class FunctionCall(msgspec.Struct, tag_field="type", tag="function_call", omit_defaults=True):
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: ItemStatus | None = None
    namespace: str | None = None


class FunctionCallOutput(msgspec.Struct, tag_field="type", tag="function_call_output", omit_defaults=True):
    call_id: str
    output: str | list[InputPart]
    id: str | None = None
    status: ItemStatus | None = None


class CustomToolCall(msgspec.Struct, tag_field="type", tag="custom_tool_call", omit_defaults=True):
    call_id: str
    name: str
    input: str
    id: str | None = None
    status: ItemStatus | None = None
    namespace: str | None = None


class CustomToolCallOutput(msgspec.Struct, tag_field="type", tag="custom_tool_call_output", omit_defaults=True):
    call_id: str
    output: str | list[InputPart]
    id: str | None = None
    status: ItemStatus | None = None


class Reasoning(msgspec.Struct, tag_field="type", tag="reasoning", omit_defaults=True):
    """``summary`` is always a list once the item is accepted; ``content`` only exists where raw reasoning is shown."""

    summary: list[SummaryText] | None
    id: str | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None
    status: ItemStatus | None = None


class Compaction(msgspec.Struct, tag_field="type", tag="compaction", omit_defaults=True):
    """A summary in place of what it stands for, sealed (`shared.core.compaction`): clients carry it, models see it opened."""

    encrypted_content: str
    id: str | None = None
    created_by: str | None = None


class ItemReference(msgspec.Struct):
    """Stands in ``input`` for a stored item. Its ``type`` may be left out or null; it is never stored itself."""

    id: str


ToolCall = FunctionCall | CustomToolCall
ToolOutput = FunctionCallOutput | CustomToolCallOutput
Item = Message | FunctionCall | FunctionCallOutput | CustomToolCall | CustomToolCallOutput | Reasoning
"""What a model can be told."""
StoredItem = Item | Compaction
"""What clients send and get, and what is kept."""
OutputItem = Message | FunctionCall | CustomToolCall | Reasoning


class FunctionTool(msgspec.Struct, tag_field="type", tag="function"):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomFormat(msgspec.Struct):
    """``text``; a ``grammar`` is decoded only to be refused by name."""

    type: Literal["text", "grammar"] = "text"


class CustomTool(msgspec.Struct, tag_field="type", tag="custom", omit_defaults=True):
    """A tool whose input is free text instead of JSON. ``format`` is filled in when it is accepted."""

    name: str
    description: str | None = None
    format: CustomFormat | None = None


class NamespaceTool(msgspec.Struct, tag_field="type", tag="namespace"):
    """A group of tools; models see them flat, under joined names (`shared.core.tools`)."""

    name: str
    tools: list[FunctionTool | CustomTool]
    description: str = ""


Tool = FunctionTool | CustomTool | NamespaceTool


class FunctionChoice(msgspec.Struct, tag_field="type", tag="function"):
    name: str


class CustomChoice(msgspec.Struct, tag_field="type", tag="custom"):
    name: str


class AllowedTool(msgspec.Struct, omit_defaults=True):
    """One of the request's tools: by kind and name, for members of a namespace with that, too."""

    type: str
    name: str | None = None
    namespace: str | None = None


class AllowedTools(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    """A hard limit: only these of the request's tools may be called."""

    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice | CustomChoice | AllowedTools


class TextFormat(msgspec.Struct, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(msgspec.Struct, tag_field="type", tag="json_object"):
    pass


class JsonSchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema", omit_defaults=True):
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


Format = TextFormat | JsonObjectFormat | JsonSchemaFormat
