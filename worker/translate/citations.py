"""What an answer quotes: ``annotations`` of deltas (OpenAI, OpenRouter), ``citations`` and ``search_results`` of chunks
(Perplexity, the whole list in each), as annotations of the text."""

from typing import Any

import msgspec

from shared.core.emitter import Emitter
from worker.translate.chat_chunk import count, whole_text

MAX_CITATIONS = 256


class Citations:
    """Those that come before there is a text wait for it; those of chunks are told at the end, each address once."""

    def __init__(self, emit: Emitter) -> None:
        self._emit = emit
        self._waiting: list[msgspec.Raw] = []
        self._sources: dict[str, str] = {}  # address -> title
        self._told: set[str] = set()

    def add(self, annotations: Any, *, has_text: bool) -> None:
        """``annotations`` of a delta. *has_text*: there is an open text that they belong to."""
        for value in annotations if isinstance(annotations, list) else []:
            if len(self._told) >= MAX_CITATIONS or not isinstance(value, dict) or value.get("type") != "url_citation":
                continue
            inner = value.get("url_citation")
            self._waiting.append(self._flat(inner if isinstance(inner, dict) else value))
        if has_text:
            self.release()

    def note(self, citations: Any, results: Any) -> None:
        """``citations`` (addresses) and ``search_results`` (objects with address and title) of a chunk."""
        for value in [*_list(results), *_list(citations)]:
            url, title = (value.get("url"), value.get("title")) if isinstance(value, dict) else (value, None)
            if isinstance(url, str) and url and len(self._sources) < MAX_CITATIONS:
                self._sources[url] = self._sources.get(url) or (title if isinstance(title, str) else "")

    def release(self) -> None:
        """A text is open now."""
        waiting, self._waiting = self._waiting, []
        for raw in waiting:
            self._emit.annotation(raw)

    def finish(self) -> None:
        for url, title in self._sources.items():
            if url not in self._told:
                self._emit.annotation(self._flat({"url": url, "title": title}))

    def _flat(self, inner: dict[str, Any]) -> msgspec.Raw:
        """Theirs is nested under its type, ours is flat."""
        url = inner.get("url")
        self._told.add(url if isinstance(url, str) else str(len(self._told)))
        flat = {
            "type": "url_citation",
            "url": whole_text(str(url or "")),
            "title": whole_text(str(inner.get("title") or "")),
            "start_index": count(inner.get("start_index")) or 0,
            "end_index": count(inner.get("end_index")) or 0,
        }
        return msgspec.Raw(msgspec.json.encode(flat))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
