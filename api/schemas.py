"""The schemas that come with a request: what is to be examined, and the error that names the one that cannot be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.core.schemas import BadSchema, schema_text
from shared.errors import InvalidRequest, Overloaded
from shared.examiner import COMPILE_S, Examiner, TooCostly

MAX_WAITING = 32
"""So many requests of a front end wait for their schemas at most: some 10 s when all are hostile."""
TOO_COSTLY = (
    f"it takes too long to compile (more than {COMPILE_S:g} s of processor time). "
    "Make it smaller, with fewer references ($ref) to what refers to others in turn"
)


@dataclass(frozen=True, slots=True)
class GivenSchema:
    """The schema at *param*, as text; ``owner`` is what it belongs to, for people."""

    text: str
    owner: str
    param: str
    code: str

    def refusal(self, reason: str) -> InvalidRequest:
        return _refusal(self.owner, self.param, self.code, reason)


def given_schema(schema: dict[str, Any], owner: str, param: str, code: str) -> GivenSchema:
    try:
        return GivenSchema(schema_text(schema), owner, param, code)
    except BadSchema as error:
        raise _refusal(owner, param, code, str(error)) from None


def _refusal(owner: str, param: str, code: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid schema for {owner}: {reason}.", param=param, code=code)


async def check_schemas(schemas: Sequence[GivenSchema], examiner: Examiner) -> None:
    """Each of *schemas* is one, leads nowhere, and can be compiled in no time."""
    if not schemas:
        return
    if examiner.waiting >= MAX_WAITING:
        message = "Too many requests with new schemas are waiting to be examined. Please retry."
        raise Overloaded(message, retry_after_s=1)
    try:
        fault = await examiner.compile_fault([schema.text for schema in schemas])
    except TooCostly as error:
        raise schemas[error.place].refusal(TOO_COSTLY) from None
    if fault is not None:
        place, reason = fault
        raise schemas[place].refusal(reason)
