"""Programs that keep logins are asked as docker asks them; what goes wrong with one is a warning."""

import base64
import json
from pathlib import Path

import pytest

from publisher.registry.credentials import find_login

GOOD = 'read server; echo "{\\"ServerURL\\": \\"$server\\", \\"Username\\": \\"u\\", \\"Secret\\": \\"of $server\\"}"'


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs, the first that is looked into."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def write(programs: Path, name: str, body: str) -> None:
    path = programs / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def found(home: Path, registry: str, **file: object) -> str | None:
    (home / ".docker").mkdir(parents=True, exist_ok=True)
    (home / ".docker/config.json").write_text(json.dumps(file))
    login = find_login(registry, "group/image", {}, home)
    return login.identity or base64.b64decode(login.basic).decode() if login else None


def test_a_program_for_a_registry(tmp_path: Path, programs: Path) -> None:
    """And none for others; a login that stands in the file itself comes first."""
    write(programs, "kept", GOOD)
    helpers = {"registry.example": "kept"}
    assert found(tmp_path, "registry.example", credHelpers=helpers) == "u:of registry.example"
    assert found(tmp_path, "other.example", credHelpers=helpers) is None
    auth = {"registry.example": {"auth": base64.b64encode(b"a:b").decode()}}
    assert found(tmp_path, "registry.example", credHelpers=helpers, auths=auth) == "a:b"


def test_a_program_for_all(tmp_path: Path, programs: Path) -> None:
    """Docker Hub has the name there that docker gave it."""
    write(programs, "all", GOOD)
    assert found(tmp_path, "registry.example", credsStore="all") == "u:of registry.example"
    assert found(tmp_path, "docker.io", credsStore="all") == "u:of https://index.docker.io/v1/"


def test_a_program_with_an_identity_token(tmp_path: Path, programs: Path) -> None:
    """Its name says what it is."""
    write(programs, "cloud", """echo '{"Username": "<token>", "Secret": "secret"}'""")
    assert found(tmp_path, "registry.example", credsStore="cloud") == "secret"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo credentials not found in native keychain; exit 1", ""),
        ("echo locked >&2; exit 2", "locked"),
        ("echo nonsense", "nothing of use"),
        ("echo '{}'", "nothing of use"),
        (None, "cannot be asked"),
    ],
)
def test_a_program_that_gives_nothing(
    tmp_path: Path, programs: Path, caplog: pytest.LogCaptureFixture, body: str | None, words: str
) -> None:
    """A warning says why, but for one that just knows no login."""
    if body:
        write(programs, "odd", body)
    assert found(tmp_path, "registry.example", credsStore="odd") is None
    assert [words in record.getMessage() for record in caplog.records] == ([True] if words else [])


def test_a_name_that_leads_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is not run."""
    assert found(tmp_path, "registry.example", credsStore="x/../../evil") is None
    assert "no name of a program" in caplog.text
