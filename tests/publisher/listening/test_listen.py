"""`cvmfs-publisher listen` over HTTP on the loopback: what it takes, what it refuses, and what it publishes."""

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.web import AT_ONE_TIME
from publisher.listening.queue import Queue
from tests.cvmfsserver.fixture import FQRN, Published, cvmfs_repository
from tests.images.tarlayer import File, layer_tar
from tests.publisher.listening.bodies import envelope, event, harbor, post
from tests.publisher.listening.listener import Listener
from tests.publisher.publishing import make_image, run
from tests.publisher.wishes.stub import Stub, running
from tests.snapshotter.nodes import eventually

pytestmark = pytest.mark.root

SECRET = "a shared word"


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    images = {
        f"group/{name}:1": make_image(tmp_path / f"image-{name}", layer_tar([File("f", name.encode())]))
        for name in ("one", "two")
    }
    with running(Stub(images=images)) as served:
        yield served


@pytest.fixture
def listener(stub: Stub, tmp_path: Path) -> Iterator[Listener]:
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o600)
    with Listener(tmp_path, f"http://{stub.address}/group/*:1", ("--secret-file", str(secret))) as started:
        yield started


def shows(listener: Listener, name: str) -> bool:
    return Layout(listener.repository).manifest_json(Reference.parse(name)).is_file()


@pytest.mark.parametrize("header", [SECRET, f"Bearer {SECRET}"])
def test_a_push_is_published(listener: Listener, stub: Stub, header: str) -> None:
    """By Harbor's body and by the registry's; the job is on disk when it is accepted, and gone when it is done."""
    names = [f"{stub.address}/group/one:1", f"{stub.address}/group/two:1"]
    answer = post(listener.address, harbor(names[0]), header)
    assert (answer.status, answer.document["queued"]) == (202, names[:1])
    listener.wait_for(f"published {names[0]}")
    answer = post(listener.address, envelope(event(stub.address, "group/two", "1")), header)
    assert (answer.status, answer.document["queued"]) == (202, names[1:])
    listener.wait_for(f"published {names[1]}")
    listener.settle()
    assert [shows(listener, name) for name in names] == [True, True]
    post(listener.address, harbor(names[0]), header)
    listener.wait_for(f"unchanged {names[0]}")


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["", "wrong", f"Bearer {SECRET}x", f"Basic {SECRET}", "\xff"])
def test_strangers_are_refused(listener: Listener, stub: Stub, secret: str) -> None:
    """Before anything of the body counts."""
    answer = post(listener.address, harbor(f"{stub.address}/group/one:1"), secret)
    assert (answer.status, "shared secret" in answer.document["reason"]) == (401, True)
    assert listener.jobs() == ()


def test_what_is_refused_says_why(listener: Listener, stub: Stub) -> None:
    """As JSON with a reason, each with its status; nothing of it is kept."""

    def refused(body: bytes, **headers: str) -> tuple[int, str]:
        answer = post(listener.address, body, SECRET, **headers)
        return answer.status, answer.document["reason"]

    assert refused(harbor(f"{stub.address}/other:1"))[0] == 403
    assert refused(harbor(f"{stub.address}/group/../x:1"))[0] == 400
    assert refused(b"{")[0] == 400
    status, reason = refused(b"x" * (2 << 20))
    assert (status, "at most 1048576 bytes" in reason) == (413, True)
    assert listener.jobs() == ()
    answer = post(listener.address, envelope(event("evil.example", "group/one", "1")), SECRET)
    assert (answer.status, answer.document["passed_over"][0]["image"]) == (200, "evil.example/group/one:1")


@pytest.mark.slow
def test_odd_requests(listener: Listener) -> None:
    """Other paths, methods, no length, and a body that never comes: an answer or an end, and the next one is heard."""
    connection = http.client.HTTPConnection(listener.address, timeout=30)
    for method, path, status in (("GET", "/webhook", 404), ("POST", "/", 404), ("PUT", "/webhook", 501)):
        connection.request(method, path)
        assert connection.getresponse().status == status
        connection.close()
    host, _, port = listener.address.rpartition(":")
    head = f"POST /webhook HTTP/1.1\r\nHost: x\r\nAuthorization: {SECRET}\r\n".encode()
    for rest, said in (
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b" 411 "),
        (b"Content-Length: 9\r\n\r\nx", b""),
    ):
        with socket.create_connection((host, int(port)), 30) as stream:
            stream.sendall(head + rest)
            assert said in stream.recv(100)
    assert post(listener.address, b"{", SECRET).status == 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "Missing option '--allow'"),
        (("--allow", "registry.example/x"), "does not begin with https://"),
        (("--allow", "https://r.example/*", "--address", "0.0.0.0:0"), "there is no secret"),
        (("--allow", "https://r.example/*", "--secret-file", "open"), "may be read by everybody"),
        (("--allow", "https://r.example/*", "--secret-file", "empty"), "is not one line of text"),
        (("--allow", "https://r.example/*", "--secret-file", "good", "--no-secret"), "give one of the two"),
        (("--allow", "https://r.example/*", "--address", "nowhere"), "is not host:port"),
        (("--allow", "https://r.example/*", "--registry", "a b"), "image reference"),
    ],
)
def test_it_does_not_start(tmp_path: Path, words: tuple[str, ...], problem: str) -> None:
    """Without what keeps strangers and other images away; in one line."""
    for name, text, mode in (("open", "x", 0o644), ("empty", "\n", 0o600), ("good", "x", 0o600)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    (tmp_path / "repository").mkdir()
    given = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words]
    done = run("listen", "--repository", str(tmp_path / "repository"), "--queue", str(tmp_path / "queue"), *given)
    assert done.returncode != 0
    assert problem in done.stderr
    assert not (tmp_path / "queue").exists()


@pytest.mark.slow
def test_a_second_one_on_the_same_queue(listener: Listener) -> None:
    """Says who has it."""
    done = subprocess.run([*listener.words, "--once"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "by another publisher, process" in done.stderr) == (1, True)


@pytest.mark.slow
def test_a_failed_one_is_tried_again(stub: Stub, listener: Listener, tmp_path: Path) -> None:
    """It waits with its reason, also through a restart; a new push tries at once."""
    name = f"{stub.address}/group/one:1"
    stub.statuses["/v2/group/one/"] = 404
    post(listener.address, harbor(name), SECRET)
    assert "has no manifest" in listener.wait_for(f"failed {name}")
    assert listener.end() == 0
    (job,) = listener.jobs()
    assert (job.attempts, "has no manifest" in job.reason, job.given_up) == (1, True, False)
    shown = run("status", "--queue", str(listener.queue))
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[1].startswith(f"failed  {name}")
    assert "tried again in" in shown.stdout.splitlines()[1]
    assert shown.stdout.splitlines()[-1] == "1 failed"
    stub.statuses.clear()
    once = subprocess.run([*listener.words, "--once"], capture_output=True, text=True, timeout=60)
    assert (once.returncode, once.stdout) == (1, "")
    listener.start()
    post(listener.address, harbor(name), SECRET)
    listener.wait_for(f"published {name}")


@pytest.mark.slow
def test_what_is_not_allowed_any_more_is_given_up(stub: Stub, listener: Listener) -> None:
    """And no other image waits for it: `--once` works off the rest."""
    name = f"{stub.address}/group/one:1"
    stub.statuses["/v2/group/one/"] = 404
    post(listener.address, harbor(name), SECRET)
    listener.wait_for(f"failed {name}")
    listener.end()
    (path,) = (listener.queue / "jobs").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"retry_at": 0}))
    listener.allow = "https://r.example/*"
    done = subprocess.run([*listener.words, "--once"], capture_output=True, text=True, timeout=60)
    assert f"given up {name}" in done.stdout
    assert listener.jobs()[0].given_up


@pytest.mark.slow
def test_more_than_it_takes(listener: Listener) -> None:
    """The connections above the bound are closed at once, and when the others end the next who comes is answered."""
    host, _, port = listener.address.rpartition(":")
    streams = [socket.create_connection((host, int(port)), 30) for _ in range(AT_ONE_TIME + 1)]
    assert streams[-1].recv(1) == b""
    for stream in streams:
        stream.close()

    def answered() -> bool:
        try:
            return post(listener.address, b"{", SECRET).status == 400
        except (OSError, http.client.HTTPException):
            return False

    eventually(answered)


@pytest.fixture
def cvmfs(tmp_path: Path) -> Iterator[Published]:
    with cvmfs_repository(tmp_path) as published:
        yield published


def into(cvmfs: Published) -> tuple[str, ...]:
    return (
        "--cvmfs", FQRN, "--cvmfs-root", str(cvmfs.root), "--cvmfs-server", str(cvmfs.command),
        "--scratch", str(cvmfs.scratch),
    )  # fmt: skip


@pytest.mark.slow
def test_into_a_cvmfs_repository(stub: Stub, cvmfs: Published, tmp_path: Path) -> None:
    """One revision an image, and none for a push that changes nothing."""
    before, name = cvmfs.revision, f"{stub.address}/group/one:1"
    with Listener(tmp_path, f"http://{stub.address}/*", where=into(cvmfs)) as listener:
        for said in ("published", "unchanged"):
            post(listener.address, harbor(name))
            listener.wait_for(f"{said} {name}")
            assert cvmfs.revision == before + 1


@pytest.mark.slow
def test_several_in_one_publication(stub: Stub, cvmfs: Published, tmp_path: Path) -> None:
    """What has piled up costs one revision; an image that fails, or is not allowed, keeps no other from it."""
    before = cvmfs.revision
    with Queue.opened(tmp_path / "queue") as queue:
        for name in (f"{stub.address}/group/one:1", f"{stub.address}/none:1", "r.example/x:1"):
            queue.put(name, 1)
        queue.put(f"{stub.address}/group/two:1", 1)
    listener = Listener(tmp_path, f"http://{stub.address}/*", ("--together", "10"), into(cvmfs))
    done = subprocess.run([*listener.words, "--once"], capture_output=True, text=True, timeout=60)
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == ["failed", "given", "published", "published"]
    assert (done.returncode, cvmfs.revision) == (1, before + 1)
    assert sorted(job.reference for job in listener.jobs()) == [f"{stub.address}/none:1", "r.example/x:1"]
