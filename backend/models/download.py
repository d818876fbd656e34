"""One file from the hub into the cache: checked against what the hub states, and pinned from then on.

Beside each downloaded file lies a sidecar (`<file>.json`) with the commit, the size and the SHA-256 it
had. A later download asks for that same commit, and neither the hub nor the disk can change the file
without a `DOWNLOAD_CHANGED`.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Event
from urllib.parse import urljoin

import requests
from filelock import FileLock, Timeout

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.io.atomic import replacing

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all (None: the hub did not say)

_CONNECT_READ_S = (10, 30)
_CHUNK_BYTES = 1 << 16  # small, so that a cancel is heard within a second on a slow line
_IDENTITY = {"Accept-Encoding": "identity"}  # a compressed transfer would not have the stated size
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubFile:
    """A file on the hub: `revision` is a branch, a tag or a commit."""

    repository: str
    filename: str
    revision: str = "main"

    def url(self) -> str:
        """Direct link; the environment variable HF_ENDPOINT replaces https://huggingface.co."""
        endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        return f"{endpoint}/{self.repository}/resolve/{self.revision}/{self.filename}"


@dataclass(frozen=True)
class Pin:
    """What a sidecar records of a downloaded file."""

    url: str
    commit: str
    sha256: str
    size: int


@dataclass(frozen=True)
class _Stated:
    """What the hub says of a file before it sends it; None where it does not say."""

    file: HubFile
    sha256: str | None
    size: int | None


def fetch(file: HubFile, target: Path, progress: Progress | None = None, cancel: Event | None = None) -> None:
    """Download `file` to `target`, going on from where an earlier attempt stopped.

    Args:
        file: what to fetch; where `target` has a sidecar, its commit is taken instead of `file.revision`.
        target: where to put it; nothing appears there before size and SHA-256 are right.
        progress: called with (bytes so far, bytes in all) after each chunk, in this thread.
        cancel: looked at before each chunk.

    Raises:
        SamMed3DError: DOWNLOAD_FAILED (no connection, refused, cut short, not what the hub states, no
            space), DOWNLOAD_CHANGED (the hub states another digest than the sidecar), FILE_WRITE, CANCELLED.

    Warns:
        SamMed3DWarning: the hub states no SHA-256, so that the one of this download is taken on trust.
    """
    with _readable_errors(file, target), _alone(target):
        pin = _read_pin(target)
        stated = _ask(replace(file, revision=pin.commit) if pin else file)
        if pin:
            _check_unchanged(pin, stated, target)
            stated = replace(stated, sha256=pin.sha256, size=pin.size)
        part = _partial_file(target, stated)
        _transfer(stated, part, progress, cancel or Event())
        _write_pin(target, _checked(part, stated))  # first: no weights may lie there without their pin
        with replacing(target) as temporary:
            part.rename(temporary)


def verify(path: Path) -> None:
    """Compare a file with its sidecar; a file without one was put there by hand and passes.

    Raises:
        SamMed3DError: DOWNLOAD_CHANGED; FILE_READ.
    """
    try:
        pin, stat = _read_pin(path), path.stat()
        changed = pin and (stat.st_size != pin.size or _digest(path, stat.st_size, stat.st_mtime_ns) != pin.sha256)
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.FILE_READ,
            f"{path}, or what is known of it, could not be read: {error.strerror}.",
            "Check its permissions, or set NAPARI_SAMED3D_CACHE to a folder of your own.",
        ) from error
    if pin and changed:
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_CHANGED,
            f"{path} is no longer the file that was downloaded ({pin.size} bytes, SHA-256 {pin.sha256[:12]}...).",
            f"Delete it to download it again, or delete only {_sidecar(path).name} if you replaced it on purpose.",
        )


def _ask(file: HubFile) -> _Stated:
    url = file.url()
    for _ in range(5):  # a renamed repository answers with a link on the same host
        response = requests.head(url, headers=_IDENTITY, timeout=_CONNECT_READ_S, allow_redirects=False)
        location = response.headers.get("Location", "")
        if "X-Linked-Etag" in response.headers or not location.startswith("/"):
            break
        url = urljoin(url, location)
    response.raise_for_status()
    commit = response.headers.get("X-Repo-Commit", "")
    sha256, size = _stated_content(response)
    return _Stated(replace(file, revision=commit) if _COMMIT.fullmatch(commit) else file, sha256, size)


def _stated_content(response: requests.Response) -> tuple[str | None, int | None]:
    """SHA-256 and size; the plain headers describe the file only where the hub sends it itself."""
    etag, size = response.headers.get("X-Linked-Etag"), response.headers.get("X-Linked-Size")
    if etag is None and response.status_code == requests.codes.ok:
        etag, size = response.headers.get("ETag"), response.headers.get("Content-Length")
    digest = (etag or "").removeprefix("W/").strip('"')
    return digest if _SHA256.fullmatch(digest) else None, int(size) if size and size.isdecimal() else None


def _partial_file(target: Path, stated: _Stated) -> Path:
    """Where the transfer goes, and may go on if its end can be checked; its name keeps versions apart."""
    if stated.sha256 and stated.size:
        return target.with_name(f"{target.name}.{stated.sha256[:12]}.part")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    return part


def _transfer(stated: _Stated, part: Path, progress: Progress | None, cancel: Event) -> None:
    done = part.stat().st_size if part.exists() else 0
    if stated.size is not None and done >= stated.size:
        return
    _check_space(part.parent, (stated.size or 0) - done)
    headers = _IDENTITY | ({"Range": f"bytes={done}-"} if done else {})
    with requests.get(stated.file.url(), headers=headers, stream=True, timeout=_CONNECT_READ_S) as response:
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        if done and not resumed and "html" in response.headers.get("Content-Type", ""):
            raise _page_sent(stated)  # and what is here already stays
        with part.open("ab" if resumed else "wb") as out:
            for chunk in response.iter_content(_CHUNK_BYTES):
                _check_cancel(cancel)
                out.write(chunk)
                if progress:
                    progress(out.tell(), stated.size)
                if stated.size is not None and out.tell() > stated.size:
                    break  # wrong already: do not fill the disk with the rest
    untold = "Content-Length" not in response.headers  # by which a transfer is known to be cut short
    if untold and stated.size is not None and part.stat().st_size < stated.size:
        raise requests.exceptions.ChunkedEncodingError("cut short")


def _check_cancel(cancel: Event) -> None:
    if cancel.is_set():
        raise SamMed3DError(
            ErrorCode.CANCELLED, "The download was cancelled.", "Start it again to go on from where it stopped."
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_FAILED,
            f"The download needs {needed / 1e6:.1f} MB more, but {folder} has {free / 1e6:.1f} MB free.",
            "Free some space, or set NAPARI_SAMED3D_CACHE to a folder on another disk.",
        )


def _check_unchanged(pin: Pin, stated: _Stated, target: Path) -> None:
    if stated.sha256 not in (None, pin.sha256):
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_CHANGED,
            f"{stated.file.url()} now has SHA-256 {stated.sha256}, but had {pin.sha256} when it was first downloaded.",
            f"If you trust the new file, delete {_sidecar(target)} and download again.",
        )


def _checked(part: Path, stated: _Stated) -> Pin:
    """The pin of a complete partial file; a wrong one is deleted, since going on with it cannot mend it."""
    size, digest = part.stat().st_size, _sha256(part)
    if stated.size not in (None, size) or stated.sha256 not in (None, digest):
        part.unlink()
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_FAILED,
            f"What {stated.file.url()} sent ({size} bytes, SHA-256 {digest[:12]}...) is not what the hub states "
            f"({stated.size} bytes, SHA-256 {(stated.sha256 or 'unknown')[:12]}...).",
            "Download it again; if it happens twice, a proxy may be altering downloads.",
        )
    if stated.sha256 is None and _is_page(part):
        part.unlink()
        raise _page_sent(stated)
    if stated.sha256 is None:
        message = f"The hub states no SHA-256 for {stated.file.filename}; {digest} is taken on trust."
        warnings.warn(SamMed3DWarning(message), stacklevel=2)
    return Pin(stated.file.url(), stated.file.revision, digest, size)


def _page_sent(stated: _Stated) -> SamMed3DError:
    return SamMed3DError(
        ErrorCode.DOWNLOAD_FAILED,
        f"{stated.file.url()} sent a web page, not {stated.file.filename}.",
        "Open any page in a browser: this network may ask for a login first. Then download it again.",
    )


def _is_page(part: Path) -> bool:
    with part.open("rb") as stream:
        return stream.read(256).lstrip().startswith(b"<")


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keep a second window or process from writing into the same partial file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f"{target.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_FAILED,
            f"{target.name} is being downloaded already, by another window or process.",
            "Wait until that has ended, then try again.",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _readable_errors(file: HubFile, target: Path) -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:  # before OSError, which it is a kind of
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_FAILED,
            f"{file.url()} could not be downloaded: {_reason(error)}.",
            f"Check the connection and try again, or put the file at {target} yourself, or give its path.",
        ) from error
    except OSError as error:
        raise SamMed3DError(
            ErrorCode.FILE_WRITE,
            f"{target} could not be written: {error.strerror or error}.",
            "Free some space or set NAPARI_SAMED3D_CACHE to a folder that you may write to.",
        ) from error


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {_CONNECT_READ_S[1]} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the server closed the connection half-way"
    return f"no connection ({type(error).__name__})"


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_pin(path: Path) -> Pin | None:
    sidecar = _sidecar(path)
    if not sidecar.exists():
        return None
    try:
        return Pin(**json.loads(sidecar.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_CHANGED,
            f"{sidecar} is damaged, so that {path.name} cannot be checked.",
            f"Delete both {sidecar.name} and {path.name} in {path.parent}, and download again.",
        ) from error


def _write_pin(path: Path, pin: Pin) -> None:
    with replacing(_sidecar(path)) as temporary:
        temporary.write_text(json.dumps(asdict(pin), indent=2), "utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=32)
def _digest(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001  (they are the key of the cache)
    return _sha256(path)
