"""What `respool ask`, `watch`, `get` and `cancel` do: a small client of the Responses API that survives cut streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TextIO

import aiohttp
import click
import msgspec

from shared.core.sse import LineTooLong, SSEDecoder
from shared.program import program
from shared.wire.responses import ErrorEnvelope

CONNECT_TIMEOUT_S = 10
SILENCE_S = 60  # the server pings every 15 s
MOST_NAMED = 8  # models
RETRIES = 6  # in a row, without a single event
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 8.0
MAX_EVENT_BYTES = 64 * 1024 * 1024
DONE = b"[DONE]"


class Unreachable(click.ClickException):
    """There is no server, or none any more."""

    exit_code = 69


class _Error(msgspec.Struct):
    message: str = "it did not say why"


class Snapshot(msgspec.Struct):
    """Of a Response, what decides how it is shown."""

    id: str
    status: str
    error: _Error | None = None


class _Named(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Named]


class _Item(msgspec.Struct):
    type: str = ""
    name: str = ""
    arguments: str = ""


class _Event(msgspec.Struct):
    type: str
    sequence_number: int | None = None
    delta: str = ""
    response: msgspec.Raw = msgspec.Raw()  # empty when there is none; msgspec knows no optional Raw
    item: _Item | None = None


_events = msgspec.json.Decoder(_Event)


class Screen:
    """Shows events as they come: text on *out*; on a terminal also reasoning, dimmed. Silent when *quiet*."""

    def __init__(self, out: TextIO, *, color: bool, quiet: bool = False) -> None:
        self._out, self._color, self._quiet = out, color, quiet
        self._at_start, self._dim = True, False

    def show(self, event: _Event) -> None:
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                self._write(event.delta, dim=False)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" if self._color:
                self._write(event.delta, dim=True)
            case "response.output_item.done" if event.item and event.item.type == "function_call":
                self.end_line()
                self._write(f"{event.item.name}({event.item.arguments})\n", dim=False)
            case "response.output_item.done":
                self.end_line()

    def end_line(self) -> None:
        if not self._at_start:
            self._out.write("\n")
            self._out.flush()
            self._at_start = True

    def _write(self, text: str, *, dim: bool) -> None:
        if self._quiet or not text:
            return
        if dim != self._dim:
            self.end_line()
            self._dim = dim
        self._out.write(click.style(text, dim=True) if dim else text)
        self._out.flush()
        self._at_start = text.endswith("\n")


class Client:
    """One server. Made by `connect`; all failures are click's, with an exit code."""

    def __init__(self, http: aiohttp.ClientSession, url: str, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self.http, self.url, self.first_pause_s = http, url, first_pause_s

    async def first_model(self) -> str:
        """The first that the server lists; says so, for there may be others, and patterns are not listed."""
        models = msgspec.json.decode(await self.call("GET", "/v1/models", _Models), type=_Models).data
        if not models:
            raise click.ClickException("the server lists no models: name one with --model")
        first, *others = (model.id for model in models)
        more = f", and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        there = f"; there are {', '.join(others[:MOST_NAMED])}{more}" if others else ""
        click.echo(f"model: {first} (another with --model NAME{there})", err=True)
        return first

    async def call(self, method: str, path: str, shape: type[msgspec.Struct] = Snapshot) -> bytes:
        """The body of a 200, which has this *shape*; anything else is raised."""
        try:
            async with self.http.request(method, self.url + path) as reply:
                await _check(reply)
                body = await reply.read()
                try:
                    msgspec.json.decode(body, type=shape)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    raise click.ClickException(_stranger(reply)) from None
                return body
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: Exception) -> Unreachable:
        remedy = f"start one with `{program()} up`, or name another with --url (RESPOOL_URL)"
        return Unreachable(f"no server answers at {self.url} ({str(error) or 'timeout'}): {remedy}")

    def stream(self, screen: Screen, response_id: str = "", after: int | None = None) -> "Stream":
        return Stream(self, screen, response_id, after)


class Stream:
    """One response's events, to its end, over as many connections as that takes."""

    def __init__(self, client: Client, screen: Screen, response_id: str, after: int | None) -> None:
        self._client, self._screen = client, screen
        self.response_id, self.after = response_id, after
        self.on_id: Callable[[str], None] = lambda _: None  # called once, with the id of a response that was created
        self.final: bytes | None = None  # the last Response, JSON
        self._done = False
        self._met = False
        """The server has answered: when it is away from then on, it is waited for."""

    async def create(self, body: dict[str, Any]) -> None:
        """Post *body* and follow what comes of it. A cut before the response has an id is final: nobody knows it."""
        try:
            async with self._client.http.post(self._client.url + "/v1/responses", json=body) as reply:
                self._met = True
                await self._read(reply)
        except (aiohttp.ClientError, TimeoutError, LineTooLong) as error:
            if not self.response_id:
                raise self._client.unreachable(error) from error
        if not self.response_id:
            raise Unreachable("the stream ended before the response had an id: send it again")
        await self.follow()

    async def follow(self) -> None:
        """Read on until the end; when cut, go on behind the last event seen. Bounded by RETRIES without progress."""
        retries, pause_s, error = 0, 0.0, "the connection was cut"
        while not self._done:
            await asyncio.sleep(pause_s)
            before = self.after
            query = {"stream": "true"} | ({} if self.after is None else {"starting_after": str(self.after)})
            try:
                url = f"{self._client.url}/v1/responses/{self.response_id}"
                async with self._client.http.get(url, params=query) as reply:
                    self._met = True
                    if reply.status < 500:
                        await self._read(reply)
                    else:
                        error = f"HTTP {reply.status}"
            except (aiohttp.ClientError, TimeoutError, LineTooLong) as cut:
                if not self._met and isinstance(cut, aiohttp.ClientConnectorError):
                    raise self._client.unreachable(cut) from cut
                error = str(cut) or "timeout"
            retries = retries + 1 if self.after == before and not self._done else 0
            if retries == 1:
                click.echo(f"the stream was cut ({error}): trying again ...", err=True)
            if retries > RETRIES:
                self._screen.end_line()
                remedy = f"the response may still run, go on with: {self.go_on()}"
                raise Unreachable(f"the stream was lost ({error}); {remedy}")
            pause_s = min(self._client.first_pause_s * 2 ** max(retries - 1, 0), LONGEST_PAUSE_S)
        self._screen.end_line()

    def go_on(self) -> str:
        """The command that shows the rest."""
        behind = "" if self.after is None else f" --after {self.after}"
        return f"{program()} watch {self.response_id}{behind} --url {self._client.url}"

    def cancel(self) -> str:
        """The command that stops the response."""
        return f"{program()} cancel {self.response_id} --url {self._client.url}"

    async def _read(self, reply: aiohttp.ClientResponse) -> None:
        await _check(reply)
        if reply.content_type != "text/event-stream":
            raise click.ClickException(_stranger(reply))
        sse = SSEDecoder(MAX_EVENT_BYTES)
        async for block in reply.content.iter_any():
            for data in (event.data for event in sse.feed(block)):
                if data == DONE:
                    self._done = True
                    return
                try:
                    self._take(_events.decode(data))
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    raise click.ClickException(f"the server sent what is no event: {error}") from error

    def _take(self, event: _Event) -> None:
        self.after = self.after if event.sequence_number is None else event.sequence_number
        if event.response:
            self.final = bytes(event.response)
            if not self.response_id:
                self.response_id = msgspec.json.decode(self.final, type=Snapshot).id
                self.on_id(self.response_id)
        self._done = self._done or event.type in ("response.completed", "response.incomplete", "response.failed")
        self._screen.show(event)


def is_running(response: bytes) -> bool:
    return msgspec.json.decode(response, type=Snapshot).status in ("queued", "in_progress")


def judge(response: bytes) -> int:
    """The exit code for a finished Response; failed and cancelled ones are raised with what they say."""
    snapshot = msgspec.json.decode(response, type=Snapshot)
    if snapshot.status == "failed":
        raise click.ClickException(f"{snapshot.id} failed: {(snapshot.error or _Error()).message}")
    if snapshot.status == "cancelled":
        raise click.ClickException(f"{snapshot.id} was cancelled")
    if snapshot.status == "incomplete":
        click.echo(f"{snapshot.id} is incomplete: its output was cut at a limit", err=True)
    return 0


def _stranger(reply: aiohttp.ClientResponse) -> str:
    return f"HTTP {reply.status} from {reply.url.host}:{reply.url.port}, but not what was asked for: is this a Responses API server?"


async def _check(reply: aiohttp.ClientResponse) -> None:
    """Raise what an answer other than 200 says."""
    if reply.status == 200:
        return
    body = await reply.read()
    try:
        message = msgspec.json.decode(body, type=ErrorEnvelope).error.message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        message = _stranger(reply)
    if reply.status == 401:
        message += " Give a key with --key or RESPOOL_API_KEY."
    raise click.ClickException(message)


@asynccontextmanager
async def connect(url: str, key: str | None) -> AsyncIterator[Client]:
    """A client for the server at *url*, with or without ``/v1`` at its end."""
    url, key = url.strip(), (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise click.UsageError("--key (RESPOOL_API_KEY, OPENAI_API_KEY) holds characters that a header cannot carry")
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url (RESPOOL_URL) is {url}: it begins with http:// or https://")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        yield Client(http, url.rstrip("/").removesuffix("/v1"))
