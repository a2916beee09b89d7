"""The contract checker: one place to import it from.

    check_response(obj)                one Response object
    check_event(event)                 one stream event by itself
    check_stream(events, ...)          a whole stream: every event, their order and numbers, and their fold
    StreamChecker                      the same, event by event
    parse_sse(raw)                     the bytes of a stream
    check_error, check_error_answer    error envelopes
    check_answer(path, body)           any other successful JSON answer

All return lists of readable violations; an empty list means that nothing is wrong.
"""

from support.objects import TERMINAL, check_answer, check_error, check_error_answer, check_event, check_response
from support.sse import DONE, ParsedStream, parse_sse, render_frame, render_sse
from support.stream import TERMINAL_EVENTS, StreamChecker, check_stream

__all__ = [
    "DONE",
    "TERMINAL",
    "TERMINAL_EVENTS",
    "ParsedStream",
    "StreamChecker",
    "check_answer",
    "check_error",
    "check_error_answer",
    "check_event",
    "check_response",
    "check_stream",
    "parse_sse",
    "render_frame",
    "render_sse",
]
