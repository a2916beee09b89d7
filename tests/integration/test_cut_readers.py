"""A client that takes nothing is cut, which is no fault of the server, and goes on where it was."""

import asyncio
import json
from collections.abc import Callable

from support.clients import RawClient
from support.cluster import chat_model, running
from support.faults import NamedUpstream, get, resume

RawMaker = Callable[[str], RawClient]
READ_BYTES = 4096


async def test_a_reader_that_takes_nothing_is_cut(upstream: NamedUpstream, raw_client: RawMaker) -> None:
    async with running(env={"RESPOOL_SSE_WRITE_TIMEOUT_S": "2"}, config=chat_model(upstream.base_url)) as cluster:
        (front_end,) = cluster.front_ends
        host, port = front_end.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=READ_BYTES)
        text = "x words=400 size=20000"
        body = json.dumps({"model": "tiny", "input": text, "stream": True, "background": True}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        response_id = ""
        while not response_id:
            line = await reader.readline()
            if line.startswith(b"data: "):
                response_id = json.loads(line[6:])["response"]["id"]
        await front_end.logged("request.served", method="POST", status=499, timeout_s=20)
        writer.close()
        raw = raw_client(front_end.origin)
        events = await resume(raw, response_id, 0)
        assert events[-1]["type"] == "response.completed"
        assert (await get(raw, response_id))["status"] == "completed"
        assert not front_end.find("request.failed")
