"""Alive and ready are two questions: the probes' pages, and what systemd is told."""

import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.repository import Repository
from snapshotter import health
from snapshotter.health import Heart
from snapshotter.notify import Notifier
from snapshotter.pulse import Pulse, health_service
from snapshotter.server import FEW_WORKERS
from tests.mounting import standin
from tests.snapshotter.daemon import Daemon, refusal
from tests.snapshotter.layers import NAME, HandMade, pull
from tests.snapshotter.nodes import eventually
from tests.snapshotter.watching import NotifySocket, ask, notify_socket, pages_of

ANY_PORT = "127.0.0.1:0"


@pytest.fixture
def daemon(tmp_path: Path, repository: HandMade) -> Iterator[Daemon]:
    with served(tmp_path, repository.root) as started:
        yield started


def served(tmp_path: Path, repository: Path, **config: object) -> Daemon:
    return Daemon(
        tmp_path / "root", repository=NAME, absolute_mountpoint=repository, metrics_address=ANY_PORT,
        probe_interval=0.1, deadline=1, **config,
    )  # fmt: skip


def ready(daemon: Daemon) -> tuple[int, str]:
    answer = ask(pages_of(daemon), "/readyz")
    return answer.status, answer.text


# --- pages ---


def test_alive_and_ready(daemon: Daemon) -> None:
    """Both say so in a word; what else is asked for is not there, and which pages are is said."""
    eventually(lambda: ready(daemon) == (200, "ok\n"))
    assert ask(pages_of(daemon), "/healthz").text == "ok\n"
    assert (ask(pages_of(daemon), "/healthz?x=1").status, ask(pages_of(daemon), "/x").status) == (200, 404)
    assert "/readyz" in ask(pages_of(daemon), "/x").text


def test_a_repository_that_is_away(daemon: Daemon, repository: HandMade) -> None:
    """Not ready, with its name and what is wrong, and alive: to start the daemon anew would help nobody."""
    eventually(lambda: ready(daemon)[0] == 200)
    repository.root.rename(repository.root.with_name("away"))
    eventually(lambda: ready(daemon)[0] == 503)
    text = ready(daemon)[1]
    assert text.startswith(f"repository {NAME} is degraded: {repository.layout.layers}: ")
    assert [ask(pages_of(daemon), page).status for page in ("/healthz", "/metrics")] == [200, 200]
    repository.root.with_name("away").rename(repository.root)
    eventually(lambda: ready(daemon)[0] == 200)


@pytest.mark.slow
def test_one_of_several_repositories(tmp_path: Path, repository: HandMade) -> None:
    """A line for each that is away; the healthy ones are not named."""
    tables = "".join(
        f'[[repositories]]\nname = "{name}"\npath = "{path}"\n'
        for name, path in (("a.org", repository.root), ("b.org", tmp_path / "b"), ("c.org", tmp_path / "c"))
    )
    with Daemon(tmp_path / "root", metrics_address=ANY_PORT, probe_interval=0.1, tables=tables) as daemon:
        eventually(lambda: len(ready(daemon)[1].splitlines()) == 2)
        lines = ready(daemon)[1].splitlines()
        assert [line.split()[1] for line in lines] == ["b.org", "c.org"]


@pytest.mark.root
@pytest.mark.fuse
def test_a_repository_that_hangs(tmp_path: Path, repository: HandMade) -> None:
    """Not ready until it answers, also where it hung before the start; every page is answered at once."""
    with standin(repository.root, tmp_path / "cvmfs") as mount:
        mount.process.send_signal(signal.SIGSTOP)
        try:
            with served(tmp_path, mount.mountpoint) as daemon:
                assert ready(daemon) == (503, f"repository {NAME} was not looked at yet\n")
                eventually(lambda: "is open: no answer within 1 s" in ready(daemon)[1])
                for page, status in (("/healthz", 200), ("/metrics", 200), ("/readyz", 503)):
                    began = time.monotonic()
                    assert ask(pages_of(daemon), page).status == status
                    assert time.monotonic() - began < 1
                mount.process.send_signal(signal.SIGCONT)
                eventually(lambda: ready(daemon)[0] == 200)
        finally:
            mount.process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_there_is_no_port_unless_it_is_wanted(tmp_path: Path, repository: HandMade) -> None:
    """Off by default: nothing listens on the network."""
    with Daemon(tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root) as daemon:
        inodes = {os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{daemon.pid}/fd")}
        tables = "".join(Path(f"/proc/{daemon.pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
        listening = {f"socket:[{line.split()[9]}]" for line in tables.splitlines() if " 0A " in line}
        assert inodes & listening == set()
        assert "metrics" not in daemon.log_lines()[0]


@pytest.mark.slow
def test_a_port_that_is_taken(tmp_path: Path, repository: HandMade) -> None:
    """The daemon does not start, and says which key to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refusal(tmp_path / "root", absolute_mountpoint=repository.root, metrics_address=address)
    assert f"metrics-address '{address}': cannot be had (Address already in use)" in said


@pytest.mark.slow
def test_a_host_that_is_none_of_ours(tmp_path: Path, repository: HandMade) -> None:
    """As with a name that nobody knows."""
    said = refusal(tmp_path / "root", absolute_mountpoint=repository.root, metrics_address="192.0.2.1:0")
    assert "metrics-address '192.0.2.1:0': cannot be had" in said


@pytest.mark.slow
def test_clients_that_keep_their_connection(daemon: Daemon) -> None:
    """More than are served, all silent: within seconds each is closed and the page is answered again; the daemon
    keeps no thread for them."""
    host, port = pages_of(daemon).split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        eventually(lambda: answers(daemon), 15)
        for each in silent:
            each.settimeout(15)
            assert each.recv(1) == b""
    finally:
        for each in silent:
            each.close()


def answers(daemon: Daemon) -> bool:
    try:
        return ask(pages_of(daemon), "/healthz").status == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"\r\n", b"GET\r\n\r\n", b"\0" * 70000, b"POST /metrics HTTP/1.1\r\n\r\n"])
def test_what_is_no_request(daemon: Daemon, sent: bytes) -> None:
    """Is answered with an error or not at all, and the next one is served; the log stays JSON."""
    host, port = pages_of(daemon).split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        try:
            assert b"200" not in connection.recv(4096).partition(b"\r\n")[0]
        except ConnectionResetError:
            pass
    assert ask(pages_of(daemon), "/healthz").status == 200
    assert [line for line in daemon.log_lines() if "text" in line] == []


# --- sd_notify ---


@pytest.fixture
def systemd(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    """What systemd gives to a unit with a watchdog of a second and a half."""
    with notify_socket(short_path / "notify") as told:
        monkeypatch.setenv("NOTIFY_SOCKET", told.address)
        monkeypatch.setenv("WATCHDOG_USEC", "1500000")
        yield told


@pytest.mark.slow
def test_what_systemd_is_told(tmp_path: Path, repository: HandMade, systemd: NotifySocket) -> None:
    """Ready when it serves, the repositories' health in a line, the watchdog fed, the reload from its beginning to its
    end, and the end."""
    with served(tmp_path, repository.root) as daemon:
        systemd.wait_for("READY", "1")
        with daemon.client() as client:
            client.prepare("key", "", {})
        systemd.hear("STATUS", f"serving; {NAME} is healthy")
        for _ in range(3):
            systemd.wait_for("WATCHDOG", "1")
        repository.root.rename(repository.root.with_name("away"))
        systemd.wait_for("STATUS", f"repository {NAME} is degraded: ")
        systemd.wait_for("WATCHDOG", "1")
        daemon.signal(signal.SIGHUP)
        assert systemd.wait_for("RELOADING", "1")["MONOTONIC_USEC"].isdecimal()
        systemd.wait_for("READY", "1")
        daemon.signal(signal.SIGTERM)
        systemd.wait_for("STOPPING", "1")
        assert daemon.wait() == 0


@pytest.mark.root
@pytest.mark.fuse
def test_a_hanging_repository_feeds_the_watchdog_all_the_same(
    tmp_path: Path, repository: HandMade, systemd: NotifySocket
) -> None:
    """Also while Prepares hang in it: the service answers."""
    layer = repository.add("base")
    with standin(repository.root, tmp_path / "cvmfs") as mount, served(tmp_path, mount.mountpoint) as daemon:
        mount.process.send_signal(signal.SIGSTOP)
        try:
            with daemon.client() as client:
                threads = [
                    threading.Thread(target=client.prepare, args=(f"k{number}", "", pull(f"t{number}", layer)))
                    for number in range(2 * FEW_WORKERS)
                ]
                for thread in threads:
                    thread.start()
                systemd.wait_for("READY", "1")
                systemd.wait_for("STATUS", f"repository {NAME} is open")
                for _ in range(3):
                    systemd.wait_for("WATCHDOG", "1")
                for thread in threads:
                    thread.join()
        finally:
            mount.process.send_signal(signal.SIGCONT)


def test_without_systemd(tmp_path: Path) -> None:
    """Nothing is said and nothing fails: no socket, one that is gone, a watchdog that is another process's."""
    Notifier().ready()
    Notifier(str(tmp_path / "gone"), 1.0).alive()
    assert Notifier.of_environment({}).watchdog == 0
    assert Notifier.of_environment({"WATCHDOG_USEC": "5000000"}).watchdog == 5
    assert Notifier.of_environment({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}).watchdog == 0
    assert Notifier.of_environment({"WATCHDOG_USEC": "x"}).watchdog == 0


def test_an_abstract_socket_and_a_long_line(tmp_path: Path) -> None:
    """systemd may name an abstract socket; a status is one line."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")
        name = listener.getsockname().decode().replace("\0", "@")
        notifier = Notifier(name, 1.0)
        notifier.status("a\nREADY=1")
        notifier.status("a\nREADY=1")
        notifier.alive()
        assert [listener.recv(100) for _ in range(2)] == [b"STATUS=a READY=1", b"WATCHDOG=1"]


# --- the heart ---


class Service:
    """The health service on a socket, with one thread; it hangs until `stuck` is set, and may fail."""

    def __init__(self, address: Path) -> None:
        self.stuck, self.error = threading.Event(), ""
        self.stuck.set()
        self.server = grpc.server(ThreadPoolExecutor(1))
        self.server.add_generic_rpc_handlers((health_service(self.look),))
        self.server.add_insecure_port(f"unix:{address}")
        self.server.start()

    def look(self) -> None:
        assert self.stuck.wait(30)
        if self.error:
            raise ValueError(self.error)


@pytest.mark.slow
def test_only_an_answer_feeds_the_watchdog(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose threads are all stuck is dead after a while, whatever else the process does; an error is an
    answer; and one answer makes it alive again."""
    monkeypatch.setattr(health, "SILENCE", 0.6)
    service = Service(short_path / "s")
    guarded = GuardedRepository(Repository(NAME, Layout(short_path)))
    with notify_socket(short_path / "notify") as systemd:
        heart = Heart(Pulse(short_path / "s").ask, lambda: [guarded], Notifier(systemd.address, 0.6), beat=0.05)
        heart.start()
        try:
            systemd.wait_for("WATCHDOG", "1")
            assert heart.dead() == []
            service.error = "the database is damaged"
            systemd.drain()
            systemd.wait_for("WATCHDOG", "1")
            service.stuck.clear()
            eventually(heart.dead)
            assert "the snapshots service has not answered for" in heart.dead()[0]
            assert "the snapshots service" in heart.unready()[0]
            systemd.drain()
            time.sleep(0.7)
            with pytest.raises(AssertionError, match="never said WATCHDOG"):
                systemd.wait_for("WATCHDOG", "1", 0.1)
            service.stuck.set()
            systemd.wait_for("WATCHDOG", "1")
            eventually(lambda: not heart.dead())
        finally:
            service.stuck.set()
            heart.stop()
            service.server.stop(0).wait()


def test_other_programs_may_ask_for_the_health(daemon: Daemon) -> None:
    """By the standard method, on containerd's socket; SERVING is the answer."""
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        assert check(b"", timeout=10) == b"\x08\x01"
        named = b"\n\x04some"
        assert check(named, timeout=10) == b"\x08\x01"


def test_a_daemon_that_is_gone_does_not_answer(short_path: Path) -> None:
    """Nor does one that was never there."""
    assert Pulse(short_path / "none").ask(1.0).startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))


def test_a_closed_connection_is_no_answer(short_path: Path) -> None:
    """At the daemon's end its heart may ask once more: that is a sentence, and no traceback."""
    pulse = Pulse(short_path / "none")
    pulse.close()
    assert pulse.ask(1.0) == "the connection is closed"


@pytest.mark.slow
def test_an_address_of_ipv6(tmp_path: Path, repository: HandMade) -> None:
    """In brackets, in the configuration and in the log."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: ::1: {error.strerror}")
    with Daemon(
        tmp_path / "root", repository=NAME, absolute_mountpoint=repository.root, metrics_address="[::1]:0"
    ) as daemon:
        assert pages_of(daemon).startswith("[::1]:")
        assert ask(pages_of(daemon), "/healthz").status == 200
