"""What a dialect is: how a response is asked for, and how the answer is read. Pure; one HTTP shell serves them all.

A new dialect is a module with these two, and a row in ``worker.backends.base.DIALECTS``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.core.emitter import Emitter, Ending
from shared.core.profiles import Profile
from shared.wire.items import Item
from shared.wire.requests import Request


class State(Protocol):
    """Seals what a provider wants back, and opens it again (``shared.seal.Seal``)."""

    def seal(self, data: bytes) -> str | None:
        """``None`` when this server has no key."""
        ...

    def open(self, text: str) -> bytes | None:
        """``None`` for what was sealed elsewhere or for somebody else."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One response to ask for. *items* is the whole context in order, without the request's instructions; *model* the
    backend's own name."""

    request: Request
    items: Sequence[Item]
    model: str
    profile: Profile
    state: State


class Answer(Protocol):
    """One answer that is being read; drives an `Emitter`."""

    @property
    def ended(self) -> bool:
        """Whether it said why it stopped: then only its usage may still come."""
        ...

    def feed(self, data: bytes, event: str = "") -> None:
        """One payload of the stream, with its SSE event name. Raises ``UpstreamError`` when it is an error or garbage."""
        ...

    def skim(self, block: bytes, at: int, /) -> int:
        """Take what begins at *at*, where an event does, as far as it can be taken without being read event by event.
        Where that ends: *at* when nothing was taken."""
        ...

    def feed_whole(self, body: bytes) -> None:
        """The body of a 200 that is not called a stream. Raises ``UpstreamError`` when it is no answer."""
        ...

    def follow_up(self) -> bytes | None:
        """The body of one more call when the provider has paused its turn, else ``None``. What it answers is fed to this
        same object. To be asked when nothing more comes; the number of calls is bounded here."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What was not as it should be, but no reason to fail; for the log."""
        ...

    def end(self) -> Ending:
        """How it ends, now that nothing more comes; the last of it is emitted before. Raises ``UpstreamError`` when it broke
        before anything was said: then another try may help."""
        ...


class Dialect(Protocol):
    @property
    def path(self) -> str:
        """Behind the backend's ``base_url``."""
        ...

    def headers(self, key: str | None, profile: Profile) -> Mapping[str, str]:
        """With the backend's *key*, and what the dialect itself wants."""
        ...

    def encode(self, ask: Ask) -> bytes:
        """The JSON body; it always asks for a stream."""
        ...

    def answer(self, ask: Ask, emit: Emitter) -> Answer: ...
