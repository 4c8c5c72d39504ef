"""How fsspec opens a URL: which packages it needs, and how long it waits."""

from __future__ import annotations

import asyncio
import atexit
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

URL_REMEDY = (
    "check the address; s3:// needs the package s3fs, gs:// gcsfs, az:// adlfs, hf:// huggingface_hub: pip install them"
)
TIMEOUT_SECONDS = 60  # without a connection, or without a byte of an object


def url_options(location: str) -> dict[str, Any]:
    """How fsspec opens a URL: a connection that says nothing ends."""
    if not location.startswith(("http://", "https://")):
        return {}
    import aiohttp  # slow to import, and a path needs none of it

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
    return {"client_kwargs": {"timeout": timeout}, "get_client": _http_session}


async def _http_session(**options: Any) -> aiohttp.ClientSession:
    """A session that is closed at exit, before zarr stops the loop that it lives in; fsspec would leave it open."""
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem  # type: ignore[import-untyped]  # ships no types

    session = aiohttp.ClientSession(**options)
    atexit.register(HTTPFileSystem.close_session, asyncio.get_running_loop(), session)
    return session
