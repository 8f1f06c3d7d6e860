"""The daemon and a real systemd: started means serving, silent means dead, and a reload is a reload."""

import os
import re
import signal

import pytest

from snapshotter.client import Client
from tests.privilege.booted import Booted, booted
from tests.privilege.test_unit import SOCKET
from tests.privilege.unit import UNIT, settings
from tests.snapshotter.layers import NAME, HandMade
from tests.snapshotter.nodes import eventually
from tests.snapshotter.watching import ask, scrape, value

DROP_IN = UNIT.with_name("cvmfs-snapshotter-metrics.conf")


def shown(node: Booted, *properties: str) -> list[str]:
    """Properties of the unit."""
    said = dict(line.split("=", 1) for line in node.systemctl("show", "-p", ",".join(properties)).splitlines())
    return [said[name] for name in properties]


def test_the_unit_asks_for_it() -> None:
    """containerd starts after the daemon serves, and what does not answer is killed later than a busy one answers."""
    found = settings()
    assert (found["Type"], found["Before"]) == (["notify"], ["containerd.service"])
    assert found["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert float(found["WatchdogSec"][0]) >= 60


@pytest.mark.slow
@pytest.mark.root
def test_its_state_and_its_reload() -> None:
    """Active when it serves, the repositories' health in the status line, and systemctl reload reads the file again,
    or says in the log that it did not, and the daemon is active all the same."""
    with booted(config="probe-interval = 0.2\n") as node:
        HandMade(node.own / "repository")
        eventually(lambda: shown(node, "ActiveState", "StatusText")[1] == f"serving; {NAME} is healthy")
        assert shown(node, "ActiveState", "Type", "NRestarts") == ["active", "notify", "0"]
        (node.own / "repository").rename(node.own / "away")
        eventually(lambda: f"repository {NAME} is degraded" in shown(node, "StatusText")[0])
        file = node.own / "config.toml"
        for more, said in (("index = false\n", '"configuration not reloaded"'), ("", '"configuration reloaded"')):
            file.write_text(f"{more}{file.read_text().removeprefix('index = false' + chr(10))}")
            node.systemctl("reload")
            eventually(lambda said=said: said in node.log())  # type: ignore[misc]
            eventually(lambda: shown(node, "ActiveState", "NRestarts") == ["active", "0"])


@pytest.mark.slow
@pytest.mark.root
def test_a_daemon_that_does_not_answer_is_started_anew() -> None:
    """Within the watchdog's time; the new one serves, and the state is as it was."""
    with booted(drop_in="[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n") as node:
        with Client(node.prefix + SOCKET) as client:
            client.prepare("key", "", {})
        before = node.daemon
        os.kill(before, signal.SIGSTOP)
        eventually(lambda: node.log().count('"msg": "serving"') == 2, 30)
        assert node.daemon != before
        assert shown(node, "ActiveState", "NRestarts") == ["active", "1"]
        with Client(node.prefix + SOCKET) as client:
            assert client.stat("key").name == "key"


@pytest.mark.slow
@pytest.mark.root
def test_the_port_needs_its_drop_in() -> None:
    """Without it the daemon has no network: it refuses to start, and names the key and the page."""
    with booted(config='metrics-address = "127.0.0.1:0"\n', until="metrics-address") as node:
        assert "cannot be had (Address family not supported by protocol)" in node.log()
        assert "docs/metrics.md" in node.log()


@pytest.mark.slow
@pytest.mark.root
def test_the_port_with_its_drop_in() -> None:
    """As it stands in config/: the pages are there, under systemd's sandbox, with nothing left out."""
    with booted(config='metrics-address = "127.0.0.1:0"\nprobe-interval = 0.2\n', drop_in=DROP_IN.read_text()) as node:
        HandMade(node.own / "repository")
        address = re.findall(r'"metrics": "([^"]+)"', node.log())[0]
        eventually(lambda: ask(address, "/readyz").status == 200)
        samples = scrape(address)
        assert value(samples, "scrape_problems") == 0
        assert (value(samples, "process_threads") or 0) > 5
