"""The dialect of another server of the Responses API."""

from collections.abc import Mapping

from shared.core.emitter import Emitter
from shared.core.profiles import Profile
from worker.translate.chat_request import offered_by
from worker.translate.dialect import Ask
from worker.translate.responses_request import encode_responses
from worker.translate.responses_stream import ResponsesStream


class ResponsesDialect:
    path = "/responses"

    def headers(self, key: str | None, profile: Profile) -> Mapping[str, str]:
        return profile.key_header(key)

    def encode(self, ask: Ask) -> bytes:
        return encode_responses(ask)

    def answer(self, ask: Ask, emit: Emitter) -> ResponsesStream:
        limit = ask.request.max_output_tokens
        return ResponsesStream(emit, ask.profile, offered_by(ask.request), ask.state, max_output_tokens=limit)
