"""Files at the URLs that fsspec knows: fetched whole, and a folder put there whose marker comes last."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec  # type: ignore[import-untyped]  # ships no types

from pipeline.core.digest import digest_bytes
from pipeline.core.errors import DlkddError, EnvironmentProblem, ParamsError
from pipeline.core.files import written_whole
from pipeline.distill.store.urls import URL_REMEDY, url_options


@cache
def local_file(location: str) -> Path:
    """The file at a path, or a copy of the one at a URL, which lasts as long as this process.

    Raises EnvironmentProblem where it cannot be fetched, or came in another length than it has there.
    """
    if "://" not in location:
        return Path(location)
    name = PurePosixPath(urlsplit(location).path).name.lstrip(".") or "file"
    path = _folder() / digest_bytes(location.encode())[:8] / name
    with _reaching(location, "cannot be fetched"), written_whole(path) as partial:
        files, there = fsspec.url_to_fs(location, **url_options(location))
        files.get_file(there, str(partial))
        expected, found = files.size(there), partial.stat().st_size
        if expected not in (None, found):
            raise EOFError(f"{found:,} bytes came of {expected:,}")
    return path


@cache
def _folder() -> Path:
    """Of this process alone: what lies at a URL may be another file tomorrow."""
    folder = Path(tempfile.mkdtemp(prefix="dlkdd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def require_free(url: str, names: Collection[str], *, force: bool) -> None:
    """A folder that holds these names may be put there: nothing is, or with `force` no more than these.

    Raises ParamsError where it may not, EnvironmentProblem where the URL cannot be reached.
    """
    if url.startswith(("http://", "https://")):
        raise ParamsError(
            f"--to {url}: a web server cannot be written to",
            remedy="publish into a folder with --out, and let the server have it",
        )
    with _reaching(url, "cannot be written"):
        there = _names(*fsspec.url_to_fs(url))
    if there and not force:
        raise ParamsError(f"--to {url}: already exists", remedy="choose another place, or add --force to replace it")
    if others := sorted(there - set(names)):
        raise ParamsError(
            f"--to {url}: holds other things than a store: {', '.join(others[:5])}",
            remedy="choose another place: --force does not remove them",
        )


def put_folder(folder: Path, url: str, *, marker: str, force: bool) -> None:
    """Copy a folder's files to a URL; `marker`, the one without which readers take it for nothing, comes last.

    Raises as `require_free` does. What a failure left there has no marker.
    """
    require_free(url, {path.name for path in folder.iterdir()}, force=force)
    with _reaching(url, "cannot be written"):
        files, root = fsspec.url_to_fs(url)
        if there := _names(files, root):
            if files.exists(f"{root}/{marker}"):
                files.rm(f"{root}/{marker}")
            for name in sorted(there):
                files.rm(f"{root}/{name}", recursive=True)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in sorted(paths, key=lambda path: path == folder / marker):
            name = f"{root}/{path.relative_to(folder).as_posix()}"
            files.makedirs(name.rpartition("/")[0], exist_ok=True)
            files.put_file(str(path), name)


def _names(files: Any, root: str) -> set[str]:
    try:
        return {PurePosixPath(name).name for name in files.ls(root, detail=False)}
    except FileNotFoundError:
        return set()


@contextmanager
def _reaching(url: str, failure: str) -> Iterator[None]:
    """Turn what fsspec's file systems raise, which is of many types, into a problem of the environment."""
    try:
        yield
    except DlkddError:
        raise
    except Exception as error:
        raise EnvironmentProblem(
            f"{url}: {failure}: {type(error).__name__}: {str(error)[:300]}", remedy=URL_REMEDY
        ) from error
