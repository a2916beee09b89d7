"""Mint and recognise ids: ``resp_<pp><random>``, ``conv_<pp><random>``, and item ids that carry their owner.

``pp`` is the partition, two characters of base 32; the random part has 160 bits (32 characters), of which a response's
begins with the time, so that its id sorts behind those of older ones. An item's id is
``<kind>_<pp><the owner's random part><n>``, ``n`` four characters of base 32, so a reference finds its owner without
an index. Letters are Crockford's base 32 in lower case. All ids stay under 64 characters.
"""

import re
from typing import Literal

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PARTITIONS = 32 * 32
HOME_PARTITION = 0
"""Where every tenant is at home, as long as there is one partition."""
RANDOM_BYTES = 20
TIME_BYTES = 6
ITEM_NUMBERS = 32**4
"""So many items one owner can number."""
ItemKind = Literal["msg", "rs", "fc", "fco", "ctc", "ctco", "cmp"]

_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]
_RESPONSE = re.compile(rf"resp_([{ALPHABET}]{{2}})([{ALPHABET}]{{32}})")
_ITEM = re.compile(rf"[a-z]{{2,4}}_([{ALPHABET}]{{34}})[{ALPHABET}]{{4}}")
_CONVERSATION = re.compile(_RESPONSE.pattern.replace("resp", "conv"))


def base32(number: int, width: int) -> str:
    """*number* in exactly *width* letters (an even number), most significant first. Higher digits are cut off."""
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(5 * width - 10, -1, -10)])


def timed(created_ms: int, random: bytes) -> bytes:
    """*random* with its first ``TIME_BYTES`` replaced by Unix milliseconds."""
    return created_ms.to_bytes(TIME_BYTES) + random[TIME_BYTES:]


def response_id(partition: int, random: bytes) -> str:
    """A response's id from its partition and ``RANDOM_BYTES`` bytes (`timed`)."""
    return f"resp_{base32(partition, 2)}{base32(int.from_bytes(random), 32)}"


def conversation_id(partition: int, random: bytes) -> str:
    """A conversation's id, made like a response's."""
    return f"conv_{base32(partition, 2)}{base32(int.from_bytes(random), 32)}"


def is_response_id(text: str) -> bool:
    """Whether *text* has exactly the form of a response id of ours; only such texts may become part of a key."""
    return _RESPONSE.fullmatch(text) is not None


def is_conversation_id(text: str) -> bool:
    """The same for the id of a conversation."""
    return _CONVERSATION.fullmatch(text) is not None


def partition_of(owner_id: str) -> str:
    """The two letters of the partition: the hash tag of all keys of that response or conversation."""
    return owner_id[5:7]


def partition_number(owner_id: str) -> int:
    """The same as a number."""
    partition = partition_of(owner_id)
    return ALPHABET.index(partition[0]) * len(ALPHABET) + ALPHABET.index(partition[1])


def item_number(item_id: str) -> int:
    """The number in an item's id. Raises ``ValueError`` when there is none."""
    number = 0
    for letter in item_id[-4:]:
        number = number * 32 + ALPHABET.index(letter)
    return number


def owners_of(item_id: str) -> list[str]:
    """Whose an item's id may be: a response or a conversation. Empty for what is no id of ours."""
    found = _ITEM.fullmatch(item_id)
    return [f"resp_{found.group(1)}", f"conv_{found.group(1)}"] if found else []


def item_id(kind: ItemKind, owner_id: str, number: int) -> str:
    """The id of item *number* of the response or conversation *owner_id*."""
    return f"{kind}_{owner_id.partition('_')[2]}{base32(number, 4)}"
