"""A process of its own that asks a host for a file: `python -m jax_softmax._fetch URL SECONDS`.

`network` starts it and ends it when its time is over: name resolution has no timeout, an answer may
come byte by byte, and a thread in `getaddrinfo` reads the environment while an import elsewhere
writes it, which crashes.

It writes why it failed, or nothing. With `FILE MOST` after them, the answer goes there, after the
bytes that are there already where the server can begin in the middle; at most MOST bytes of it.
"""

from __future__ import annotations

import os
import sys

_BLOCK = 2**16


def failure(url: str, seconds: float, path: str = "", most: int = 0) -> str:
    """Asks, and keeps the answer in a file if `path` names one; why that failed, or ""."""
    import requests

    there = os.path.getsize(path) if path else 0
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    try:
        with requests.get(url, stream=True, timeout=seconds, headers=headers) as response:
            if not response.ok:
                return f"HTTP status {response.status_code}"
            if not path:
                return ""
            begins = response.headers.get("Content-Range", "")
            goes_on = response.status_code == 206 and begins.startswith(f"bytes {there}-")
            with open(path, "ab" if goes_on else "wb", buffering=0) as file:
                # What there is, not a block when it is full: that of a cut answer would be lost.
                read = getattr(response.raw, "read1", response.raw.read)
                while block := read(_BLOCK):
                    file.write(block)
                    if file.tell() > most:
                        return f"more than the file's {most:,} bytes"
        return ""
    except Exception as error:  # of requests, of urllib3 or of the system
        cause = getattr(next(iter(error.args), None), "reason", None) or error
        return f"{type(cause).__name__}: {cause}"


if __name__ == "__main__":
    _, address, limit, *target = sys.argv
    file, size = target or ("", "0")
    os.write(1, failure(address, float(limit), file, int(size)).encode())
