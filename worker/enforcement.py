"""What a request demands of its answer, held against the answer: ``tool_choice`` and ``text.format``.

Calls that were ruled out never get here (``translate.chat_calls`` fails them). A refusal is an answer, whatever was
demanded; so is a call where a format was.
"""

from collections.abc import Sequence

import msgspec

from shared.core.schemas import BadSchema, schema_text
from shared.examiner import VALUE_S, Examiner
from shared.wire.items import (
    AllowedTools,
    CustomChoice,
    CustomToolCall,
    Format,
    FunctionCall,
    FunctionChoice,
    InputText,
    Item,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    OutputItem,
    OutputText,
    Refusal,
)
from shared.wire.requests import Request

MAX_REPEATED_CHARS = 32_768
"""Of an answer that is shown to the model again."""

TOO_COSTLY = (
    "The model's answer could not be held against text.format.schema, because that takes too long (more than "
    f"{VALUE_S:g} s of processor time). Simplify the schema: it has too many references or alternatives within each other."
)

_decode = msgspec.json.Decoder().decode


async def find_breach(request: Request, output: Sequence[OutputItem], examiner: Examiner) -> str | None:
    """What of the demands a completed *output* does not meet, in one sentence. Raises ``TooCostly``."""
    messages = [item for item in output if isinstance(item, Message) and not isinstance(item.content, str)]
    if any(isinstance(part, Refusal) for message in messages for part in message.content):
        return None
    if any(isinstance(item, FunctionCall | CustomToolCall) for item in output):
        return None
    if _demands_call(request):
        return "tool_choice demands a tool call, and the model made none."
    if not isinstance(request.format, JsonObjectFormat | JsonSchemaFormat):
        return None
    texts = [part.text for part in (messages[-1].content if messages else []) if isinstance(part, OutputText)]
    return await _find_misfit(request.format, "".join(texts), examiner)


def _demands_call(request: Request) -> bool:
    choice = request.tool_choice
    if isinstance(choice, AllowedTools):
        return choice.mode == "required"
    return choice == "required" or isinstance(choice, FunctionChoice | CustomChoice)


async def _find_misfit(wanted: Format, text: str, examiner: Examiner) -> str | None:
    try:
        value = _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return "text.format demands JSON, and the model's answer is not JSON."
    if not isinstance(wanted, JsonSchemaFormat):
        return (
            None if isinstance(value, dict) else "text.format demands a JSON object, and the model's answer is not one."
        )
    try:
        schema = schema_text(wanted.schema)
    except BadSchema:  # taken by an older version of the front end: nothing can be said
        return None
    fault = await examiner.value_fault(schema, text)
    return f"The model's answer does not fit text.format.schema at {fault}." if fault else None


def plan_repair(breach: str, output: Sequence[OutputItem]) -> list[Item]:
    """What is said to the model for a second answer: its first one, and what is wrong with it."""
    messages = [item for item in output if isinstance(item, Message) and not isinstance(item.content, str)]
    said = "".join(part.text for message in messages for part in message.content if isinstance(part, OutputText))
    first: list[Item] = [Message("assistant", [OutputText(said[:MAX_REPEATED_CHARS])])] if said else []
    return [*first, Message("user", [InputText(f"{breach} Answer again, and meet this demand.")])]
