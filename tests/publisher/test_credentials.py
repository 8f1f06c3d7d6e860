"""Logins are found where podman, skopeo, docker and DUCC keep them."""

import base64
import json
from pathlib import Path

import pytest

from cvmfsrepo.errors import DataLoss
from publisher.registry.credentials import find_login


def login(word: str) -> str:
    return base64.b64encode(f"user:{word}".encode()).decode()


def write(path: Path, **logins: str) -> None:
    """An auth file; names of keys have `__` for a slash and `_` for a dot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    auths = {key.replace("__", "/").replace("_", "."): {"auth": login(word)} for key, word in logins.items()}
    path.write_text(json.dumps({"auths": auths, "credsStore": "ignored"}))


def find(home: Path, image: str = "registry.example/group/image", **environment: str) -> str | None:
    registry, _, repository = image.partition("/")
    found = find_login(registry, repository, environment, home)
    return base64.b64decode(found.basic).decode().partition(":")[2] if found else None


def test_the_order_of_places(tmp_path: Path) -> None:
    """DUCC's environment, the file that is named, the session's, the user's, docker's; each is taken where those before
    it have none."""
    home = tmp_path / "home"
    assert find(home) is None
    write(home / ".docker/config.json", registry_example="docker")
    assert find(home) == "docker"
    write(home / ".config/containers/auth.json", registry_example="user")
    assert find(home) == "user"
    write(tmp_path / "run/containers/auth.json", registry_example="session")
    run = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert find(home, **run) == "session"
    write(tmp_path / "named.json", registry_example="named")
    named = {**run, "REGISTRY_AUTH_FILE": str(tmp_path / "named.json")}
    assert find(home, **named) == "named"
    ducc = {"DUCC_AUTH_REGISTRIES": "A,HERE", "DUCC_HERE_IDENT": "https://registry.example", "DUCC_HERE_USER": "u"}
    assert find(home, **named, **ducc, DUCC_HERE_PASS="ducc") == "ducc"


def test_the_most_exact_key_counts(tmp_path: Path) -> None:
    """A group of a registry may have a login of its own."""
    path = tmp_path / "auth.json"
    write(path, registry_example="all", registry_example__group="group", registry_example__group__other="other")
    named = {"REGISTRY_AUTH_FILE": str(path)}
    assert find(tmp_path, "registry.example/group/image", **named) == "group"
    assert find(tmp_path, "registry.example/group/other", **named) == "other"
    assert find(tmp_path, "registry.example/groups/image", **named) == "all"
    assert find(tmp_path, "other.example/group/image", **named) is None


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_has_several_names(tmp_path: Path, key: str) -> None:
    """Whichever docker wrote."""
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {key: {"auth": login("hub")}}}))
    assert find(tmp_path, "docker.io/library/debian", REGISTRY_AUTH_FILE=str(path)) == "hub"


def test_an_identity_token_counts_for_the_password(tmp_path: Path) -> None:
    """docker keeps the name beside it, which is of no use then."""
    path = tmp_path / "auth.json"
    entry = {"auth": base64.b64encode(b"0000:").decode(), "identitytoken": "secret"}
    path.write_text(json.dumps({"auths": {"registry.example": entry, "other.example": {"identitytoken": "only"}}}))
    for registry, token in (("registry.example", "secret"), ("other.example", "only")):
        found = find_login(registry, "image", {"REGISTRY_AUTH_FILE": str(path)}, tmp_path)
        assert found
        assert (found.identity, found.authorization) == (token, None)


@pytest.mark.parametrize("text", ["{", '{"auths": []}', '{"auths": {"registry.example": {"auth": "%%%"}}}', "\xff"])
def test_a_file_that_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    """To go on without it would only look like a wrong password."""
    path = tmp_path / "auth.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataLoss, match=r"auth\.json"):
        find(tmp_path, REGISTRY_AUTH_FILE=str(path))


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    """As a container gets one for a file that is not there: the image's error, and not that of a whole pass."""
    (tmp_path / "auth.json").mkdir()
    with pytest.raises(DataLoss, match=r"auth\.json': cannot be read: Is a directory"):
        find(tmp_path, REGISTRY_AUTH_FILE=str(tmp_path / "auth.json"))


def test_entries_without_a_login_are_passed_over(tmp_path: Path) -> None:
    """docker leaves such where a helper has the password."""
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {"registry.example": {}}, "credHelpers": {"registry.example": "x"}}))
    assert find(tmp_path, REGISTRY_AUTH_FILE=str(path)) is None
