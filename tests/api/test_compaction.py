"""The body of `compact`, and what becomes of the response that made the summary."""

import json
from typing import Any

import msgspec
import pytest

from api.compaction import accept_compact, summary_of
from api.validate import Accepted
from shared.core.compaction import KIND
from shared.core.responses import draft
from shared.errors import ApiError
from shared.seal import Sealer
from shared.settings import ModelRow, Settings
from shared.wire.items import InputText, Message, OutputText, Refusal
from shared.wire.responses import IncompleteDetails, Response, ResponseError

SETTINGS = Settings(models={"echo": ModelRow(dialect="echo")})
HI: dict[str, Any] = {"model": "echo", "input": "hi"}


def take(settings: Settings = SETTINGS, **more: Any) -> Accepted:
    return accept_compact(json.dumps({**HI, **more}).encode(), settings, "", Sealer([]).bind("us", KIND).open)


def test_it_is_an_unstored_response() -> None:
    request = take(instructions="Be brief.", prompt_cache_key="k" * 64, service_tier="flex").request
    assert (request.store, request.background, request.stream) == (False, False, False)
    assert (request.instructions, request.prompt_cache_key, request.service_tier) == ("Be brief.", "k" * 64, "flex")


def test_what_belongs_to_other_endpoints_has_no_effect() -> None:
    others = {
        "store": True,
        "stream": True,
        "background": True,
        "tools": 5,
        "max_output_tokens": 1,
        "prompt": {"id": "p"},
    }
    accepted = take(**others, conversation="conv_x", something_new=1)
    assert accepted.request == take().request
    assert accepted.items == [Message("user", [InputText("hi")])]


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "model"),
        ({"model": 5}, "invalid_type", "model"),
        ({"model": "nobody"}, "model_not_found", "model"),
        ({"input": None}, "missing_required_parameter", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": [{"type": "compaction_trigger"}]}, "unsupported_value", "input[0].type"),
        ({"prompt_cache_key": "k" * 65}, "string_above_max_length", "prompt_cache_key"),
        ({"prompt_cache_retention": "1h"}, "invalid_value", "prompt_cache_retention"),
        ({"prompt_cache_options": {"ttl": "1h"}}, "invalid_value", "prompt_cache_options.ttl"),
        ({"service_tier": "gold"}, "invalid_value", "service_tier"),
        ({"instructions": []}, "invalid_type", "instructions"),
        ({"previous_response_id": "@x"}, "invalid_value", "previous_response_id"),
    ],
)
def test_refused(change: dict[str, Any], code: str, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        take(**change)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


def test_strict_mode_knows_its_own_keys_only() -> None:
    strict = msgspec.structs.replace(SETTINGS, strict_parameters=True)
    assert take(strict).request.model == "echo"
    with pytest.raises(ApiError) as caught:
        take(strict, temperature=1)
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "temperature")


def ended(**fields: Any) -> Response:
    return msgspec.structs.replace(draft(take().request), **{"status": "failed", **fields})


def said(*parts: OutputText | Refusal) -> list[Message]:
    return [Message("assistant", list(parts), "msg_1", "completed")]


def test_the_summary_is_all_text_that_was_said() -> None:
    output = [*said(OutputText("One. "), OutputText("Two. ")), *said(OutputText("Three."))]
    assert summary_of(ended(status="completed", output=output)) == "One. Two. Three."


@pytest.mark.parametrize(
    ("response", "status", "type_", "code"),
    [
        (ended(status="completed", output=[]), 500, "server_error", "server_error"),
        (ended(status="completed", output=said(OutputText(" \n"))), 500, "server_error", "server_error"),
        (ended(status="completed", output=said(Refusal("No."))), 500, "server_error", "server_error"),
        (
            ended(
                status="incomplete", output=said(OutputText("Half")), incomplete_details=IncompleteDetails("max_output_tokens")
            ),
            500, "server_error", "server_error",
        ),
        (ended(error=ResponseError("server_error", "It broke.")), 500, "server_error", "server_error"),
        (ended(error=ResponseError("rate_limit_exceeded", "Slow.")), 429, "rate_limit_error", "rate_limit_exceeded"),
        (ended(error=ResponseError("invalid_prompt", "Long.")), 400, "invalid_request_error", "invalid_prompt"),
        (ended(status="cancelled"), 500, "server_error", "server_error"),
    ],
)  # fmt: skip
def test_what_is_no_whole_summary_is_an_error(response: Response, status: int, type_: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        summary_of(response)
    assert (caught.value.status, caught.value.body().type, caught.value.code) == (status, type_, code)
    assert (caught.value.retry_after_s is not None) == (status == 429)
