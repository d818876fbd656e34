"""Downloads, against a server on this machine that answers as the hub does."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from filelock import FileLock

from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.models import download
from backend.models.download import HubFile, fetch, verify

FILE = HubFile("someone/model", "weights.pth")
COMMIT, NEXT_COMMIT = "a" * 40, "b" * 40
CONTENT = hashlib.shake_256(b"weights").digest(600_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Hub:
    """What the server has and how it misbehaves; `commits` maps a commit to the file it holds."""

    commits: dict[str, bytes] = field(default_factory=lambda: {COMMIT: CONTENT})
    main: str = COMMIT
    stated_sha256: str | None = None
    stated_size: int | None = None
    states_nothing: bool = False
    redirects: bool = True
    ranges: bool = True
    close_after: int | None = None
    states_length: bool = True
    login_page: bool = False
    renamed_to: str | None = None
    stall_s: float = 0.0
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, range
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.serve(body=False)

    def do_GET(self) -> None:
        self.serve(body=True)

    def serve(self, body: bool) -> None:
        self.hub.asked.append((self.command, self.path, self.headers["Range"]))
        time.sleep(self.hub.stall_s)
        if self.path.startswith("/cdn/"):
            self.send_content(self.hub.commits[self.path.removeprefix("/cdn/")], body)
        else:
            self.resolve(body)

    def resolve(self, body: bool) -> None:
        repository, _, rest = self.path.removeprefix("/").partition("/resolve/")
        if self.hub.renamed_to and repository != self.hub.renamed_to:
            return self.answer(307, {"Location": f"/{self.hub.renamed_to}/resolve/{rest}"})
        commit = self.hub.main if rest.startswith("main/") else rest.split("/")[0]
        if commit not in self.hub.commits or not rest.endswith("/" + FILE.filename):
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        content = self.hub.commits[commit]
        digest = self.hub.stated_sha256 or sha256(content)
        if not self.hub.redirects:
            return self.send_content(content, body, {"ETag": f'"{digest}"', "X-Repo-Commit": commit})
        headers = {"Location": f"{self.hub.url}/cdn/{commit}", "X-Repo-Commit": commit, "ETag": '"not the file\'s"'}
        if not self.hub.states_nothing:
            size = self.hub.stated_size or len(content)
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(size)}
        return self.answer(302, headers)

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", "0"))
        self.end_headers()

    def send_content(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        start = 0
        if self.hub.login_page and body:
            self.send_page()
            return
        if self.hub.ranges and self.headers["Range"]:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.hub.states_length or not body:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start : self.hub.close_after])

    def send_page(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"<html>Log in</html>")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": state}))
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", state.url + "/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def refusal(target: Path, cancel: Event | None = None) -> SamMed3DError:
    with pytest.raises(SamMed3DError) as caught:
        fetch(FILE, target, cancel=cancel)
    return caught.value


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_download_is_checked_pinned_and_reported(hub: Hub, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    fetch(FILE, target, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert seen == sorted(seen)
    assert len(seen) > 5
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    url = f"{hub.url}/someone/model/resolve/{COMMIT}/weights.pth"
    pin = {"url": url, "commit": COMMIT, "sha256": sha256(CONTENT), "size": len(CONTENT)}
    assert json.loads(target.with_name("weights.pth.json").read_text()) == pin
    assert left_in(target.parent) == {"weights.pth", "weights.pth.json"}
    assert [method for method, *_ in hub.asked] == ["HEAD", "GET", "GET"]  # the second GET is the redirect


def test_cancelled_download_leaves_no_file_and_goes_on_later(hub: Hub, target: Path) -> None:
    cancel = Event()
    with pytest.raises(SamMed3DError) as caught:
        fetch(FILE, target, lambda done, _: cancel.set() if done > 200_000 else None, cancel)
    assert caught.value.code is ErrorCode.CANCELLED
    assert not target.exists()
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT
    start = int((hub.asked[-1][2] or "").removeprefix("bytes=").removesuffix("-"))
    assert 200_000 < start < 300_000


def test_server_closing_half_way_is_said_and_gone_on_from(hub: Hub, target: Path) -> None:
    hub.close_after = 250_000
    error = refusal(target)
    assert error.code is ErrorCode.DOWNLOAD_FAILED
    assert "half-way" in error.problem
    assert not target.exists()
    hub.close_after = None
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[-1][2] is not None


def test_server_without_ranges_starts_over(hub: Hub, target: Path) -> None:
    hub.close_after, hub.ranges = 250_000, False
    refusal(target)
    hub.close_after = None
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT


def test_partial_file_that_was_complete_is_only_checked(hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    target.with_name(f"weights.pth.{sha256(CONTENT)[:12]}.part").write_bytes(CONTENT)
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT
    assert [method for method, *_ in hub.asked] == ["HEAD"]


@pytest.mark.parametrize("fault", [{"stated_size": 599_999}, {"stated_size": 600_001}, {"stated_sha256": "0" * 64}])
def test_content_that_is_not_as_stated_is_refused(fault: dict[str, int | str], hub: Hub, target: Path) -> None:
    vars(hub).update(fault)
    error = refusal(target)
    assert error.code is ErrorCode.DOWNLOAD_FAILED
    assert "600000 bytes" in error.problem
    assert left_in(target.parent) == set()


def test_later_downloads_take_the_pinned_commit(hub: Hub, target: Path) -> None:
    fetch(FILE, target)
    target.unlink()
    hub.commits[NEXT_COMMIT], hub.main = b"new weights", NEXT_COMMIT
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT


def test_hub_that_changes_a_pinned_file_is_refused(hub: Hub, target: Path) -> None:
    fetch(FILE, target)
    target.unlink()
    hub.commits[COMMIT] = b"other weights"
    error = refusal(target)
    assert error.code is ErrorCode.DOWNLOAD_CHANGED
    assert sha256(CONTENT) in error.problem
    assert "weights.pth.json" in error.remedy
    hub.states_nothing = True  # then the pin alone must find out
    assert refusal(target).code is ErrorCode.DOWNLOAD_FAILED
    assert not target.exists()


@pytest.mark.usefixtures("hub")
def test_file_changed_on_the_disk_is_refused(target: Path) -> None:
    fetch(FILE, target)
    verify(target)
    target.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(SamMed3DError, match="no longer the file") as caught:
        verify(target)
    assert caught.value.code is ErrorCode.DOWNLOAD_CHANGED


def test_file_without_a_sidecar_was_put_there_by_hand(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"mine")
    verify(tmp_path / "weights.pth")


@pytest.mark.parametrize("text", ["{", "[]", '{"url": 1}'])
def test_damaged_sidecar_is_said(text: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"mine")
    (tmp_path / "weights.pth.json").write_text(text)
    with pytest.raises(SamMed3DError, match="is damaged"):
        verify(tmp_path / "weights.pth")


@pytest.mark.usefixtures("hub")
def test_digest_is_taken_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(FILE, target)
    verify(target)
    monkeypatch.setattr(download, "_sha256", lambda _: pytest.fail("hashed again"))
    verify(target)


def test_hub_that_states_no_digest_is_trusted_with_a_warning(hub: Hub, target: Path) -> None:
    hub.states_nothing = True
    target.parent.mkdir()
    target.with_name("weights.pth.part").write_bytes(b"of who knows what")
    with pytest.warns(SamMed3DWarning, match=sha256(CONTENT)):
        fetch(FILE, target)
    assert target.read_bytes() == CONTENT
    verify(target)


def test_a_login_page_in_place_of_the_file_is_refused_and_forgotten(hub: Hub, target: Path) -> None:
    hub.states_nothing, hub.commits[COMMIT] = True, b"<!DOCTYPE html><title>Log in</title>"
    error = refusal(target)
    assert error.code == ErrorCode.DOWNLOAD_FAILED
    assert "a web page" in error.problem
    assert not {name for name in left_in(target.parent) if not name.endswith(".lock")}
    hub.states_nothing, hub.commits[COMMIT] = False, CONTENT
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT


def test_server_that_sends_the_file_itself_states_it_in_the_plain_headers(hub: Hub, target: Path) -> None:
    hub.redirects = False
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT


def test_renamed_repository_is_followed(hub: Hub, target: Path) -> None:
    hub.renamed_to = "else/where"
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT


def test_missing_file_on_the_hub(hub: Hub, target: Path) -> None:
    hub.commits.clear()
    error = refusal(target)
    assert error.code is ErrorCode.DOWNLOAD_FAILED
    assert "404" in error.problem
    assert str(target) in error.remedy


def test_no_connection(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    error = refusal(target)
    assert error.code is ErrorCode.DOWNLOAD_FAILED
    assert "no connection" in error.problem
    assert str(target) in error.remedy


def test_server_that_does_not_answer(hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stall_s = 0.5
    monkeypatch.setattr(download, "_CONNECT_READ_S", (1, 0.1))
    assert "no answer" in refusal(target).problem


def test_too_little_space_is_said_before_the_transfer(hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 100_000))
    error = refusal(target)
    assert error.code is ErrorCode.DOWNLOAD_FAILED
    assert "0.6 MB" in error.problem
    assert [method for method, *_ in hub.asked] == ["HEAD"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert refusal(tmp_path / "cache" / "weights.pth").code is ErrorCode.FILE_WRITE


@pytest.mark.usefixtures("hub")
def test_second_download_of_the_same_file_is_refused(target: Path) -> None:
    target.parent.mkdir()
    with FileLock(target.with_name("weights.pth.lock")):
        assert "already" in refusal(target).problem
    fetch(FILE, target)


def test_the_real_hub_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert FILE.url() == "https://huggingface.co/someone/model/resolve/main/weights.pth"


@pytest.mark.parametrize("fault", [{"states_length": False, "close_after": 300_000}, {"login_page": True}])
def test_what_is_here_already_outlasts_a_bad_answer(fault: dict[str, object], hub: Hub, target: Path) -> None:
    target.parent.mkdir()
    part = target.with_name(f"weights.pth.{sha256(CONTENT)[:12]}.part")
    part.write_bytes(CONTENT[:100_000])
    vars(hub).update(fault)
    assert refusal(target).code is ErrorCode.DOWNLOAD_FAILED
    assert part.stat().st_size >= 100_000
    vars(hub).update({"states_length": True, "close_after": None, "login_page": False})
    fetch(FILE, target)
    assert target.read_bytes() == CONTENT
    assert hub.asked[-1][2] == f"bytes={300_000 if 'close_after' in fault else 100_000}-"
