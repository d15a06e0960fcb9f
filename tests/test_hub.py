"""Downloads from servers on the loopback interface, and everything that can interrupt or spoil them."""

import dataclasses
import errno
import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from ports import hub
from ports.catalog import CATALOG, File, Repository

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = f"weights_tiny-{SHA256[:8]}.pth"
ENTRY = dataclasses.replace(CATALOG[0], location=File(NAME))
ORIGIN, WAIT = hub.ORIGIN, hub.WAIT  # before the tests replace them
ANSWER = 60  # seconds to wait for another process, which imports JAX first, before a test gives up


class Server:
    """Answers requests with the functions in `script`, one each, then with `serve`; keeps what was asked."""

    def __init__(self):
        self.script = []
        self.serve = whole
        self.ranges = []
        self.sent = 0
        self.closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.ranges.append(self.headers.get("Range"))
                (owner.script.pop(0) if owner.script else owner.serve)(owner, self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def send(self, request, body, status=200, *, length=None, content_type="application/octet-stream", headers=None):
        request.send_response(status)
        request.send_header("Content-Type", content_type)
        if length != "unknown":
            request.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            self.sent += len(body)
            request.wfile.write(body)


def whole(server, request, *, until=None):
    """The range that was asked for, or its start up to byte `until` of the file before the connection is closed."""
    if request.path != f"/{NAME}":
        return server.send(request, b"no such file", 404)
    asked, size = request.headers.get("Range"), len(CONTENT)
    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
    if start >= size:
        return server.send(request, b"", 416, headers={"Content-Range": f"bytes */{size}"})
    headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if asked else {}
    return server.send(request, CONTENT[start:until], 206 if asked else 200, length=size - start, headers=headers)


def up_to(byte):
    return lambda server, request: whole(server, request, until=byte)


def answer(body, status=200, **settings):
    return lambda server, request: server.send(request, body, status, **settings)


def stall_after(byte):
    def stall(server, request):
        server.send(request, CONTENT[:byte], length=len(CONTENT))
        server.closing.wait(ANSWER)

    return stall


def close_at_once(server, request):
    request.close_connection = True


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(server, tmp_path, monkeypatch):
    """An empty cache folder, and the server in the place of the origin."""
    monkeypatch.setenv("IPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "ORIGIN", server.url)
    monkeypatch.setattr(hub, "WAIT", 0.001)
    return tmp_path / "cache"


def part_of(cache, content):
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"{NAME}.part").write_bytes(content)


def is_right(path, cache):
    """The file, whole, and nothing beside it but perhaps the lock."""
    beside = {other.name for other in cache.iterdir()} - {NAME + ".lock"}
    return path == cache / NAME and path.read_bytes() == CONTENT and beside == {NAME}


# what should happen


def test_a_file_is_downloaded_once(server, cache, capfd):
    path = hub.fetch(ENTRY)
    assert is_right(path, cache)
    output = capfd.readouterr()
    assert NAME in output.err and output.out == ""
    server.close()
    assert hub.fetch(ENTRY) == path
    assert capfd.readouterr() == ("", "")
    assert server.ranges == [None]


def test_a_cache_that_is_read_only_will_do(cache, monkeypatch):
    hub.fetch(ENTRY)
    monkeypatch.setattr(hub, "FileLock", None)
    assert is_right(hub.fetch(ENTRY), cache)


def test_the_real_origin():
    assert (ORIGIN, WAIT) == ("https://download.pytorch.org/models/", 1.0)


def test_where_the_cache_is(cache, monkeypatch, tmp_path):
    assert hub.cache_folder() == cache
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPJAX_CACHE", "~/elsewhere")
    assert hub.cache_folder() == tmp_path / "elsewhere"
    for unset in (lambda: monkeypatch.setenv("IPJAX_CACHE", ""), lambda: monkeypatch.delenv("IPJAX_CACHE")):
        unset()
        assert hub.cache_folder() == Path(platformdirs.user_cache_dir("ipjax"))
        if sys.platform == "linux":
            assert hub.cache_folder() == tmp_path / "user" / "ipjax"


def test_a_server_that_announces_no_length(server, cache):
    server.script = [answer(CONTENT, length="unknown")]
    assert is_right(hub.fetch(ENTRY), cache)


def test_bytes_after_the_announced_length_are_left_out(server, cache):
    server.script = [answer(CONTENT + b"more", length=len(CONTENT))]
    assert is_right(hub.fetch(ENTRY), cache)


# interruptions


def test_dropped_connections_go_on_where_they_stopped(server, cache):
    server.script = [up_to(300_000), up_to(300_001), up_to(999_999)]
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == [None, "bytes=300000-", "bytes=300001-", "bytes=999999-"]
    assert server.sent == len(CONTENT)


def test_any_number_of_drops_while_bytes_arrive(server, cache):
    server.script = [up_to(10_000 * n) for n in range(1, 4 * hub.RETRIES)]
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.sent == len(CONTENT)


def test_a_connection_that_stays_dead_keeps_the_part(server, cache):
    server.script = [up_to(400_000)] + [close_at_once] * 100
    with pytest.raises(OSError, match=rf"the connection broke .*What has arrived is kept.*{cache / NAME} by hand") as error:
        hub.fetch(ENTRY)
    assert server.url + NAME in str(error.value)
    assert len(server.ranges) == 1 + hub.RETRIES
    assert not (cache / NAME).exists()
    assert (cache / f"{NAME}.part").read_bytes() == CONTENT[:400_000]
    server.script = []
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges[-1] == "bytes=400000-" and server.sent == len(CONTENT)


def test_a_silent_server_times_out(server, cache, monkeypatch):
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    server.script = [stall_after(4 * hub.CHUNK)]
    start = time.monotonic()
    assert is_right(hub.fetch(ENTRY), cache)
    assert time.monotonic() - start < ANSWER / 2
    assert server.ranges == [None, f"bytes={4 * hub.CHUNK}-"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_errors_that_may_pass_are_tried_again(server, cache, status):
    server.script = [answer(b"busy", status)] * hub.RETRIES
    assert is_right(hub.fetch(ENTRY), cache)
    server.script = [answer(b"busy", status)] * (hub.RETRIES + 1)
    (cache / NAME).unlink()
    with pytest.raises(OSError, match=f"the server answers {status}"):
        hub.fetch(ENTRY)


def test_a_server_that_ignores_ranges(server, cache):
    part_of(cache, CONTENT[:600_000])
    server.script = [answer(CONTENT)]
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == ["bytes=600000-"]


def test_a_server_that_refuses_the_range(server, cache):
    part_of(cache, CONTENT + b"too much")
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == ["bytes=1000008-", None]


def test_a_server_that_answers_another_range(server, cache):
    other = answer(CONTENT[1000:], 206, headers={"Content-Range": "bytes 1000-999999/1000000"})
    server.script = [up_to(600_000), other]
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == [None, "bytes=600000-", None]


def test_a_part_of_another_file_is_started_over(server, cache):
    part_of(cache, b"x" * 1000 + CONTENT[1000:600_000])
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == ["bytes=600000-", None]


def test_a_part_that_is_whole_needs_no_server(server, cache):
    part_of(cache, CONTENT)
    server.close()
    assert is_right(hub.fetch(ENTRY), cache)


# processes

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ports.hub"])  # imports JAX once, not in every process


def start(task, *arguments, output, **environment):
    """A process that runs the task with these environment variables; what it prints goes to the file."""
    process = PROCESSES.Process(target=_run, args=(task, arguments, output, environment), daemon=True)
    process.start()
    return process


def _run(task, arguments, output, environment):
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update({"NO_PROXY": "127.0.0.1"} | environment)
    task(*arguments)


def fetch_from(origin, deadly=None):
    """Fetches the file; the process dies at its first call of the function of `os` that is deadly."""
    hub.ORIGIN = origin
    if deadly:
        setattr(os, deadly, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    print(hub.fetch(ENTRY), flush=True)


def wait_for(condition):
    deadline = time.monotonic() + ANSWER
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def exit_code(process):
    process.join(ANSWER)
    return process.exitcode


def test_killed_downloads_leave_nothing_that_looks_whole(server, tmp_path, monkeypatch):
    """Killed with nothing there, some, most, and with all of it there before the sync and before the rename."""
    sizes = {"nothing": 0, "some": 4 * hub.CHUNK, "most": 15 * hub.CHUNK}
    server.serve = lambda server, request: stall_after(sizes[request.path.split("/")[1]])(server, request)
    killed = {}
    for name, size in sizes.items():
        part = tmp_path / name / f"{NAME}.part"
        output, folder = tmp_path / f"{name}.txt", str(tmp_path / name)
        killed[name] = start(fetch_from, f"{server.url}{name}/", output=output, IPJAX_CACHE=folder)
        wait_for(lambda part=part, size=size: part.exists() and part.stat().st_size == size)
        killed[name].kill()
    server.serve = whole
    for name in ("fsync", "replace"):
        output, folder = tmp_path / f"{name}.txt", str(tmp_path / name)
        killed[name] = start(fetch_from, server.url, name, output=output, IPJAX_CACHE=folder)
    exit_codes = {name: exit_code(process) for name, process in killed.items()}  # so that none still asks the server
    for name, code in exit_codes.items():
        assert code == -signal.SIGKILL
        assert not (tmp_path / name / NAME).exists()
        arrived = (tmp_path / name / f"{NAME}.part").read_bytes()
        assert arrived == CONTENT[: sizes.get(name, len(CONTENT))]
        server.ranges.clear()
        monkeypatch.setenv("IPJAX_CACHE", str(tmp_path / name))
        assert is_right(hub.fetch(ENTRY), tmp_path / name)
        assert server.ranges == ([f"bytes={len(arrived)}-" if arrived else None] if name in sizes else [])


def test_two_processes_at_once_download_once(server, cache, tmp_path):
    released = threading.Event()

    def hold(server, request):
        released.wait(ANSWER)
        whole(server, request)

    server.serve = hold
    outputs = tmp_path / "first.txt", tmp_path / "second.txt"
    processes = [start(fetch_from, server.url, output=output, IPJAX_CACHE=str(cache)) for output in outputs]
    try:
        wait_for(lambda: any(f"waiting for another process that downloads {NAME}" in _text(path) for path in outputs))
    finally:
        released.set()
    assert [exit_code(process) for process in processes] == [0, 0]
    assert all(str(cache / NAME) in _text(output).splitlines() for output in outputs)
    assert server.ranges == [None]
    assert is_right(cache / NAME, cache)


def _text(path):
    return path.read_text() if path.exists() else ""


# errors


def test_no_server(server, cache):
    server.close()
    with pytest.raises(OSError, match=r"cannot be reached .*refused") as error:
        hub.fetch(ENTRY)
    for part in (server.url + NAME, str(cache / NAME), "by hand", "path of a weights file"):
        assert part in str(error.value)
    assert server.ranges == []


def test_no_server_is_said_at_once(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", pytest.fail)
    server.close()
    with pytest.raises(OSError, match="cannot be reached"):
        hub.fetch(ENTRY)


@pytest.mark.parametrize("status", [403, 404])
def test_no_such_file_at_the_origin(server, cache, status):
    part_of(cache, CONTENT[:1000])
    server.script = [answer(b"not here", status)]
    with pytest.raises(OSError, match=rf"{NAME}: the server answers {status} .*put it at {cache / NAME},") as error:
        hub.fetch(ENTRY)
    assert server.url in str(error.value)
    assert server.ranges == ["bytes=1000-"] and not (cache / NAME).exists()
    assert (cache / f"{NAME}.part").read_bytes() == CONTENT[:1000]


def test_contents_of_another_hash(server, cache):
    other = bytes(1000)
    server.script = [answer(other)]
    with pytest.raises(ValueError, match="expected a sha256 that starts with") as error:
        hub.fetch(ENTRY)
    for part in (server.url + NAME, SHA256[:8], hashlib.sha256(other).hexdigest(), "1,000 bytes"):
        assert part in str(error.value)
    assert {path.name for path in cache.iterdir()} <= {NAME + ".lock"}
    assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == [None, None]


def test_contents_of_another_hash_after_a_part(server, cache):
    part_of(cache, CONTENT[:1000])
    server.script = [answer(bytes(1000))] * 2
    with pytest.raises(ValueError, match="expected a sha256 that starts with"):
        hub.fetch(ENTRY)
    assert server.ranges == ["bytes=1000-", None]
    assert {path.name for path in cache.iterdir()} <= {NAME + ".lock"}


def test_a_truncated_file_without_announced_length(server, cache):
    server.script = [answer(CONTENT[:-1], length="unknown")]
    with pytest.raises(ValueError, match=r"expected a sha256 .*999,999 bytes"):
        hub.fetch(ENTRY)
    assert not (cache / NAME).exists()


def test_a_web_page_instead_of_weights_keeps_the_part(server, cache):
    part_of(cache, CONTENT[:1000])
    server.script = [answer(b"<html>Log in</html>", content_type="text/html; charset=utf-8")]
    with pytest.raises(OSError, match=rf"expected a weights file, got a web page.*put the file at {cache / NAME},"):
        hub.fetch(ENTRY)
    assert (cache / f"{NAME}.part").read_bytes() == CONTENT[:1000]
    assert not (cache / NAME).exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting needs more rights")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_part(server, small_disk, monkeypatch, tmp_path):
    monkeypatch.setenv("IPJAX_CACHE", str(small_disk))
    with pytest.raises(OSError, match=rf"disk full: no space .*{NAME}.*What has arrived is kept.*set IPJAX_CACHE"):
        hub.fetch(ENTRY)
    assert server.ranges == [None] and not (small_disk / NAME).exists()
    arrived = (small_disk / f"{NAME}.part").read_bytes()
    assert 400_000 < len(arrived) <= 512 * 1024 and CONTENT.startswith(arrived)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert is_right(hub.fetch(ENTRY), small_disk)
    assert server.ranges[1:] == [f"bytes={len(arrived)}-"]


def test_a_disk_that_is_full_from_the_start(server, cache):
    """/dev/full refuses every byte, so this one needs no rights."""
    cache.mkdir()
    (cache / f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="disk full: no space to go on") as error:
        hub._receive(server.url + NAME, cache / f"{NAME}.part")
    assert error.value.__cause__.errno == errno.ENOSPC
    assert server.ranges == [None]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_folder_that_cannot_be_made(server, tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / below
    monkeypatch.setenv("IPJAX_CACHE", str(folder))
    with pytest.raises(OSError, match=rf"cache folder: cannot write to {folder} .*set IPJAX_CACHE"):
        hub.fetch(ENTRY)
    assert server.ranges == []


def test_a_cache_folder_without_the_right_to_write(server, small_disk, monkeypatch):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    monkeypatch.setenv("IPJAX_CACHE", str(small_disk))
    with pytest.raises(OSError, match=rf"cache folder: cannot write to {small_disk} .*Read-only.*set IPJAX_CACHE"):
        hub.fetch(ENTRY)
    assert server.ranges == []


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT[:-1] + b"x", b""])
def test_a_damaged_file_is_downloaded_again(server, cache, damage):
    cache.mkdir()
    (cache / NAME).write_bytes(damage)
    found = hashlib.sha256(damage).hexdigest()
    with pytest.warns(UserWarning, match=rf"{cache / NAME} is damaged \(sha256 {found}, expected {SHA256[:8]}"):
        assert is_right(hub.fetch(ENTRY), cache)
    assert server.ranges == [None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hub.fetch(ENTRY)


def test_a_damaged_file_without_a_network(server, cache):
    hub.fetch(ENTRY)
    (cache / NAME).write_bytes(b"damaged")
    server.close()
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(ValueError, match="could not be downloaded again") as error,
    ):
        hub.fetch(ENTRY)
    for part in (str(cache / NAME), SHA256[:8], hashlib.sha256(b"damaged").hexdigest(), "by hand", "cannot be reached"):
        assert part in str(error.value)
    assert (cache / NAME).read_bytes() == b"damaged"


# the Hugging Face hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve_hub(server, request):
    """The routes that a download asks for: one file in one repository, another repository without it."""
    route = re.fullmatch(r"/(timm/\w+(?:\.\w+)?)/resolve/([^/]+)/model\.safetensors", request.path)
    repository, revision = route.groups() if route else (None, None)
    failure = (
        "RepoNotFound"
        if repository not in ("timm/tiny.tv_in1k", "timm/empty")
        else "RevisionNotFound"
        if revision not in ("main", "v1", COMMIT)
        else "EntryNotFound"
        if repository == "timm/empty"
        else None
    )
    if failure:
        return server.send(request, b"", 404, headers={"X-Error-Code": failure, "X-Repo-Commit": COMMIT})
    headers = {"ETag": f'"{SHA256}"', "X-Repo-Commit": COMMIT}
    return server.send(request, CONTENT, headers=headers)


def print_repositories(*names):
    """A line each: its content's sha256 and where it is, or the error; `huggingface_hub` tries again without waiting."""
    time.sleep = lambda seconds: None
    for name in names:
        try:
            path = hub.fetch(dataclasses.replace(ENTRY, location=Repository(name)))
            print(hashlib.sha256(path.read_bytes()).hexdigest(), path, flush=True)
        except OSError as error:
            print(error, flush=True)


def lines(names, tmp_path, **environment):
    """What `print_repositories` prints in a process of its own: `huggingface_hub` reads its settings when imported."""
    output = tmp_path / "output.txt"
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    } | environment
    assert exit_code(start(print_repositories, *names, output=output, **environment)) == 0
    return [line for line in output.read_text().splitlines() if line.startswith((SHA256, "hub repository"))]


def test_hub_repositories(server, tmp_path):
    server.serve = serve_hub
    right = rf"{SHA256} {tmp_path}/hub/models--timm--tiny\.tv_in1k/snapshots/{COMMIT}/model\.safetensors"
    expected = {
        "timm/tiny.tv_in1k": right,
        "timm/tiny.tv_in1k@v1": right,
        "timm/tiny.tv_in1k@v2": r"hub repository 'timm/tiny\.tv_in1k@v2': it has no such revision: .*",
        "timm/other": r"hub repository 'timm/other': there is no such repository, or it is private: .*HF_TOKEN; .*",
        "not a name": r"hub repository 'not a name': there is no such repository, .*expected as OWNER/REPOSITORY.*",
        "timm/empty": r"hub repository 'timm/empty': it has no model\.safetensors.*or give the path.*",
    }
    found = lines(expected, tmp_path, HF_ENDPOINT=server.url[:-1])
    for line, pattern in zip(found, expected.values(), strict=True):
        assert re.fullmatch(pattern, line)
    assert server.sent == len(CONTENT)  # both revisions are one commit

    server.ranges.clear()
    found, missing = lines(["timm/tiny.tv_in1k", "timm/other"], tmp_path, HF_ENDPOINT=server.url[:-1], HF_HUB_OFFLINE="1")
    assert re.fullmatch(right, found)
    assert re.fullmatch(rf"hub repository 'timm/other': .*the cache {tmp_path}/hub and HF_HUB_OFFLINE is set: .*", missing)
    assert server.ranges == []

    server.close()
    (found,) = lines(["timm/tiny.tv_in1k"], tmp_path, HF_ENDPOINT=server.url[:-1])
    assert re.fullmatch(right, found)


def test_a_hub_that_does_not_answer(server, tmp_path):
    server.close()
    (line,) = lines(["timm/tiny.tv_in1k"], tmp_path, HF_ENDPOINT=server.url[:-1])
    assert re.fullmatch(rf"hub repository .*{server.url[:-1]} does not answer as a hub: check .*HF_ENDPOINT; or give.*", line)


def test_a_hub_that_breaks_off(server, tmp_path):
    server.serve = lambda server, request: (serve_hub if request.command == "HEAD" else close_at_once)(server, request)
    (line,) = lines(["timm/tiny.tv_in1k"], tmp_path, HF_ENDPOINT=server.url[:-1])
    assert re.fullmatch(r"hub repository 'timm/tiny\.tv_in1k': RemoteProtocolError: .*; try again: .*; or give.*", line)
