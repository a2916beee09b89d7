"""What is sent ahead of a body."""

import pytest

from worker.backends.pool import Origin
from worker.backends.target import encode_head, plan_target

URLS = [
    ("http://127.0.0.1:8000/v1/x", {}, (False, "127.0.0.1", 8000), "127.0.0.1:8000", "/v1/x"),
    ("http://host/v1/x", {}, (False, "host", 80), "host", "/v1/x"),
    ("https://host:443/v1/x", {}, (True, "host", 443), "host", "/v1/x"),
    ("https://host:8443/v1/x", {}, (True, "host", 8443), "host:8443", "/v1/x"),
    ("http://[::1]:8000/v1/x", {}, (False, "::1", 8000), "[::1]:8000", "/v1/x"),
    ("http://bücher.example/ü %/x", {}, (False, "xn--bcher-kva.example", 80), "xn--bcher-kva.example", "/%C3%BC%20%25/x"),
    ("http://h/a%2Fb", {"api-version": "2 &=ü"}, (False, "h", 80), "h", "/a%2Fb?api-version=2+%26%3D%C3%BC"),
    ("http://h", {"a": "1", "b": ""}, (False, "h", 80), "h", "/?a=1&b="),
]  # fmt: skip


@pytest.mark.parametrize(("url", "query", "origin", "host", "path"), URLS)
def test_targets(url: str, query: dict[str, str], origin: tuple[bool, str, int], host: str, path: str) -> None:
    target = plan_target(url, tuple(query.items()))
    assert (target.origin, target.host, target.path) == (Origin(*origin), host, path)


def test_a_head() -> None:
    head = encode_head(plan_target("http://h:1/v1", ()), {"X-A": "ü", "accept": "no", "Accept": "all"}, 12)
    assert head.decode() == (
        "POST /v1 HTTP/1.1\r\nHost: h:1\r\nAccept: all\r\nUser-Agent: respool\r\nX-A: ü\r\nContent-Length: 12\r\n\r\n"
    )


def test_a_user_in_the_address_is_said_unless_there_is_a_key() -> None:
    target = plan_target("http://me:p%40ss@h:1/v1", ())
    assert target.host == "h:1"
    assert b"\r\nAuthorization: Basic bWU6cEBzcw==\r\n" in encode_head(target, {}, 0)
    assert encode_head(target, {"Authorization": "Bearer k"}, 0).count(b"uthorization") == 1


def test_what_a_row_may_say() -> None:
    """Its own ``Host``, but not where the body ends."""
    row = {"HOST": "other", "Content-length": "1", "transfer-encoding": "chunked"}
    head = encode_head(plan_target("http://h:1/v1", ()), row, 12).decode()
    assert head.split("\r\n")[1:] == ["HOST: other", "Accept: */*", "User-Agent: respool", "Content-Length: 12", "", ""]


@pytest.mark.parametrize("sign", ["\n", "\r\n", "\0", "\x7f"])
def test_a_header_is_one_line(sign: str) -> None:
    target = plan_target("http://h/v1", ())
    for headers in ({"X-A": f"a{sign}b"}, {f"X{sign}A": "b"}):
        with pytest.raises(ValueError, match="control character"):
            encode_head(target, headers, 0)
