"""A log is packed after the end, and still answers with the same bytes."""

import json
from collections.abc import Callable

from support.clients import RawClient
from support.cluster import running


async def test_a_packed_log_replays_and_resumes(raw_client: Callable[[str], RawClient]) -> None:
    async with running(front_ends=2, env={"LOG_LEVEL": "debug"}) as cluster:
        one, other = (raw_client(front_end.origin) for front_end in cluster.front_ends)
        body = {"model": "echo", "input": "echo:words=300 echo:think", "stream": True}
        async with one.stream("POST", "/v1/responses", json=body) as stream:
            live = await stream.read()
        response_id = (await cluster.workers[0].logged("response.settled"))["response_id"]
        path = f"/v1/responses/{response_id}?stream=true"
        async with other.stream("GET", path) as stream:
            assert await stream.read() == live

        assert await cluster.redis.zrange("rs:{00}:pack", 0, -1) == [response_id.encode()]
        await cluster.redis.zadd("rs:{00}:pack", {response_id: 0})
        packed = await cluster.workers[0].logged("response.packed", response_id=response_id)
        assert packed["after_bytes"] * 20 < packed["before_bytes"]
        assert not await cluster.redis.exists(f"rs:{{00}}:e:{response_id}", "rs:{00}:pack")
        assert not await cluster.redis.hexists(f"rs:{{00}}:b:{response_id}", "object")
        frame = live.removesuffix(b"\n\ndata: [DONE]\n\n").rpartition(b"\ndata: ")[2]
        assert (await other.get(f"/v1/responses/{response_id}")).json() == json.loads(frame)["response"]

        frames = live.split(b"\n\n")
        for after in (-1, 0, 1, 7, 200, len(frames) - 4, len(frames) - 3):
            query = f"{path}&starting_after={after}" if after >= 0 else path
            async with one.stream("GET", query) as stream:
                assert await stream.read() == b"\n\n".join(frames[after + 1 :])
