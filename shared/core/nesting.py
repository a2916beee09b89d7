"""How deeply JSON is nested, told from its bytes: what is nested too deeply breaks whoever reads it next, not whoever took it."""

from itertools import accumulate

MAX_LEVELS = 100
"""Of arrays and objects within each other, in what a client says freely: ``parameters``, schemas, annotations."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def too_deep(data: bytes) -> bool:
    """Whether *data* (well-formed JSON) has more than `MAX_LEVELS`. Hardly anything has enough brackets to be looked at."""
    if data.count(b"[") + data.count(b"{") <= MAX_LEVELS:
        return False
    outside = data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]  # of texts
    steps = b"".join(outside).translate(_STEPS, _OTHERS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > MAX_LEVELS
