"""Marks around reasoning: where the content is cut does not matter."""

from itertools import groupby, pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.translate.think import ThinkSplitter

PIECES = ["<think>", "</think>", "<th", "</", ">", "a", " ", "\n", "<b>"]


def split(contents: list[str], *, starts_inside: bool) -> list[tuple[str, str]]:
    splitter = ThinkSplitter("<think>", "</think>", starts_inside=starts_inside)
    found = [one for content in contents for one in splitter.feed(content)] + splitter.finish()
    assert all(text for _, text in found)
    return [(kind, "".join(text for _, text in run)) for kind, run in groupby(found, lambda one: one[0])]


@given(st.lists(st.sampled_from(PIECES)).map("".join), st.lists(st.integers(0, 40)), st.booleans())
def test_where_the_content_is_cut_does_not_matter(content: str, cuts: list[int], starts_inside: bool) -> None:
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    contents = [content[a:b] for a, b in pairwise(edges)]
    assert split(contents, starts_inside=starts_inside) == split([content], starts_inside=starts_inside)


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_nothing_but_marks_and_white_space_is_lost(content: str) -> None:
    kept = "".join(text for _, text in split([content], starts_inside=False))
    without = content.replace("<think>", "", 1).replace("</think>", "", 1)
    assert "".join(kept.split()) in {"".join(content.split()), "".join(without.split())} or kept in content
