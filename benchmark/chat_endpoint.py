"""Questions to a language model over HTTP: any server that speaks OpenAI's chat completions.

The server is not trusted: replies are bounded, redirects are not followed, and text of it that would repeat the key
is withheld.
"""

import ipaddress
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from benchmark.chat_reply import Completion, NoCompletion, completion_of, error_of, shown
from galleries.errors import FinerRankError, printable

KEY_VARIABLE = "OPENAI_API_KEY"
PATH = "/chat/completions"

MAX_REPLY_BYTES = 1_000_000
MAX_WAIT_S = 120.0
"""A server that asks for a longer pause is not waited for."""

PASSING = (408, 409, 425, 429)
"""Status codes below 500 after which the same request may succeed."""
FILTERED = ("content_filter", "content_policy_violation")
"""Error codes of a request that was turned down for what it shows: an answer about these images, not a mistake."""


class Stopped(Exception):
    """Another request met an error that ends them all."""


class _Passing(Exception):
    """A failure after which the same request may succeed, and after how many seconds, where the server says so."""

    def __init__(self, what: str, after_s: float | None = None) -> None:
        self.after_s = after_s
        super().__init__(what)


class ChatEndpoint:
    """A server of chat completions, asked by several threads at once. To be used in a `with` block.

    Args:
        address: such as `https://api.openai.com/v1`; `/chat/completions` is added where it is missing.
        key: sent as a bearer token; no header is sent where it is "".
        timeout_s: for one request as a whole.
        retries: of a request that failed for a passing reason (429, 5xx, lost connections, timeouts).
        retry_wait_s: before the first of them, doubled each time, where the server does not say how long.

    Raises:
        FinerRankError: an address or a key that cannot be used, or no httpx.
    """

    def __init__(
        self,
        address: str,
        key: str = "",
        *,
        timeout_s: float = 120,
        retries: int = 6,
        retry_wait_s: float = 1,
        n_connections: int = 4,
    ) -> None:
        import httpx

        self.url, self.host, is_local = _checked_address(address)
        self._key = _checked_key(key)
        if self._key and self.url.startswith("http:") and not is_local:
            raise FinerRankError(
                f"{self.url}: {KEY_VARIABLE} would travel unencrypted; use https, or unset {KEY_VARIABLE}"
            )
        self._timeout_s, self._retries, self._retry_wait_s = timeout_s, retries, retry_wait_s
        self._stop, self._is_reached = threading.Event(), False
        # Unpacked by nobody: a small reply could unpack to gigabytes.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "finer-rank"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=timeout_s,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=n_connections),
            trust_env=not is_local,  # a proxy does not reach this machine
        )

    def __enter__(self) -> "ChatEndpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._client.close()

    def stop(self) -> None:
        """Let no further request begin, and end all waiting."""
        self._stop.set()

    def complete(self, request: Mapping[str, Any]) -> Completion:
        """The model's answer to a request.

        Raises:
            NoCompletion: the server answered with something else.
            Stopped: `stop` was called, or another thread's request met one of the following.
            FinerRankError: the server refuses key, address or request; or it still fails after all retries.
        """
        for n_failed in range(self._retries + 1):
            if self._stop.is_set():
                raise Stopped
            try:
                return self._ask(request)
            except _Passing as failure:
                kept = "what was answered is kept; run the same command again later"
                if n_failed == self._retries:
                    self._fail(f"failed {n_failed + 1} times, at last with {failure}; {kept}")
                wait_s = failure.after_s
                if wait_s is None:
                    wait_s = min(MAX_WAIT_S, self._retry_wait_s * 2**n_failed)
                if wait_s > MAX_WAIT_S:
                    self._fail(f"{failure}, and asks for a pause of {wait_s:.0f} s; {kept}")
                if self._stop.wait(wait_s):
                    raise Stopped from None
        raise AssertionError("unreachable")

    def _ask(self, request: Mapping[str, Any]) -> Completion:
        status, after_s, body = self._post(request)
        if status == 200:
            return completion_of(body, self._key)
        said, code = error_of(body, self._key)
        answer = f"HTTP {status} ({said})" if said else f"HTTP {status}"
        if status == 400 and code in FILTERED:
            return Completion("", said or code, "content_filter")
        if status in PASSING or status >= 500:
            raise _Passing(answer, after_s)
        if 300 <= status < 400:
            self._fail(
                f"redirects (HTTP {status}), and key and images go to no other address; name the right --endpoint"
            )
        if status in (401, 403):  # what the server says of a key may repeat parts of it
            what = f"put one that is valid there into {KEY_VARIABLE}" if self._key else f"set {KEY_VARIABLE}"
            self._fail(
                f"does not accept {'the key' if self._key else 'requests without a key'} (HTTP {status}); {what}"
            )
        if status == 404:
            self._fail(f"{answer}; check --endpoint (most end in /v1) and --model")
        if status == 400:
            self._fail(f"{answer}; check that --model takes images, and --temperature")
        if status >= 400:
            self._fail(f"{answer}; check --endpoint, --model and your account there")
        raise NoCompletion(answer)

    def _post(self, request: Mapping[str, Any]) -> tuple[int, float | None, bytes]:
        """Status, the pause asked for, and the bytes of a reply."""
        import httpx

        deadline = time.monotonic() + self._timeout_s
        body = bytearray()
        try:
            with self._client.stream("POST", self.url, json=request) as response:
                self._is_reached = True
                is_packed = response.headers.get("content-encoding", "identity").lower() != "identity"
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > MAX_REPLY_BYTES or is_packed:
                        break
                    if time.monotonic() > deadline:
                        raise _Passing(f"no complete reply within {self._timeout_s:g} s")
        except httpx.ConnectError as error:
            if not self._is_reached:
                self._fail(f"cannot be reached ({self._shown(error)}); check --endpoint, the network and the server")
            raise _Passing(f"a lost connection ({self._shown(error)})") from None
        except httpx.TimeoutException:
            raise _Passing(f"no complete reply within {self._timeout_s:g} s") from None
        except httpx.TransportError as error:
            raise _Passing(f"a broken reply ({self._shown(error)})") from None
        if response.status_code == 200 and is_packed:
            raise NoCompletion("a compressed reply, which was not asked for")
        if response.status_code == 200 and len(body) > MAX_REPLY_BYTES:
            raise NoCompletion(f"a reply of more than {MAX_REPLY_BYTES:,} bytes")
        return response.status_code, _pause_s(response.headers.get("retry-after")), bytes(body[:MAX_REPLY_BYTES])

    def _shown(self, error: Exception) -> str:
        return shown(str(error), self._key) or type(error).__name__

    def _fail(self, what: str) -> NoReturn:
        self.stop()
        raise FinerRankError(f"{self.url}: {what}")


def key_from_environment() -> str:
    return os.environ.get(KEY_VARIABLE, "").strip()


def _checked_key(key: str) -> str:
    # An HTTP library that meets another character shows the whole header in its error.
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise FinerRankError(f"{KEY_VARIABLE}: holds characters that no key has; set it again")
    return key


def _checked_address(address: str) -> tuple[str, str, bool]:
    """The address that requests go to, its host, and whether that is this machine."""
    import httpx

    example = "write it like https://api.openai.com/v1"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port  # reading the port checks it
        if parts.username is not None or parts.password is not None:  # not shown: it is a secret
            raise FinerRankError(f"--endpoint: holds a user or password; leave it out, and set {KEY_VARIABLE}")
        if parts.query or parts.fragment:
            raise FinerRankError(f"--endpoint: holds something after its path; leave that out, and {example}")
        if parts.scheme not in ("http", "https") or not host or printable(address) != address:
            raise FinerRankError(f"--endpoint {address}: not an address of a server; {example}")
        path = parts.path.rstrip("/")
        url = f"{parts.scheme}://{parts.netloc}{path if path.endswith(PATH) else path + PATH}"
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise FinerRankError(f"--endpoint: not an address of a server; {example}") from None
    return url, parts.netloc.lower(), _is_this_machine(host)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _pause_s(retry_after: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3: number or date); None where unclear."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return None if math.isnan(seconds) else max(0.0, seconds)
