"""`store`, `background` and `stream`: every combination, as it is answered, and what can be done with it afterwards."""

from typing import Any

import pytest

from support.clients import Answer, RawClient
from support.cluster_thread import ClusterThread
from support.contract import parse_sse

MODES = [
    # store, background, stream -> its first status, GET later, stream later, as a parent
    (True, False, False, "completed", 200, 400, 200),
    (True, False, True, "queued", 200, 200, 200),
    (True, True, False, "queued", 200, 400, 200),
    (True, True, True, "queued", 200, 200, 200),
    (False, False, False, "completed", 404, 404, 400),
    (False, False, True, "queued", 404, 404, 400),
    (False, True, False, "queued", 200, 400, 400),
    (False, True, True, "queued", 200, 200, 400),
]


@pytest.mark.parametrize(("store", "background", "stream", "first", "read", "streamed", "parent"), MODES)
async def test_modes(
    store: bool, background: bool, stream: bool, first: str, read: int, streamed: int, parent: int,
    raw: RawClient, service: ClusterThread,
) -> None:  # fmt: skip
    body = {"model": "echo", "input": "echo:words=3", "store": store, "background": background, "stream": stream}
    answer = await raw.post("/v1/responses", json=body)
    assert answer.status == 200
    sent = parse_sse(answer.body).events if stream else []
    response = sent[0]["response"] if stream else answer.json()
    assert answer.headers["content-type"].partition(";")[0] == ("text/event-stream" if stream else "application/json")
    assert (response["status"], response["store"], response["background"]) == (first, store, background)
    path = f"/v1/responses/{response['id']}"
    await service.settled(response["id"])
    whole = text_of(sent[-1]["response"]) if stream else "w0 w1 w2 "

    later = await raw.get(path)
    assert later.status == read
    if read == 200:
        assert (later.json()["status"], text_of(later.json()), whole) == ("completed", "w0 w1 w2 ", "w0 w1 w2 ")
    again = await raw.get(f"{path}?stream=true")
    assert again.status == streamed
    if streamed == 200:
        assert again.body == answer.body
    assert (await raw.get(f"{path}/input_items")).status == read
    child = await raw.post(
        "/v1/responses", json={"model": "echo", "input": "hi", "previous_response_id": response["id"]}
    )
    assert (child.status, code_of(child)) == (parent, None if parent == 200 else "previous_response_not_found")
    cancel = await raw.post(f"{path}/cancel")
    assert (cancel.status, message_of(cancel)) == cancelled(store, background, response["id"])
    assert (await raw.delete(path)).status == read
    assert (await raw.get(path)).status == 404


def cancelled(store: bool, background: bool, response_id: str) -> tuple[int, str]:
    """What a cancel answers once it has ended."""
    if background:
        return 400, "Cannot cancel a completed response."
    if store:
        return 400, "Cannot cancel a synchronous response."
    return 404, f"Response with id '{response_id}' not found."


def text_of(response: Any) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def code_of(answer: Answer) -> Any:
    body = answer.json()
    return body["error"]["code"] if answer.status >= 400 else None


def message_of(answer: Answer) -> Any:
    return answer.json()["error"]["message"]
