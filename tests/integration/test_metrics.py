"""GET /metrics on a front end shows what all processes count."""

import asyncio
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from support.clients import RawClient
from support.cluster import running
from support.faults import create, ended

RawMaker = Callable[[str], RawClient]
SOON_S = 20.0


class Page:
    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())

    def processes(self, name: str) -> set[str]:
        return {one.labels["process"] for one in self.samples if one.name == name and one.value}


async def read_page(raw: RawClient) -> Page:
    answer = await raw.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Page(answer.body.decode())


async def page_when(raw: RawClient, true: Callable[[Page], bool]) -> Page:
    """Counters travel with heartbeats: ask until they have come."""
    async with asyncio.timeout(SOON_S):
        while True:
            page = await read_page(raw)
            if true(page):
                return page
            await asyncio.sleep(0.1)  # between two looks


async def test_one_page_shows_all_processes(raw_client: RawMaker) -> None:
    async with running(front_ends=2, workers=2) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        other = raw_client(cluster.front_ends[1].origin)
        made = [await create(client, "hello there", model="echo") for client in (raw, raw, other)]
        for response in made:
            await ended(raw, response["id"])
        runs = "respool_run_seconds_count"
        page = await page_when(
            raw, lambda page: page.total(runs) == 3 and page.total("respool_settled_total") == 3
            and page.total("respool_http_requests_total", status="200") >= 6 and len(page.processes("respool_http_requests_total")) == 2
        )  # fmt: skip
        assert page.total("respool_settled_total", status="completed") == 3
        assert page.total("respool_events_total", event="response.settled") == 3
        assert page.total("respool_queue_seconds_count") == 3
        assert page.total("respool_upstream_calls_total", backend="echo", outcome="completed") == 3
        assert page.total("respool_tokens_total", direction="out") > 0
        assert page.total("respool_processes", room="worker") == page.total("respool_processes", room="api") == 2
        assert page.total("respool_slots") == 2 * 1024
        assert (
            page.total("respool_unsettled") == page.total("respool_queue_depth") == page.total("respool_running") == 0
        )
        assert page.total("respool_redis_used_bytes") > 0
        assert {name[:2] for name in page.processes(runs)} == {"w-"}
        await asyncio.gather(*(worker.kill() for worker in cluster.workers))
        gone = await page_when(raw, lambda page: page.total("respool_processes", room="worker") == 0)
        assert gone.processes(runs) == set()
        assert gone.total("respool_settled_total") == 3  # of the whole: it does not go with a process


async def test_the_summary_lines_say_whose_it_was_and_what_it_took(raw_client: RawMaker) -> None:
    async with running() as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        made = await create(raw, "hello there", model="echo")
        usage = (await ended(raw, made["id"]))["usage"]
        line = await cluster.workers[0].logged("response.settled", response_id=made["id"])
        assert (line["tenant_id"], line["model"]) == ("default", "echo")
        assert (line["input_tokens"], line["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
        refused = await raw.post("/v1/responses", json={"model": "no-such-model", "input": "hello"})
        line = await cluster.front_ends[0].logged("request.served", status=refused.status)
        assert line["error"] == "model_not_found"


async def test_a_worker_that_dies_shows_in_the_counters(raw_client: RawMaker) -> None:
    env = {"RESPOOL_LEASE_S": "1", "RESPOOL_RENEW_S": "0.3"}
    async with running(workers=1, env=env) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        response = await create(raw, "echo:words=2 echo:delay_ms=1500", model="echo")
        await page_when(raw, lambda page: page.total("respool_running") == 1)
        await cluster.workers[0].kill()
        await cluster.start_worker()
        await ended(raw, response["id"])
        page = await page_when(raw, lambda page: page.total("respool_events_total", event="response.requeued") == 1)
        assert page.total("respool_events_total", event="response.reconciled") == 0
        assert page.total("respool_settled_total", status="completed") == 1


async def test_metrics_can_be_switched_off(raw_client: RawMaker) -> None:
    async with running(workers=0, env={"RESPOOL_METRICS": "false"}) as cluster:
        answer = await raw_client(cluster.front_ends[0].origin).get("/metrics")
        assert answer.status == 404
        assert b"respool_" not in answer.body


async def test_without_redis_a_front_end_shows_its_own(raw_client: RawMaker) -> None:
    async with running(workers=0) as cluster:
        raw = raw_client(cluster.front_ends[0].origin)
        await page_when(raw, lambda page: page.total("respool_processes") == 1)
        await cluster.kill_valkey()
        page = await read_page(raw)
        assert page.total("respool_processes") == 0
        assert len({one.labels["process"] for one in page.samples}) == 1
