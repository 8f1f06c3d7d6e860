"""What a pass shares: connections, tokens, logins; and how a tag is looked up in one request."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, quote

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import ContractError, NotFound, PermissionDenied, Unavailable
from cvmfsrepo.oci import Reference
from publisher.registry.registries import Registries
from publisher.registry.settings import RegistrySettings, Settings
from tests.images.ocilayout import Image
from tests.publisher.registry.standin import Answer, Asked, Standin
from tests.publisher.stub_registry import LOGIN

NAME = "group/image"


def reference(standin: Standin, name: str = f"{NAME}:1") -> Reference:
    return Reference.parse(f"{standin.address}/{name}")


def with_tokens(standin: Standin, lifetime: float = 300) -> None:
    """Nothing is given out without the last token that was given for it."""
    given = dict[str, str]()
    pages = dict(standin.answers)

    def grant(asked: Asked) -> Answer:
        scope = asked.path.partition("scope=")[2]
        given[scope] = f"token{len([one for one in standin.lines if '/token' in one])}"
        return Answer(json.dumps({"token": given[scope], "expires_in": lifetime}).encode())

    def guarded(path: str, page: Answer) -> None:
        repository = path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        scope = quote(f"repository:{repository}:pull", safe="")
        realm = f'Bearer realm="http://{standin.address}/token",service="s"'

        def check(asked: Asked) -> Answer:
            right = scope in given and asked.authorization == f"Bearer {given[scope]}"
            return page if right else Answer(b"{}", 401, {"WWW-Authenticate": realm})

        standin.answers[path] = check
        standin.answers[f"/token?service=s&scope={scope}"] = grant

    for path, page in pages.items():
        assert isinstance(page, Answer)
        guarded(path, page)


def test_connections_are_kept(registry: Standin, image: Image) -> None:
    """Many images, one after another, and their blobs: one connection."""
    with Registries() as registries:
        for _ in range(10):
            assert registries.find_digest(reference(registry)) == Digest.parse(image.manifest)
        registries.blobs(reference(registry)).read_manifest(None)
    assert registry.connections == 1
    assert len(registry.asked) == 11


def test_a_token_is_asked_for_once_a_repository(registry: Standin, image: Image) -> None:
    """Also by several threads at the same time; a repository that comes later is asked with its token at once."""
    registry.serve(image, "group/second")
    with_tokens(registry)
    with Registries() as registries, ThreadPoolExecutor(8) as pool:
        list(pool.map(registries.find_digest, [reference(registry)] * 40))
        assert [line for line in registry.lines if "/token" in line] == [
            "GET /token?service=s&scope=repository%3Agroup%2Fimage%3Apull"
        ]
        registry.asked.clear()
        registries.find_digest(reference(registry, "group/second:1"))
        registries.find_digest(reference(registry, "group/second:1"))
    head = "HEAD /v2/group/second/manifests/1"
    assert registry.lines == ["GET /token?service=s&scope=repository%3Agroup%2Fsecond%3Apull", head, head]


def test_a_token_that_ends_is_asked_for_again(registry: Standin) -> None:
    """Before it is shown, where it says when it ends; after it was refused otherwise."""
    with_tokens(registry, lifetime=0.0001)
    with Registries() as registries:
        registries.find_digest(reference(registry))
        registry.asked.clear()
        registries.find_digest(reference(registry))
    assert [line.split("?")[0] for line in registry.lines] == ["GET /token", "HEAD /v2/group/image/manifests/1"]


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"{}", b'{"token": 3}', b'{"token": "a\\nb"}', '{"token": "é"}'.encode(), b"\xff"]
)
def test_a_token_that_is_none(registry: Standin, content: bytes) -> None:
    """The error names the image and the registry."""
    with_tokens(registry)
    registry.answers["/token?service=s&scope=repository%3Agroup%2Fimage%3Apull"] = Answer(content)
    with Registries() as registries, pytest.raises(ContractError, match="no token") as raised:
        registries.find_digest(reference(registry))
    assert str(reference(registry)) in str(raised.value)


@pytest.mark.parametrize("known", [True, False])
def test_a_login_is_shown_to_the_token_server(registry: Standin, home: Path, known: bool) -> None:
    """And to nobody else; the error says whether there was one."""
    with_tokens(registry)
    grant = "/token?service=s&scope=repository%3Agroup%2Fimage%3Apull"
    if known:
        (home / ".docker").mkdir(parents=True)
        (home / ".docker/config.json").write_text(json.dumps({"auths": {registry.address: {"auth": LOGIN}}}))
    with Registries() as registries:
        registries.find_digest(reference(registry))
    assert {asked.authorization for asked in registry.asked if "/token" in asked.path} == {
        f"Basic {LOGIN}" if known else ""
    }
    assert not [asked for asked in registry.asked if "/v2/" in asked.path and "Basic" in asked.authorization]
    registry.answers[grant] = Answer(b"{}", 401)
    words = "to the login that is known" if known else "to somebody without a login"
    with Registries() as registries, pytest.raises(PermissionDenied, match=words):
        registries.find_digest(reference(registry))


@pytest.mark.parametrize("status", [200, 307])
def test_an_identity_token_is_exchanged(registry: Standin, other: Standin, home: Path, status: int) -> None:
    """By a form that the token server alone gets, also where it would lead elsewhere."""
    with_tokens(registry)
    (home / ".docker").mkdir(parents=True)
    auths = {registry.address: {"auth": LOGIN, "identitytoken": "secret"}}
    (home / ".docker/config.json").write_text(json.dumps({"auths": auths}))

    def exchange(asked: Asked) -> Answer:
        if status == 307:
            return Answer(status=307, headers={"Location": f"http://{other.address}/token"})
        form = dict(parse_qsl(asked.body.decode()))
        assert (form["grant_type"], form["refresh_token"], form["service"]) == ("refresh_token", "secret", "s")
        grant = registry.answers[f"/token?service=s&scope={quote(form['scope'], safe='')}"]
        assert callable(grant)
        return grant(replace(asked, path=f"/token?service=s&scope={quote(form['scope'], safe='')}"))

    registry.answers["POST /token"] = exchange
    with Registries() as registries:
        if status == 200:
            registries.find_digest(reference(registry))
        else:
            with pytest.raises(Unavailable, match="answered 307"):
                registries.find_digest(reference(registry))
    assert {asked.authorization for asked in registry.asked if "/token" in asked.path} == {""}
    assert other.asked == []


def test_netrc_is_not_read(registry: Standin, home: Path) -> None:
    """Logins come from where container tools keep them."""
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login user password word\n")
    (home / ".netrc").chmod(0o600)
    with Registries() as registries:
        registries.find_digest(reference(registry))
    assert [asked.authorization for asked in registry.asked] == [""]


def test_a_registry_sets_no_cookies(registry: Standin) -> None:
    """What one image's answer says is not shown with the next one's request."""
    page = registry.answers["/v2/group/image/manifests/1"]
    assert isinstance(page, Answer)
    registry.answers["/v2/group/image/manifests/1"] = Answer(page.content, 200, {**page.headers, "Set-Cookie": "a=b"})
    with Registries() as registries:
        registries.find_digest(reference(registry))
        registries.find_digest(reference(registry))
    assert [asked.headers.get("Cookie") for asked in registry.asked] == [None, None]


@pytest.mark.parametrize(
    "head",
    [
        Answer(status=405), Answer(status=404), Answer(status=501), Answer(status=200),
        Answer(headers={"Docker-Content-Digest": "md5:0"}), Answer(headers={"Content-Type": "text/html"}),
    ],
)  # fmt: skip
def test_a_head_request_that_says_nothing_of_use(registry: Standin, image: Image, head: Answer) -> None:
    """Then the manifest itself is read."""
    registry.answers["HEAD /v2/group/image/manifests/1"] = head
    with Registries() as registries:
        assert registries.find_digest(reference(registry)) == Digest.parse(image.manifest)
    assert registry.lines == ["HEAD /v2/group/image/manifests/1", "GET /v2/group/image/manifests/1"]


def test_an_image_that_is_not_there(registry: Standin) -> None:
    """The error names image and registry."""
    wanted = reference(registry, "group/image:2")
    with (
        Registries() as registries,
        pytest.raises(NotFound, match=f"{wanted}.*has no manifest 2 in {registry.address}"),
    ):
        registries.find_digest(wanted)


def test_a_connection_that_was_kept_for_too_long(registry: Standin, waits: list[float]) -> None:
    """A registry that hangs up without an answer is asked once more; nobody notices."""
    page = registry.answers["/v2/group/image/manifests/1"]
    assert isinstance(page, Answer)
    dropped = [True]

    def drop_once(asked: Asked) -> Answer:
        if dropped.pop() if dropped else False:
            raise ConnectionAbortedError
        return page

    registry.answers["/v2/group/image/manifests/1"] = drop_once
    with Registries() as registries:
        registries.find_digest(reference(registry))
    assert (len(registry.asked), len(waits)) == (2, 1)


def test_a_rate_is_kept_to(registry: Standin, waits: list[float]) -> None:
    """Four requests at ten a second: the last is to wait for its turn."""
    settings = Settings({registry.address: RegistrySettings(requests_per_second=0.001)})
    with Registries(settings) as registries:
        for _ in range(3):
            registries.find_digest(reference(registry))
    assert [round(wait, -2) for wait in waits] == [1000, 2000]
