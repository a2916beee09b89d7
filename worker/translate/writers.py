"""How a block of an answer is said to the emitter: text, reasoning, or a call. They are driven by `worker.translate.blocks`.

What they are fed may hold halves of surrogate pairs; what they say never does.
"""

from collections.abc import Sequence

from shared.core.emitter import Emitter
from shared.errors import UpstreamError
from shared.wire.items import CustomTool, Logprob, Phase
from worker.translate.chat_calls import Offered, mend
from worker.translate.chat_chunk import whole_text
from worker.translate.custom_tools import Unwrapper
from worker.translate.json_end import JsonEnd


class TextWriter:
    """Text and refusals. With *own_message* it is a message of its own, also right behind another one."""

    whole = True

    def __init__(self, emit: Emitter, *, own_message: bool = False, phase: Phase | None = None) -> None:
        self._emit = emit
        self._own_message = own_message
        self._phase = phase
        self._half = ""

    def begin(self) -> None:
        if self._own_message:
            self._emit.message(self._phase)

    def finish(self) -> None:
        pass

    def text(self, text: str, logprobs: Sequence[Logprob] = ()) -> None:
        self._half, text = mend(self._half, text)
        self._emit.text(text, logprobs)

    def refusal(self, text: str) -> None:
        self._half, text = mend(self._half, text)
        self._emit.refusal(text)

    def next_part(self) -> None:
        self._emit.close_part()


class ReasoningWriter:
    """A reasoning item; *kind* as in a profile."""

    whole = True

    def __init__(self, emit: Emitter, kind: str) -> None:
        self._emit = emit
        self._kind = kind
        self._half = ""

    def begin(self) -> None:
        self._emit.close_item()

    def finish(self) -> None:
        pass

    def text(self, text: str) -> None:
        """In the form that the profile wants."""
        if self._kind == "raw":
            self.raw(text)
        elif self._kind == "summary":
            self.summary(text)

    def raw(self, text: str) -> None:
        if self._kind != "hidden":
            self._half, text = mend(self._half, text)
            self._emit.reasoning(text)

    def summary(self, text: str) -> None:
        if self._kind != "hidden":
            self._half, text = mend(self._half, text)
            self._emit.summary(text)

    def next_part(self) -> None:
        self._emit.close_part()

    def state(self, sealed: str) -> None:
        self._emit.state(sealed)


class CallWriter:
    """A call of a function or a custom tool; *free_text* when the model was told of the latter as such."""

    def __init__(
        self, emit: Emitter, offered: Offered, name: str, call_id: str | None, *, free_text: bool = False
    ) -> None:
        self._emit = emit
        self._offered = offered
        self._name = whole_text(name)
        self._call_id = call_id and whole_text(call_id)
        self._handle: int | None = None
        self._unwrap: Unwrapper | None = None
        self._custom = self._free_text = free_text
        self._json = JsonEnd()
        self._half = ""

    @property
    def whole(self) -> bool:
        return self._json.reached

    def begin(self) -> None:
        """Raises ``UpstreamError`` when the request did not allow it: what is shown of a call could be run."""
        if self._handle is not None:
            return
        if self._offered.limit is not None and self._name not in self._offered.limit:
            raise UpstreamError(f"The model called {self._name[:64]!r}, which 'tool_choice' does not allow.")
        offer = self._offered.tools.get(self._name)
        name, namespace = (offer.tool.name, offer.namespace) if offer else (self._name, None)
        if offer is not None and isinstance(offer.tool, CustomTool) and not self._free_text:
            self._custom, self._unwrap = True, Unwrapper()
        opens = self._emit.custom_call if self._custom else self._emit.call
        self._handle = opens(name, self._call_id, namespace)

    def feed(self, fragment: str) -> None:
        """Raises ``UpstreamError`` for arguments of a call that is over."""
        if not self._free_text:
            self._json.feed(fragment)
        self._half, fragment = mend(self._half, fragment)
        if not fragment:
            return
        if self._handle is None or not self._emit.is_open(self._handle):
            if fragment.isspace():
                return
            raise UpstreamError("The model backend sent arguments for a function call that was over.")
        if self._unwrap is not None:
            self._emit.custom_input(self._handle, self._unwrap.feed(fragment))
        elif self._custom:
            self._emit.custom_input(self._handle, fragment)
        else:
            self._emit.arguments(self._handle, fragment)

    def finish(self) -> None:
        unwrap, self._unwrap = self._unwrap, None
        if unwrap is not None and self._handle is not None and self._emit.is_open(self._handle):
            self._emit.custom_input(self._handle, unwrap.finish())
