"""A packed log reads back byte for byte, and is small."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.core.emitter import Emitter, Ending
from shared.core.frames import decode, render_all
from shared.core.packing import FRAMES, TOLD, pack, unpack
from shared.core.responses import draft
from shared.wire.items import Logprob
from shared.wire.requests import Request
from shared.wire.responses import ResponseError, Usage

TEXTS = st.text(st.characters(codec="utf-8"), max_size=5)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["text", "refusal", "reasoning", "summary", "state", "logprobs", "annotation"]), TEXTS
        ),
        st.tuples(st.just("call"), st.sampled_from([None, "", "call_a", "call_b"])),
        st.tuples(st.just("arguments"), TEXTS),
        st.tuples(st.sampled_from(["message", "close_item", "close_part"]), st.none()),
        st.tuples(st.just("message"), st.just("commentary")),
    ),
    max_size=12,
)
ENDINGS = st.sampled_from(
    [
        Ending("completed", Usage(1, 2, 3)),
        Ending("incomplete", reason="content_filter"),
        Ending("incomplete", Usage(1, 2, 3), "max_output_tokens"),
        Ending("failed", error=ResponseError("rate_limit_exceeded", "slow down")),
        Ending("cancelled"),
    ]
)


def begun(*, background: bool = False, first_item: int = 3) -> Emitter:
    request = Request(id="resp_00" + "a" * 32, created_at=1, model="m", metadata={"k": "v"}, background=background)
    emit = Emitter(draft(request), next_item=first_item)
    emit.created()
    if background:
        emit.queued()
    return emit


def log_of(steps: list[tuple[str, str | None]], ending: Ending, *, background: bool) -> bytes:
    emit = begun(background=background)
    emit.in_progress()
    handle = -1
    for step, value in steps:
        if step == "call":
            handle = emit.call("get_weather", value)
        elif step == "arguments":
            if emit.is_open(handle):
                emit.arguments(handle, value or "")
        elif step == "logprobs":
            emit.text(value or "", [Logprob(value or "", -0.5, [1])])
        elif step == "annotation":
            emit.annotation(msgspec.Raw(msgspec.json.encode({"type": "url_citation", "title": value})))
        elif value is None:
            getattr(emit, step)()
        else:
            getattr(emit, step)(value)
    emit.end(ending, at=99)
    return render_all(emit.take())


@given(STEPS, ENDINGS, st.booleans())
def test_what_was_told_is_enough(steps: list[tuple[str, str | None]], ending: Ending, background: bool) -> None:
    frames = log_of(steps, ending, background=background)
    packed = pack(frames)
    assert packed[:1] == TOLD
    assert unpack(packed) == frames


def test_a_response_that_never_ran() -> None:
    emit = begun(background=True)
    emit.end(Ending("cancelled"), at=99)
    frames = render_all(emit.take())
    assert unpack(pack(frames)) == frames


def test_a_thousand_words_are_a_few_kilobytes() -> None:
    words = [("text", f"{word} ") for word in ("the quick brown fox jumps over a lazy dog and runs away " * 84).split()]
    frames = log_of(words[:1000], Ending("completed", Usage(1, 1000, 1001)), background=False)
    assert len(frames) > 200_000
    assert len(pack(frames)) < 4_000


def test_frames_that_cannot_be_made_again_are_kept() -> None:
    frames = log_of([("text", "hello")], Ending("completed"), background=False)
    other = frames.replace(b'"delta":"hello"', b'"delta": "hello"')
    assert decode(other) == decode(frames)
    for kept in (other, b"", b"event: x\n\n", frames[:-1], b"\xff\xfe\n\n"):
        packed = pack(kept)
        assert packed[:1] == FRAMES
        assert unpack(packed) == kept
