"""Weights and estimates of contexts."""

import pytest

from shared.core.tokens import estimate, learned_as, media, weigh
from shared.wire.items import (
    FunctionCallOutput,
    FunctionTool,
    InputFile,
    InputImage,
    InputText,
    Item,
    JsonSchemaFormat,
    Message,
)
from shared.wire.requests import Request

IMAGE = InputImage(image_url="data:image/png;base64,AAAA")


def request(**fields: object) -> Request:
    return Request(id="", created_at=0, model="m", **fields)  # type: ignore[arg-type]


def test_everything_that_the_model_reads_weighs() -> None:
    items: list[Item] = [Message("user", "x" * 100)]
    plain = weigh(request(), items)
    assert plain >= 100
    assert weigh(request(), [Message("user", "é" * 100)]) == plain + 100
    assert weigh(request(instructions="x" * 50), items) == plain + 50
    assert weigh(request(tools=[FunctionTool("f", "x" * 50)]), items) > plain + 50
    assert weigh(request(format=JsonSchemaFormat("f", {"x" * 50: True})), items) > plain + 50
    assert weigh(request(), []) == 0


def test_images_and_files_count_by_the_piece() -> None:
    items: list[Item] = [
        Message("user", [InputText("hi"), IMAGE, InputFile(file_data="AAAA")]),
        FunctionCallOutput("c", [IMAGE]),
        FunctionCallOutput("d", "text"),
    ]
    assert media(items) == 3
    assert estimate(400, 3, None) - estimate(400, 0, None) == 3 * (estimate(0, 1, None))


@pytest.mark.parametrize(
    ("ratio", "tokens"), [(None, 100), (4.0, 100), (2.0, 200), (5.0, 80), (0.0, 100), (0.001, 800), (1000.0, 25)]
)
def test_ratios(ratio: float | None, tokens: int) -> None:
    assert estimate(400, 0, ratio) == tokens


def test_channels_learn_apart() -> None:
    assert learned_as(request()) == "m"
    assert learned_as(request(channel="vip")) == "vip:m"
