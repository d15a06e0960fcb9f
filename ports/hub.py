"""Published weights as local files, each downloaded once.

torchvision's files come from download.pytorch.org and are kept in the folder `IPJAX_CACHE`, by default the user's cache
folder; the eight digits in a file's name, the first of its sha256, are checked whenever it is used. Repositories of the
Hugging Face hub come through `huggingface_hub`, with its cache and its settings (`HF_HOME`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE`, `HF_TOKEN`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from ports.catalog import Entry, Repository

ORIGIN = "https://download.pytorch.org/models/"
TIMEOUT = 30.0  # seconds without a byte
RETRIES = 4  # in a row that bring no byte
WAIT = 1.0  # seconds before the first of them; doubles
CHUNK = 1 << 16
OTHERWISE = "or give the path of a weights file instead of the name"


def fetch(entry: Entry) -> Path:
    """The local file of a catalog entry, downloaded unless it is there.

    A download that was interrupted goes on where it stopped. Nothing has the file's name before all of it is there and
    its sha256 is right, and several processes may ask for the same file at once.

    **Raises:** `OSError` where there is no network, no such file at the origin, no space, or no right to write;
    `ValueError` for contents of another sha256, and for a damaged file that cannot be downloaded again.
    """
    if isinstance(entry.location, Repository):
        return fetch_repository(entry.location.name)
    name, sha256 = entry.location.name, entry.location.sha256
    path = cache_folder() / name
    found = _sha256(path) if path.exists() else ""
    if found.startswith(sha256):  # needs no lock, files appear whole; so a cache that is read-only will do
        return path
    if found:
        warnings.warn(f"{path} is damaged (sha256 {found}, expected {sha256}...); downloading it again", stacklevel=2)
    try:
        with _lock(path):
            if not (path.exists() and _sha256(path).startswith(sha256)):  # by another process, meanwhile
                _download(ORIGIN + name, path, sha256)
    except OSError as error:
        if not found:
            raise
        raise ValueError(
            f"{path} is damaged: expected a sha256 that starts with {sha256}, found {found}; and it could not be "
            f"downloaded again: {error}"
        ) from error
    return path


def fetch_repository(name: str) -> Path:
    """The local `model.safetensors` of a hub repository, `OWNER/REPOSITORY` or `OWNER/REPOSITORY@REVISION`.

    **Raises:** `OSError` that says what to do.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    repository, _, revision = name.partition("@")
    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision or None))
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        advice = "there is no such repository, or it is private: check the name, expected as OWNER/REPOSITORY, and HF_TOKEN"
        cause = error
    except errors.RevisionNotFoundError as error:
        advice, cause = "it has no such revision: check what comes after the @", error
    except errors.LocalEntryNotFoundError as error:
        cause = error
        if constants.is_offline_mode():
            advice = f"it is not in the cache {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set: unset it once"
        else:
            advice = (
                f"it is not in the cache {constants.HF_HUB_CACHE} and {constants.ENDPOINT} does not answer as a hub: check "
                "the network and HF_ENDPOINT"
            )
    except errors.EntryNotFoundError as error:
        advice, cause = "it has no model.safetensors: choose a repository that has", error
    except Exception as error:  # of the libraries below, which differ between versions of huggingface_hub
        advice, cause = f"{type(error).__name__}: {error}; try again: a download goes on where it stopped", error
    raise OSError(f"hub repository {name!r}: {advice}; {OTHERWISE}") from cause


def cache_folder() -> Path:
    """Where torchvision's files are kept: `IPJAX_CACHE`, or the user's cache folder."""
    folder = os.environ.get("IPJAX_CACHE") or user_cache_dir("ipjax")
    return Path(os.path.expanduser(folder))  # which leaves a user that does not exist as it is


def _lock(path: Path) -> AbstractContextManager:
    """Makes the file's folder, and lets one process at a time in; the lock of a process that is killed is released."""
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            _console().print(f"waiting for another process that downloads {path.name}", highlight=False)
            return lock.acquire()
    except OSError as error:
        raise OSError(
            f"cache folder: cannot write to {path.parent} ({error}); set IPJAX_CACHE to a folder that you can write to"
        ) from error


def _download(url: str, path: Path, sha256: str) -> None:
    """Downloads to a `.part` beside the path, and renames that once its sha256 is right."""
    part = path.with_name(path.name + ".part")
    # where an earlier run left a part, a wrong sum may be that part's fault: then once more from the start
    for is_last in (False, True) if part.exists() else (True,):
        if not (part.exists() and _sha256(part).startswith(sha256)):
            _receive(url, part)
        found, size = _sha256(part), part.stat().st_size
        if found.startswith(sha256):
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
            return
        part.unlink()
        if is_last:
            raise ValueError(
                f"{url}: expected a sha256 that starts with {sha256}, got {found} ({size:,} bytes, deleted). Something on the "
                f"way changes files, or the origin has another file by now: try again, from another network, {OTHERWISE}"
            )


class _Dropped(Exception):
    """The network's or the server's failure, that may pass."""


class _Unreachable(_Dropped):
    """There was no connection at all."""


def _receive(url: str, part: Path) -> None:
    """Appends to the part what it lacks, in as many connections as that takes."""
    failures, connected = 0, False
    with _progress(part.stem, _size(part)) as report:
        while True:
            before = _size(part)
            try:
                _connect(url, part, report)
                return
            except _Dropped as error:
                connected = connected or not isinstance(error, _Unreachable)
                failures = 1 if _size(part) > before else failures + 1
                if failures > RETRIES or not connected:  # at the first try: no network, which waiting does not mend
                    raise OSError(
                        f"{error}. What has arrived is kept, and trying again goes on from there. Without a network, put the "
                        f"file at {part.with_suffix('')} by hand, {OTHERWISE}"
                    ) from error
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(
                    f"disk full: no space to go on with {part} ({error}). What has arrived is kept: make space and try "
                    "again, or set IPJAX_CACHE to a folder elsewhere"
                ) from error
            time.sleep(WAIT * 2 ** (failures - 1))


def _connect(url: str, part: Path, report: Callable[[int, int | None], None]) -> None:
    """One request for what the part lacks. A server that sends anything else has the part start over."""
    size = _size(part)
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={size}-"} if size else {}), timeout=TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416:  # the part is longer than the file
                part.unlink(missing_ok=True)
                raise _Dropped(f"{url}: the server refuses the range from byte {size:,}") from error
            if error.code in (408, 429) or error.code >= 500:
                raise _Dropped(f"{url}: the server answers {error.code} ({error.reason})") from error
            raise OSError(
                f"{url}: the server answers {error.code} ({error.reason}), so the file has moved or access is barred; get it "
                f"elsewhere and put it at {part.with_suffix('')}, {OTHERWISE}"
            ) from error
    except URLError as error:
        raise _Unreachable(f"{url} cannot be reached ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise _Dropped(f"{url}: the connection broke ({error})") from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise OSError(
                f"{url}: expected a weights file, got a web page, as the login page of a network or a proxy is; open the "
                f"address in a browser, put the file at {part.with_suffix('')}, {OTHERWISE}"
            )
        if response.status != 206:
            size = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
            part.unlink(missing_ok=True)
            raise _Dropped(f"{url}: asked for the bytes from {size:,}, got {response.headers.get('Content-Range')}")
        total = None if response.length is None else size + response.length
        report(size, total)
        with part.open("ab" if size else "wb") as file:
            for chunk in _chunks(response, url):
                file.write(chunk)
                size += len(chunk)
                report(size, total)
    if total is not None and size < total:
        raise _Dropped(f"{url}: the connection ended after {size:,} of {total:,} bytes")


def _chunks(response, url: str) -> Iterator[bytes]:
    """The body; errors of reading, apart from those of writing it."""
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _Dropped(f"{url}: the connection broke ({error})") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _console():
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _progress(name: str, size: int) -> Iterator[Callable[[int, int | None], None]]:
    """Shows a bar; gives the function that sets the bytes that are here, and how many there are in all."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console()) as progress:
        task = progress.add_task(name, completed=size, total=None)
        yield lambda completed, total: progress.update(task, completed=completed, total=total)
