"""The dialect of Chat Completions."""

from collections.abc import Mapping

from shared.core.emitter import Emitter
from shared.core.profiles import Profile
from worker.translate.chat_request import encode_chat, offered_by
from worker.translate.chat_state import Thoughts
from worker.translate.chat_stream import ChatStream
from worker.translate.dialect import Ask
from worker.translate.state import open_states


class ChatDialect:
    path = "/chat/completions"

    def headers(self, key: str | None, profile: Profile) -> Mapping[str, str]:
        return profile.key_header(key)

    def encode(self, ask: Ask) -> bytes:
        states = open_states(ask.items, ask.profile.family, ask.state)
        return encode_chat(ask.request, ask.items, model=ask.model, profile=ask.profile, states=states)

    def answer(self, ask: Ask, emit: Emitter) -> ChatStream:
        asked = "reasoning.encrypted_content" in ask.request.include
        thoughts = Thoughts(emit, ask.profile, ask.state, asked=asked)
        return ChatStream(emit, ask.profile, offered_by(ask.request), thoughts)
