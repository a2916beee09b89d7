"""In the midst of an update: what newer processes have accepted is left to them, and is not failed by older ones."""

from collections.abc import Callable

from support.clients import RawClient
from support.cluster import running
from support.faults import check_left, create, ended

RawMaker = Callable[[str], RawClient]


def newer(room: str) -> tuple[str, str]:
    """The program of a process that knows one version more."""
    return "-c", f"import shared.core.lifecycle as l; l.SCHEMA += 1; import sys, {room}.main as m; sys.exit(m.main())"


async def test_older_processes_leave_what_newer_ones_have_accepted(raw_client: RawMaker) -> None:
    async with running(env={"RESPOOL_REAP_S": "0.1"}) as cluster:
        front_end = await cluster.start_front_end(program=newer("api"))
        raw, of_tomorrow = (raw_client(each.origin) for each in cluster.front_ends)
        assert front_end is cluster.front_ends[1]
        response = await create(of_tomorrow, "of tomorrow", model="echo")
        await cluster.workers[0].logged("response.skipped", response_id=response["id"])
        today = await create(raw, "of today", model="echo")
        assert (await ended(raw, today["id"]))["status"] == "completed"  # although it came later
        refused = await raw.get(f"/v1/responses/{response['id']}")
        assert refused.status == 503
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        assert "newer version" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        after = {"model": "echo", "input": "x", "previous_response_id": response["id"]}
        assert (await raw.post("/v1/responses", json=after)).status == 503
        assert (await of_tomorrow.get(f"/v1/responses/{response['id']}")).json()["status"] == "queued"
        assert len(cluster.workers[0].find("response.skipped")) == 1
        await cluster.start_worker(program=newer("worker"))
        assert (await ended(of_tomorrow, response["id"]))["status"] == "completed"
        assert (await ended(of_tomorrow, today["id"]))["status"] == "completed"  # the old ones can be read by all
        assert await check_left(cluster.redis) == 2
