"""containerd's own snapshotter test suite, in Go and through a real proxy client, against our daemon.

The same suite runs over containerd's overlayfs behind the same kind of socket, to show that it passes where it should,
and over copies of it with a planted fault, to show that it fails where it should.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import build
from tests.peers.suite import TESTS, Outcome, parse_output, run_suite

pytestmark = [pytest.mark.engine, pytest.mark.root]


def serve_ours(directory: Path) -> list[str]:
    """Our daemon with a repository that is away: the suite asks for no published layer."""
    settings = directory / "config.toml"
    settings.write_text(f'repository = "unpacked.example.org"\nabsolute-mountpoint = "{directory}/repository"\n')
    program = Path(sys.executable).with_name("cvmfs-snapshotter")
    return [str(program), "serve", "--config", str(settings), "--root", "$ROOT", "--address", "$ADDR"]


def user_namespace_problem() -> str:
    """Why a process cannot have a user namespace here, or nothing."""
    done = subprocess.run(["unshare", "--user", "true"], capture_output=True, text=True)
    return f"no user namespaces here: {done.stderr.strip()}" if done.returncode else ""


@pytest.fixture(scope="module", params=["host", "user-namespace"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """One run of the whole suite over our daemon, which is in the host's user namespace or in one of its own."""
    inside = request.param == "user-namespace"
    if inside and (problem := user_namespace_problem()):
        pytest.skip(problem)
    return run_suite(serve_ours(tmp_path_factory.mktemp("c")), tmp_path_factory.mktemp("s"), inside)


@pytest.mark.parametrize("name", TESTS)
def test_our_daemon(outcomes: dict[str, Outcome], name: str) -> None:
    """The test of that name passes; the one that containerd skips for every snapshotter is skipped."""
    outcome = outcomes[name]
    if outcome.result == "SKIP":
        pytest.skip(f"containerd's suite skips it: {outcome.output.strip()}")
    assert outcome.result == "PASS", outcome.output


def test_no_test_of_the_suite_is_unknown(outcomes: dict[str, Outcome]) -> None:
    """The tests that ran are the ones listed: none is left out."""
    assert sorted(outcomes) == sorted(TESTS)


def test_overlayfs_passes(short_path: Path) -> None:
    """The suite passes over containerd's own snapshotter through the same harness."""
    found = run_suite([str(build.program(build.OVERLAY))], short_path)
    assert {name: outcome.output for name, outcome in found.items() if outcome.result == "FAIL"} == {}
    assert sorted(found) == sorted(TESTS)


@pytest.mark.parametrize(
    ("fault", "noticed_by"),
    [("view-rw", "ViewReadonly"), ("walk-nofilter", "Walk"), ("remove-ok", "Basic")],
)
def test_a_fault_is_noticed(short_path: Path, fault: str, noticed_by: str) -> None:
    """A snapshotter with one planted fault fails the test that is about it."""
    found = run_suite([str(build.program(build.OVERLAY)), "-mutant", fault], short_path)
    assert found[noticed_by].result == "FAIL"


def test_the_user_namespace_is_real(short_path: Path) -> None:
    """A server that is asked for in a user namespace sees the ids that it was given and no others."""
    if problem := user_namespace_problem():
        pytest.skip(problem)
    found = run_suite(["sh", "-c", "cat /proc/self/uid_map; exit 1"], short_path, user_namespace=True)
    assert found["Basic"].result == "FAIL"
    assert "0          0      65536" in found["Basic"].output


def test_output_of_tests_side_by_side_is_told_apart() -> None:
    """What a test said is given with that test, though another one spoke in between."""
    found = parse_output(
        "=== RUN   TestSuite/A\n=== PAUSE TestSuite/A\n=== RUN   TestSuite/B\n=== CONT  TestSuite/B\n    x.go:1: one\n"
        "=== CONT  TestSuite/A\n    x.go:2: two\n=== CONT  TestSuite/B\n    x.go:3: three\n"
        "    --- FAIL: TestSuite/B (0.01s)\n    --- PASS: TestSuite/A (0.02s)\nFAIL\n"
    )
    assert found["B"] == Outcome("FAIL", "    x.go:1: one\n    x.go:3: three")
    assert found["A"].result == "PASS"
    assert "two" in found["A"].output
