"""The dialect of the Messages API."""

from collections.abc import Mapping
from typing import Any

import msgspec

from shared.core.emitter import Emitter
from shared.core.profiles import Profile
from worker.translate.anthropic_request import encode_anthropic, json_tool, plan_body
from worker.translate.anthropic_stream import AnthropicStream
from worker.translate.chat_request import offered_by
from worker.translate.dialect import Ask

VERSION = "2023-06-01"


class AnthropicDialect:
    path = "/messages"

    def headers(self, key: str | None, profile: Profile) -> Mapping[str, str]:
        return {"anthropic-version": VERSION, **profile.key_header(key)}

    def encode(self, ask: Ask) -> bytes:
        return encode_anthropic(ask)

    def answer(self, ask: Ask, emit: Emitter) -> AnthropicStream:
        def go_on(blocks: list[dict[str, Any]]) -> bytes:
            body = plan_body(ask)
            body["messages"].append({"role": "assistant", "content": blocks})
            return msgspec.json.encode(body)

        return AnthropicStream(
            emit, ask.profile, offered_by(ask.request), ask.state, json_tool=json_tool(ask), go_on=go_on
        )
