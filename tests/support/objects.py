"""Checks one object of the API: a Response, a stream event, an error envelope, or another answer.

Every check returns the violations as lines; an empty list means that nothing is wrong.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from support.schemas import Document, Json, open_responses, openai

ALWAYS_PRESENT = [
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "incomplete_details",
    "model",
    "previous_response_id",
    "instructions",
    "output",
    "error",
    "tools",
    "tool_choice",
    "truncation",
    "parallel_tool_calls",
    "text",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "temperature",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "store",
    "background",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
]
TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})
STATUSES = TERMINAL | {"queued", "in_progress"}
STATUS_OF_EVENT: Mapping[str, frozenset[str]] = {
    "response.created": frozenset({"queued"}),
    "response.queued": frozenset({"queued"}),
    "response.in_progress": frozenset({"in_progress"}),
    "response.completed": frozenset({"completed"}),
    "response.incomplete": frozenset({"incomplete"}),
    "response.failed": frozenset({"failed", "cancelled"}),
}
ITEM_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
}
OPEN_RESPONSES_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning", "compaction"})
LISTS_OF_ITEMS = re.compile(r"/v1/(responses/[^/]+/input_items|conversations/[^/]+/items)/?$")
COMPONENT_OF_OBJECT = {
    "response.input_tokens": "TokenCountsResource",
    "conversation": "ConversationResource",
    "conversation.deleted": "DeletedConversationResource",
}
WELL_FORMED_ID = re.compile(r"[a-z]+_[A-Za-z0-9_-]+")
ID_LIMIT = 63  # characters
RETRY_AFTER_LIMIT_S = 120  # official clients give up on longer waits


def check_response(obj: Json) -> list[str]:
    """Violations of a Response object against both documents and our own rules."""
    return [
        *openai().violations("Response", _for_openai(obj)),
        *open_responses().violations("ResponseResource", _for_open_responses(obj)),
        *_response_rules(obj),
    ]


def check_event(event: Json) -> list[str]:
    """Violations of one stream event by itself; the order of events is the business of `StreamChecker`."""
    name = event.get("type")
    if name not in openai().events and name not in open_responses().events:
        return [f"no document knows an event of type {name!r}"]
    number = event.get("sequence_number")
    found = [] if type(number) is int and number >= 0 else [f"sequence_number is {number!r}, not a number from 0"]
    if name in openai().events:
        found += _event_violations(openai(), name, event)
    if name in open_responses().events and _is_known_to_open_responses(event):
        found += _event_violations(open_responses(), name, event)
    if name in STATUS_OF_EVENT and isinstance(event.get("response"), dict):
        found += [f"response: {line}" for line in _response_rules(event["response"])]
        if (status := event["response"].get("status")) not in STATUS_OF_EVENT[name]:
            found.append(f"response.status is {status!r} in {name}")
    if name == "error" and (nested := event.get("error")) is not None:
        found += [
            f"error.{key} differs from {key}" for key in ("code", "message", "param") if _differs(event, nested, key)
        ]
    return found


def check_error(body: Any) -> list[str]:
    """Violations of an error answer: an envelope with all four keys."""
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
        return [f"error answer without an error object: {str(body)[:200]}"]
    error = body["error"]
    found = [f"error envelope has no key {key!r}" for key in ("message", "type", "param", "code") if key not in error]
    found += [f"error envelope has an extra key {key!r}" for key in body if key != "error"]
    if not found:
        found += openai().violations("Error", error, "error")
        found += [f"error.{key} is empty" for key in ("message", "type") if not error[key]]
    if "Traceback (most recent call last)" in str(error.get("message")):
        found.append("error.message shows a stack trace")
    return found


def check_error_answer(status: int, headers: Mapping[str, str], body: Any) -> list[str]:
    """Violations of an error answer as a whole: the envelope, its type, and advice on retrying where it is due."""
    found = check_error(body)
    if not found:
        fault = body["error"]["type"]
        ours = fault in {"server_error", "service_unavailable_error"}
        if ours != (status >= 500):
            found.append(f"error.type {fault!r} does not fit HTTP {status}")
    if status in (429, 503) and headers.get("x-should-retry") != "false":
        wait = headers.get("retry-after", "")
        if not wait.isdecimal() or not 1 <= int(wait) <= RETRY_AFTER_LIMIT_S:
            found.append(
                f"HTTP {status} with Retry-After {wait!r}, wanted whole seconds from 1 to {RETRY_AFTER_LIMIT_S}"
            )
    return found


def check_answer(path: str, body: Any) -> list[str]:
    """Violations of a successful JSON answer, recognised by its `object`; unknown ones are not judged.

    Below /v1/responses an answer that is not recognised is a violation.
    """
    name = body.get("object") if isinstance(body, dict) else None
    if name == "response":
        return check_response(body)
    if name == "response.compaction":
        return [*openai().violations("CompactResource", body), *open_responses().violations("CompactResource", body)]
    if name == "response.deleted":
        good = isinstance(body.get("id"), str) and body.get("deleted") is True
        return [] if good else [f"deletion answer lacks id or deleted=true: {body}"]
    if name == "list" and LISTS_OF_ITEMS.search(path):
        component = "ResponseItemList" if path.startswith("/v1/responses") else "ConversationItemList"
        return [*openai().violations(component, body), *_list_rules(body)]
    if name in COMPONENT_OF_OBJECT:
        return openai().violations(COMPONENT_OF_OBJECT[name], body)
    return [f"no rule for an answer with object {name!r}"] if path.startswith("/v1/responses") else []


def _response_rules(obj: Json) -> list[str]:
    found = [f"key {key!r} is missing" for key in ALWAYS_PRESENT if key not in obj]
    if "output_text" in obj:
        found.append("output_text is a property of the client library and must not be sent")
    if _id_fault(obj.get("id"), "resp_"):
        found.append(f"id {obj.get('id')!r} is not a well-formed resp_ id")
    if type(obj.get("created_at")) is not int:
        found.append(f"created_at is {obj.get('created_at')!r}, not an integer")
    if obj.get("conversation") and obj.get("previous_response_id"):
        found.append("conversation and previous_response_id are both set")
    status = obj.get("status")
    if status not in STATUSES:
        return [*found, f"status {status!r} is not one of the six"]
    found += _status_rules(obj, status)
    output = obj.get("output")
    if isinstance(output, list):
        found += _output_rules(output, status)
    return found


def _status_rules(obj: Json, status: str) -> Iterator[str]:
    for key, owner in (("completed_at", "completed"), ("error", "failed"), ("incomplete_details", "incomplete")):
        if (obj.get(key) is not None) != (status == owner):
            yield f"{key} is {obj.get(key)!r} while status is {status}"
    completed_at, created_at = obj.get("completed_at"), obj.get("created_at")
    if isinstance(completed_at, int) and isinstance(created_at, int) and completed_at < created_at:
        yield f"completed_at {completed_at} is before created_at {created_at}"
    if status not in TERMINAL and obj.get("usage") is not None:
        yield f"usage is set while status is {status}"
    usage = obj.get("usage")
    if isinstance(usage, dict) and any(number < 0 for number in usage.values() if isinstance(number, int)):
        yield "usage holds a negative number"


def _output_rules(output: list[Any], status: str) -> Iterator[str]:
    if status == "queued" and output:
        yield "output is not empty while status is queued"
    seen: set[str] = set()
    for index, item in enumerate(output):
        where = f"output/{index}"
        if not isinstance(item, dict):
            yield f"{where} is not an object"
            continue
        yield from (f"{where}: {line}" for line in item_rules(item))
        if item.get("id") in seen:
            yield f"{where}: id {item['id']!r} is used twice"
        seen.add(str(item.get("id")))
        if status in TERMINAL and item.get("status") == "in_progress":
            yield f"{where}: item is in_progress in a response that is {status}"
        if status == "completed" and item.get("status") == "incomplete":
            yield f"{where}: item is incomplete in a response that is completed"


def item_rules(item: Json) -> Iterator[str]:
    """Our own rules for an item of the output: id, status and call_id."""
    kind = item.get("type")
    prefix = ITEM_PREFIXES.get(str(kind), "")
    if _id_fault(item.get("id"), prefix):
        yield f"{kind} id {item.get('id')!r} is not a well-formed {prefix or 'item'} id"
    if not isinstance(item.get("status"), str) and kind != "compaction":
        yield f"{kind} has no status"
    if kind in ("function_call", "custom_tool_call"):
        call_id = item.get("call_id")
        if not isinstance(call_id, str) or not 1 <= len(call_id) <= 64:
            yield f"call_id {call_id!r} is not a text of 1 to 64 characters"
        elif call_id == item.get("id"):
            yield "call_id and id are the same"


def _list_rules(body: Json) -> Iterator[str]:
    data = body.get("data")
    if isinstance(data, list) and data:
        for key, item in (("first_id", data[0]), ("last_id", data[-1])):
            if body.get(key) != item.get("id"):
                yield f"{key} is {body.get(key)!r}, not the id of that item"


def _id_fault(value: Any, prefix: str) -> bool:
    return (
        not isinstance(value, str)
        or not value.startswith(prefix)
        or not WELL_FORMED_ID.fullmatch(value)
        or len(value) > ID_LIMIT
    )


def _differs(event: Json, nested: Any, key: str) -> bool:
    return not isinstance(nested, dict) or event.get(key) != nested.get(key)


def _event_violations(document: Document, name: str, event: Json) -> list[str]:
    response = event.get("response")
    if isinstance(response, dict):
        fitted = _for_openai(response) if document is openai() else _for_open_responses(response)
        event = {**event, "response": fitted}
    return document.violations(document.events[name], event)


def _for_openai(obj: Json) -> Json:
    """The schema forbids `usage: null`, OpenAI's own examples hold it."""
    return {key: value for key, value in obj.items() if key != "usage" or value is not None}


def _for_open_responses(obj: Json) -> Json:
    """Without what Open Responses cannot know: other items and tools, and choices among those."""
    fitted = dict(obj)
    if isinstance(output := obj.get("output"), list):
        fitted["output"] = [item for item in output if _kind(item, "message") in OPEN_RESPONSES_ITEMS]
    if isinstance(tools := obj.get("tools"), list):
        fitted["tools"] = [tool for tool in tools if _kind(tool, "function") == "function"]
    choice = obj.get("tool_choice")
    if isinstance(choice, dict):
        allowed = [choice, *choice.get("tools", [])]
        if any(_kind(part, "function") not in {"function", "allowed_tools"} for part in allowed):
            fitted["tool_choice"] = "auto"
    text = obj.get("text")
    if isinstance(text, dict) and _kind(text.get("format"), "text") == "json_schema":
        # its schema takes no `schema` but null, and demands the `description` that OpenAI leaves out
        fitted["text"] = {**text, "format": {"description": None, **text["format"], "schema": None}}
    return fitted


def _is_known_to_open_responses(event: Json) -> bool:
    return "item" not in event or _kind(event["item"], "message") in OPEN_RESPONSES_ITEMS


def _kind(value: Any, default: str) -> str:
    """The `type` of an object; *default*, so that the schema gets to see it, for anything else."""
    return str(value.get("type", default)) if isinstance(value, dict) else default
