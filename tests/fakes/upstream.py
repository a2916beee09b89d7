"""A real HTTP server that plays scripts as a model backend would: Chat Completions, or any recorded body.

In a test:

    async with FakeUpstream() as upstream:            # upstream.base_url ends in /v1
        gate = asyncio.Event()
        upstream.queue(send(chunk("Hel")), wait(gate), send(chunk("lo"), chunk(finish="stop"), DONE))
        ...                                           # requests without a queued script get `by_phrases`
        call = await upstream.called(0)               # the first request: headers, body
        await upstream.disconnected(0)                # its client went away

As a program, for workers that live elsewhere: `python upstream.py --port N`; see `by_phrases`. `GET /_seen` tells
what was asked of it and how each request ended.
"""

import argparse
import asyncio
import contextlib
import json
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"
MODELS = ("tiny", "other/model")
BODY_LIMIT_BYTES = 64 << 20
WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Start:
    """Send status and headers now; otherwise they go out with the first bytes."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more, until the client goes away."""


@dataclass(frozen=True, slots=True)
class Close:
    """Drop the connection without an end of the body."""


@dataclass(frozen=True, slots=True)
class Status:
    """A whole answer at once."""

    code: int
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class End:
    """A proper end of the body; what is after it is not played."""


Step = Start | Send | Wait | Pause | Hang | Close | Status | End
Script = Sequence[Step]


@dataclass(slots=True)
class Call:
    """A request that arrived, and what became of it."""

    index: int
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: Any  # decoded JSON, else bytes
    at: float  # time.monotonic() at arrival
    sent_bytes: int = 0
    outcome: str = "running"  # then ended, closed (by us) or disconnected (by the client)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def unanswered(self) -> bool:
        """We have ended its connection without a word."""
        return self.outcome == "closed" and not self.sent_bytes

    @property
    def is_stream(self) -> bool:
        return isinstance(self.body, dict) and self.body.get("stream") is True

    @property
    def last_user_text(self) -> str:
        messages = self.body.get("messages", []) if isinstance(self.body, dict) else []
        for message in reversed(messages):
            if message.get("role") == "user":
                content = message.get("content") or ""
                return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
        return ""


def start(status: int = 200, **headers: str) -> Start:
    """Headers before any byte; underscores in names stand for dashes."""
    return Start(status, {name.replace("_", "-"): value for name, value in headers.items()})


def send(*parts: bytes | Json) -> Send:
    """One write: bytes as they are, dictionaries as `data: {json}` frames."""
    return Send(b"".join(part if isinstance(part, bytes) else frame(part) for part in parts))


def wait(event: asyncio.Event) -> Wait:
    return Wait(event)


def pause(seconds: float) -> Pause:
    return Pause(seconds)


def hang() -> Hang:
    return Hang()


def close() -> Close:
    return Close()


def end() -> End:
    return End()


def status(code: int, body: bytes | Json | None = None, headers: Mapping[str, str] | None = None) -> Status:
    """An answer at once; without a *body* an error as model servers word it."""
    if body is None:
        body = {"error": {"message": f"scripted {code}", "type": "server_error", "param": None, "code": code}}
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return Status(code, body, {"Content-Type": "application/json", **(headers or {})})


def frame(data: Json) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chunk(
    content: str | None = None,
    *,
    reasoning: str | None = None,
    refusal: str | None = None,
    calls: Sequence[Json] | None = None,
    finish: str | None = None,
    usage: Json | None = None,
    **extra: Any,
) -> Json:
    """A chunk of a streamed chat completion; with *usage* alone, the chunk without choices at the end."""
    values = {"content": content, "reasoning_content": reasoning, "refusal": refusal, "tool_calls": calls}
    delta = {name: value for name, value in values.items() if value is not None}
    choices = [] if usage and not delta and finish is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    base = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1790000000, "model": "tiny"}
    return {**base, "choices": choices, **({"usage": usage} if usage else {}), **extra}


def call_delta(index: int, *, call_id: str | None = None, name: str | None = None, arguments: str = "") -> Json:
    """One entry of `tool_calls` in a delta."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})


def usage(prompt: int, completion: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def completion(content: str | None, *, calls: Sequence[Json] | None = None, finish: str = "stop") -> Json:
    """A chat completion that is not streamed."""
    message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    base = {"id": "chatcmpl-fake", "object": "chat.completion", "created": 1790000000, "model": "tiny"}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {**base, "choices": [choice], "usage": usage(9, len((content or "").split()))}


def reply(
    *texts: str,
    reasoning: Sequence[str] = (),
    calls: Sequence[Json] = (),
    finish: str | None = None,
    tokens: tuple[int, int] = (9, 2),
) -> Send:
    """A whole streamed answer at once: reasoning, texts, and then each of *calls* (of `call_delta`) in a chunk."""
    deltas = [chunk(reasoning=text) for text in reasoning]
    deltas += [chunk(text) for text in texts]
    deltas += [chunk(calls=[call]) for call in calls]
    last = chunk(finish=finish or ("tool_calls" if calls else "stop"))
    return send(chunk(role="assistant"), *deltas, last, chunk(usage=usage(*tokens)), DONE)


def play(path: Path, cut: int | Sequence[int] | None = None) -> list[Step]:
    """The steps that answer with a recorded `.body`, as its `.meta.json` (if there is one) says it was answered.

    *cut* writes it in other pieces: all of one size in bytes, or of these sizes in turn and then the rest.
    """
    data = path.read_bytes()
    meta_path = path.with_suffix(".meta.json")
    meta: Json = json.loads(meta_path.read_bytes()) if meta_path.exists() else {}
    kept = {"content-type", "retry-after"}
    headers = {name: value for name, value in (meta.get("headers") or {}).items() if name.lower() in kept}
    pieces = recut(data, cut if cut is not None else max(len(data), 1))
    last: Step = Close() if meta.get("read_error") else End()
    return [Start(meta.get("status") or 200, headers), *map(Send, pieces), last]


def recut(data: bytes, sizes: int | Sequence[int]) -> list[bytes]:
    """*data* in pieces of one size, or of several sizes in turn and then the rest."""
    if isinstance(sizes, int):
        sizes = [sizes] * (len(data) // sizes)
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [piece for piece in (*pieces, data) if piece]


def by_phrases(call: Call) -> Script:
    """What the last user text asks for, in phrases such as `words=20 delay_ms=50 hold`:

    words=N     so many words (default 5)      delay_ms=N  a pause before each      size=N   bytes per word
    reason=N    so many words of reasoning     call=NAME   a tool call at the end   finish=X finish_reason
    status=N    an error, with retry_after=N   nousage     no usage                 hold     hang after the words
    cut=N       connection dropped after N words           eof=N  the body ends after N words without a word of why
    marked      each word carries the number of the call: word0.7
    """
    numbers = {name: int(value) for name, value in re.findall(r"\b([a-z_]+)=(\d+)\b", call.last_user_text)}
    texts = dict(re.findall(r"\b([a-z_]+)=([A-Za-z]\w*)", call.last_user_text))
    flags = set(re.findall(r"\b(nousage|hold|marked)\b", call.last_user_text))
    if "status" in numbers:
        headers = {"Retry-After": str(numbers["retry_after"])} if "retry_after" in numbers else {}
        return [status(numbers["status"], headers=headers)]
    count = numbers.get("words", 5)
    mark = f".{call.index}" if "marked" in flags else ""
    words = [f"word{place}{mark}".ljust(numbers.get("size", 0), "x") + " " for place in range(count)]
    if not call.is_stream:
        return [status(200, completion("".join(words)))]
    calls = [call_delta(0, call_id="call_fake", name=texts["call"], arguments="{}")] if "call" in texts else None
    gap = [Pause(numbers["delay_ms"] / 1000)] if "delay_ms" in numbers else []
    deltas = [chunk(reasoning=f"thought{place} ") for place in range(numbers.get("reason", 0))]
    deltas += [chunk(word) for word in words[: numbers.get("cut", numbers.get("eof", count))]]
    steps: list[Step] = [Start(), send(chunk(role="assistant"))]
    for delta in deltas:
        steps += [*gap, send(delta)]
    if "cut" in numbers or "eof" in numbers or "hold" in flags:
        return [*steps, Close() if "cut" in numbers else End() if "eof" in numbers else Hang()]
    finish = texts.get("finish", "tool_calls" if calls else "stop")
    tail = [] if "nousage" in flags else [chunk(usage=usage(9, len(deltas)))]
    return [*steps, *([send(chunk(calls=calls))] if calls else []), send(chunk(finish=finish), *tail, DONE)]


def full_text(text: str) -> str:
    """What `by_phrases` answers to *text* when nothing is cut; of marked words neither mark nor padding."""
    numbers = {name: int(value) for name, value in re.findall(r"\b(words|size)=(\d+)\b", text)}
    size = 0 if re.search(r"\bmarked\b", text) else numbers.get("size", 0)
    return "".join(f"word{place}".ljust(size, "x") + " " for place in range(numbers.get("words", 5)))


class FakeUpstream:
    """Plays queued scripts, one per request in the order of arrival; then what *respond* says.

    Records every request and how it ended. `port=0` takes a free one; *sock* is a listening socket, closed at the end.
    """

    def __init__(
        self,
        respond: Callable[[Call], Script] = by_phrases,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        sock: socket.socket | None = None,
    ) -> None:
        self.respond = respond
        self.calls: list[Call] = []
        self._scripts: deque[Script] = deque()
        self._arrived = asyncio.Condition()
        self._address = (host, port)
        self._sock = sock
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/_seen", self._seen)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        if self._sock is not None:
            _refuse_waiting(self._sock)
            await web.SockSite(self._runner, self._sock).start()
        else:
            await web.TCPSite(self._runner, *self._address).start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    @property
    def origin(self) -> str:
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def queue(self, *steps: Step) -> None:
        """The script for the next request that has none yet."""
        self._scripts.append(steps)

    async def called(self, index: int = 0, timeout_s: float = WAIT_S) -> Call:
        """Wait for the request of that number (from 0)."""
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) > index)
        return self.calls[index]

    async def over(self, index: int = 0, timeout_s: float = WAIT_S) -> Call:
        """Wait until that request was answered, or was given up by either side."""
        async with asyncio.timeout(timeout_s):
            call = await self.called(index, timeout_s)
            await call.over.wait()
        return call

    async def disconnected(self, index: int = 0, timeout_s: float = WAIT_S) -> Call:
        """Wait until the client of that request went away; it is an error if it got its whole answer instead."""
        call = await self.over(index, timeout_s)
        if call.outcome != "disconnected":
            raise AssertionError(f"request {index} was not given up by its client, it {call.outcome}")
        return call

    async def _models(self, request: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 1790000000, "owned_by": "fake"} for name in MODELS]
        return web.json_response({"object": "list", "data": data})

    async def _seen(self, request: web.Request) -> web.Response:
        keys = ("index", "path", "body", "sent_bytes", "outcome", "last_user_text")
        return web.json_response([{key: getattr(call, key) for key in keys} for call in self.calls])

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = json.loads(raw)
        except ValueError:
            body = raw
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(len(self.calls), request.method, request.path, dict(request.query), headers, body, time.monotonic())
        self.calls.append(call)  # before anybody else can run: its index is its place
        script = self._scripts.popleft() if self._scripts else self.respond(call)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            answer = await _perform(request, call, script)
        except (asyncio.CancelledError, ConnectionError):
            call.outcome = "disconnected"
            raise
        finally:
            call.over.set()
        return answer


def _refuse_waiting(sock: socket.socket) -> None:
    """Close what has connected while nobody was there: calls of earlier tests must not be answered by this one."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()


async def _perform(request: web.Request, call: Call, script: Script) -> web.StreamResponse:
    """Play *script* as the answer to *request* and note in *call* how it went."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    for step in script:
        if isinstance(step, Start):
            answer.set_status(step.status)
            answer.headers.update(step.headers)
        if isinstance(step, Start | Send | End) and not answer.prepared:
            await answer.prepare(request)
        match step:
            case Send(data):
                await answer.write(data)
                call.sent_bytes += len(data)
            case Wait(event):
                await event.wait()
            case Pause(seconds):
                await asyncio.sleep(seconds)
            case Hang():
                await asyncio.Event().wait()
            case Close():
                call.outcome = "closed"
                if request.transport is not None:
                    request.transport.abort()
                return answer
            case Status(code, body, headers):
                call.outcome = "ended"
                call.sent_bytes = len(body)
                return web.Response(status=code, body=body, headers=headers)
            case End():
                break
            case Start():
                pass
    if not answer.prepared:
        await answer.prepare(request)
    await answer.write_eof()
    call.outcome = "ended"
    return answer


async def serve(host: str, port: int) -> None:
    async with FakeUpstream(host=host, port=port) as upstream:
        print("listening on", upstream.origin, flush=True)  # noqa: T201 - whoever starts it waits for this line
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
