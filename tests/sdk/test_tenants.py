"""Keys lead to tenants, and nothing that belongs to one can be seen, used, changed or told apart by another."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from api.auth import KNOWN_S
from shared.store.redis import Store, connect
from shared.store.tenants import Tenants, is_key, new_key
from support.clients import Answer, RawClient
from support.cluster import ROOT, Cluster, running
from support.cluster_thread import ClusterThread

OURS, THEIRS = "sk-ours", "sk-theirs"
LIMIT_S = 20.0
BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
HI = {"model": "echo", "input": "hi"}


def row(name: str, key: str, tenant: str) -> str:
    return f'[[keys]]\nname = "{name}"\ntenant = "{tenant}"\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"\n'


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def keyed() -> Iterator[ClusterThread]:
    """Two front ends that ask for keys: one of tenant `us`, one of tenant `them`."""
    config = row("one", OURS, "us") + row("two", THEIRS, "them") + '[models.echo]\ndialect = "echo"\n'
    with ClusterThread(config=config, front_ends=2) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def us(keyed: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(keyed.origin, headers=bearer(OURS))


@pytest_asyncio.fixture
async def them(keyed: ClusterThread, raw_client: Callable[..., RawClient]) -> RawClient:
    return raw_client(keyed.origin, headers=bearer(THEIRS))


# keys


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "You didn't provide an API key"),
        ({"Authorization": ""}, "You didn't provide an API key"),
        ({"Authorization": "Bearer"}, "malformed"),
        ({"Authorization": "Bearer  "}, "malformed"),
        ({"Authorization": OURS}, "malformed"),
        ({"Authorization": f"Basic {OURS}"}, "malformed"),
        ({"Authorization": f"Bearer {OURS} {OURS}"}, "malformed"),
        ({"Authorization": f"Bearer {'x' * 600}"}, "malformed"),
        ({"Authorization": "Bearer sk-wrong"}, "Incorrect API key"),
        ({"Authorization": f"Bearer {OURS}x"}, "Incorrect API key"),
        ({"Authorization": f"Bearer rsp_{'x' * 43}"}, "Incorrect API key"),
        ({"Authorization": "Bearer sk-\u00e9"}, "Incorrect API key"),
    ],
)
async def test_without_a_good_key_nothing_is_served(
    headers: dict[str, str], said: str, keyed: ClusterThread, raw_client: Callable[..., RawClient]
) -> None:
    raw = raw_client(keyed.origin, headers=headers)
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/x"),
        ("GET", "/v1/no"),
    ):
        answer = await raw.request(method, path)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
        assert said in error["message"]
        assert "sk-" not in error["message"]
    assert (await raw.get("/health")).status == 200


async def test_the_official_client_raises_its_error(
    keyed: ClusterThread, openai_client: Callable[..., openai.AsyncOpenAI]
) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        await openai_client(keyed.origin, api_key="sk-wrong").responses.create(model="echo", input="hi")
    assert caught.value.code == "invalid_api_key"
    assert "wrong" not in str(caught.value)
    answer = await openai_client(keyed.origin, api_key=OURS).responses.create(model="echo", input="hi")
    assert answer.status == "completed"


async def test_the_scheme_is_of_any_case(keyed: ClusterThread, raw_client: Callable[..., RawClient]) -> None:
    raw = raw_client(keyed.origin, headers={"Authorization": f"bearer   {OURS} "})
    assert (await raw.get("/v1/models")).status == 200


async def test_a_key_is_named_in_the_log_and_never_shown(keyed: ClusterThread, us: RawClient) -> None:
    answer = await us.get("/v1/models")
    front_end = keyed.cluster.front_ends[0]
    line = await keyed.logged(front_end, "request.served", request_id=answer.headers["x-request-id"])
    assert (line["tenant_id"], line["key_name"]) == ("us", "one")
    assert OURS not in "".join(map(str, front_end.lines))


# isolation


async def create(client: RawClient, **more: Any) -> Answer:
    answer = await client.post("/v1/responses", json={**HI, **more})
    assert answer.status == 200, answer.body
    return answer


@pytest_asyncio.fixture
async def ours(keyed: ClusterThread, us: RawClient) -> dict[str, str]:
    """Ids of things that belong to us."""
    done = (await create(us)).json()
    running = (await create(us, input="echo:words=100000 echo:delay_ms=20", background=True)).json()
    stream = await create(us, stream=True, background=True)
    streamed = json.loads(stream.body.partition(b"data: ")[2].partition(b"\n")[0])["response"]["id"]
    item = (await us.get(f"/v1/responses/{done['id']}/input_items")).json()["data"][0]["id"]
    made = await us.post("/v1/conversations", json={"items": [{"role": "user", "content": "hello"}]})
    ids = {"done": done["id"], "running": running["id"], "streamed": streamed, "item": item}
    if made.status == 200:
        ids["conversation"] = made.json()["id"]
        ids["turn"] = (await us.get(f"/v1/conversations/{ids['conversation']}/items")).json()["data"][0]["id"]
    return ids


ROUTES = [
    ("GET", "/v1/responses/{done}", None),
    ("GET", "/v1/responses/{running}", None),
    ("GET", "/v1/responses/{running}?wait=1", None),
    ("GET", "/v1/responses/{streamed}?stream=true", None),
    ("GET", "/v1/responses/{streamed}?stream=true&starting_after=3", None),
    ("GET", "/v1/responses/{done}?stream=true", None),
    ("GET", "/v1/responses/{done}/input_items", None),
    ("POST", "/v1/responses/{running}/cancel", None),
    ("POST", "/v1/responses/{done}/cancel", None),
    ("DELETE", "/v1/responses/{done}", None),
    ("DELETE", "/v1/responses/{running}", None),
    ("POST", "/v1/responses", {**HI, "previous_response_id": "{done}"}),
    ("POST", "/v1/responses", {**HI, "previous_response_id": "{running}"}),
    ("POST", "/v1/responses", {**HI, "previous_response_id": "{done}", "background": True, "stream": True}),
    ("POST", "/v1/responses", {"model": "echo", "input": [{"type": "item_reference", "id": "{item}"}]}),
    ("POST", "/v1/responses/input_tokens", {**HI, "previous_response_id": "{done}"}),
    ("GET", "/v1/conversations/{conversation}", None),
    ("POST", "/v1/conversations/{conversation}", {"metadata": {"a": "b"}}),
    ("DELETE", "/v1/conversations/{conversation}", None),
    ("GET", "/v1/conversations/{conversation}/items", None),
    ("POST", "/v1/conversations/{conversation}/items", {"items": [{"role": "user", "content": "x"}]}),
    ("GET", "/v1/conversations/{conversation}/items/{turn}", None),
    ("DELETE", "/v1/conversations/{conversation}/items/{turn}", None),
    ("POST", "/v1/responses", {**HI, "conversation": "{conversation}"}),
    ("POST", "/v1/responses", {**HI, "conversation": "{conversation}", "store": False}),
    ("POST", "/v1/responses", {"model": "echo", "input": [{"type": "item_reference", "id": "{turn}"}]}),
]


def fill(template: Any, ids: dict[str, str]) -> str:
    text = template if isinstance(template, str) else json.dumps(template)
    for name, value in ids.items():
        text = text.replace("{" + name + "}", value)
    return text


def told(answer: Answer, ids: dict[str, str]) -> tuple[int, str]:
    """What an answer tells, the ids that it names put aside."""
    text = answer.body.decode()
    for name, value in ids.items():
        text = text.replace(value, f"<{name}>")
    return answer.status, text


async def test_what_belongs_to_others_does_not_exist(
    keyed: ClusterThread, us: RawClient, them: RawClient, ours: dict[str, str]
) -> None:
    """Each route answers them as it answers about an id that was never given, byte for byte."""
    never = {name: given[:-12] + "0" * 12 for name, given in ours.items()}
    never |= {name: ours[name][:20] + "0" * (len(ours[name]) - 20) for name in ("item", "turn") if name in ours}
    before = {path: (await us.get(path)).body for path in (f"/v1/responses/{ours['done']}",)}
    for method, path, body in ROUTES:
        if "{conversation}" in fill([path, body], {}) and "conversation" not in ours:
            continue
        answers = []
        for ids in (ours, never):
            data = fill(body, ids).encode() if body is not None else None
            answers.append(told(await them.request(method, fill(path, ids), data=data), ids))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] in (400, 404), (method, path, answers[0])
        if body is None or "{conversation}" in path:
            assert answers[0][0] == 404, (method, path, answers[0])
    for path, body in before.items():
        assert (await us.get(path)).body == body
    assert (await us.get(f"/v1/responses/{ours['running']}")).json()["status"] in ("queued", "in_progress")
    if "conversation" in ours:
        left = (await us.get(f"/v1/conversations/{ours['conversation']}/items")).json()["data"]
        assert [item["id"] for item in left] == [ours["turn"]]
    assert (await us.post(f"/v1/responses/{ours['running']}/cancel")).json()["status"] == "cancelled"


async def test_an_idempotency_key_counts_within_its_tenant(us: RawClient, them: RawClient) -> None:
    headers = {"Idempotency-Key": "same"}
    made, other, again = [await each.post("/v1/responses", json=HI, headers=headers) for each in (us, them, us)]
    assert made.json()["id"] == again.json()["id"] != other.json()["id"]
    reused = await them.post("/v1/responses", json={**HI, "input": "ho"}, headers=headers)
    assert reused.status == 422
    assert made.json()["id"] not in reused.body.decode()


async def test_two_keys_of_one_tenant_share_all(
    keyed: ClusterThread, us: RawClient, raw_client: Callable[..., RawClient]
) -> None:
    made = (await create(us)).json()
    key = (await respool(keyed, "keys", "create", "shared", "--tenant", "us")).strip()
    second = raw_client(keyed.origin, headers=bearer(key))
    assert (await second.get(f"/v1/responses/{made['id']}")).json() == made
    third = await create(second, previous_response_id=made["id"])
    assert (await us.delete(f"/v1/responses/{third.json()['id']}")).status == 200


# keys in Redis


async def respool(cluster: ClusterThread, *arguments: str, code: int = 0) -> str:
    """What a command prints that ends with *code*."""
    ended, said = await run(*arguments, REDIS_URL=cluster.cluster.redis_url)
    assert ended == code, said
    return said


async def until(client: RawClient, status: int, within_s: float) -> None:
    """Until the server answers with *status*."""
    async with asyncio.timeout(within_s):
        while True:
            if (await client.get("/v1/models")).status == status:
                return
            await asyncio.sleep(0.02)  # between two questions


async def test_a_key_is_made_listed_used_and_revoked(
    keyed: ClusterThread, raw_client: Callable[..., RawClient]
) -> None:
    key = (await respool(keyed, "keys", "create", "laptop", "--tenant", "them")).strip()
    assert key.startswith("rsp_")
    clients = [raw_client(each.origin, headers=bearer(key)) for each in keyed.cluster.front_ends]
    listed = await respool(keyed, "keys", "list")
    (line,) = [line.split() for line in listed.splitlines() if line.startswith("laptop")]
    assert (line[:2], line[-1]) == (["laptop", "them"], "never")
    for client in clients:  # at once, everywhere
        assert (await client.get("/v1/models")).status == 200
    as_json = await respool(keyed, "keys", "list", "--json")
    (row,) = [each for each in json.loads(as_json) if each["name"] == "laptop"]
    assert row["tenant"] == "them"
    assert row["used"] >= row["created"] > 0
    assert key not in listed + as_json
    assert "called laptop" in await respool(keyed, "keys", "create", "laptop", code=1)
    await respool(keyed, "keys", "revoke", "laptop")
    for client in clients:
        await until(client, 401, KNOWN_S + 2)
    assert "no key called laptop" in await respool(keyed, "keys", "revoke", "laptop", code=1)
    assert "laptop" not in await respool(keyed, "keys", "list")


BAD_NAMES = (["x\ny"], [""], ["x" * 65], ["x", "--tenant", "a b"], ["x", "--tenant", ""])


async def test_bad_names_are_refused(keyed: ClusterThread) -> None:
    before = await respool(keyed, "keys", "list")
    await asyncio.gather(*(respool(keyed, "keys", "create", *bad, code=1) for bad in BAD_NAMES))
    assert await respool(keyed, "keys", "list") == before


async def test_a_stream_that_began_with_a_key_is_finished_without_it(
    keyed: ClusterThread, raw_client: Callable[..., RawClient]
) -> None:
    made = json.loads(await respool(keyed, "keys", "create", "brief", "--json"))
    client = raw_client(keyed.origin, headers=bearer(made["key"]))
    body = {**HI, "input": "echo:words=400 echo:delay_ms=10", "stream": True}
    async with client.stream("POST", "/v1/responses", json=body) as stream:
        events = stream.events()
        assert (await anext(events))["type"] == "response.created"
        await respool(keyed, "keys", "revoke", "brief")
        assert [event async for event in events][-1]["type"] == "response.completed"


# no keys at all


@pytest.fixture
def open_cluster() -> Iterator[ClusterThread]:
    """A front end without any key."""
    with ClusterThread(workers=0) as cluster:
        yield cluster


async def test_the_first_key_closes_the_door(open_cluster: ClusterThread, raw_client: Callable[..., RawClient]) -> None:
    anybody = raw_client(open_cluster.origin, headers={})
    assert (await anybody.get("/v1/models")).status == 200
    key = (await respool(open_cluster, "keys", "create", "first")).strip()
    await until(anybody, 401, 5)
    mine = raw_client(open_cluster.origin, headers=bearer(key))
    assert (await mine.get("/v1/models")).status == 200
    await respool(open_cluster, "keys", "revoke", "first")
    await until(anybody, 200, 5)


async def start_exposed(cluster: Cluster) -> tuple[int, str]:
    """The exit code of a front end that listens on all addresses, and what it said; stopped when it serves."""
    environ = BARE | {"REDIS_URL": cluster.redis_url, "HOST": "0.0.0.0", "PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api", env=environ, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    async with asyncio.timeout(LIMIT_S):
        async for line in process.stdout:
            lines.append(line.decode())
            if '"process.started"' in lines[-1]:
                process.terminate()
        return await process.wait(), "".join(lines)


async def test_beyond_loopback_only_with_a_key() -> None:
    async with running(front_ends=0, workers=0) as cluster:
        code, said = await start_exposed(cluster)
        assert code == 78
        assert "respool keys create" in said
        client = connect(cluster.redis_url)
        assert await Tenants(Store(client)).create(new_key(), "first", "default")
        await client.aclose()
        code, said = await start_exposed(cluster)
        assert code == 0, said
        assert "process.started" in said


async def test_the_embedded_redis_is_found_by_its_folder(tmp_path: Path) -> None:
    folder = ["--data", str(tmp_path / "data")]
    arguments = ["up", "--port", "0", *folder]
    code, said = await run("keys", "create", "x", *folder)
    assert code == 78
    assert "start it with `respool up`" in said
    assert (await run("up", "--host", "0.0.0.0", *folder))[0] == 78
    async with up(*arguments):
        code, key = await run("keys", "create", "x", *folder)
        assert (code, is_key(key.strip())) == (0, True)
    async with up(*arguments, "--host", "0.0.0.0") as said:
        assert "Authorization: Bearer" in said
        assert (await run("check", HOST="0.0.0.0", RESPOOL_DATA_DIR=folder[1]))[0] == 0
        assert (await run("keys", "revoke", "x", *folder))[0] == 0
    assert (await run("up", "--port", "0", "--host", "0.0.0.0", *folder))[0] == 78


async def run(*arguments: str, **environ: str) -> tuple[int, str]:
    """A command's exit code, and what it printed: where it fails, on standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", *arguments, env=BARE | environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, (err if process.returncode else out).decode()


@asynccontextmanager
async def up(*arguments: str) -> AsyncIterator[str]:
    """`respool up`, as far as its banner."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", *arguments, env=BARE,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            said = ""
            while "output_text)" not in said:
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        yield said
    finally:
        process.terminate()
        async with asyncio.timeout(LIMIT_S):
            await process.communicate()
