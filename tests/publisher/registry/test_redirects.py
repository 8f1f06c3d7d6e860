"""Where a registry leads to: how far it is followed, and with which login. With TLS, authorities and proxies."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from cvmfsrepo.errors import ContractError, DataLoss, PermissionDenied, Unavailable
from cvmfsrepo.oci import Reference, parse_manifest
from publisher.registry.registries import Registries
from publisher.registry.settings import RegistrySettings, Settings
from tests.images.ocilayout import Image
from tests.publisher.crafting import digest
from tests.publisher.publishing import AMD64
from tests.publisher.registry.standin import Answer, Asked, Standin, standing
from tests.publisher.stub_registry import LOGIN


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    """The authority's certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture
def secure(authority: trustme.CA, image: Image) -> Iterator[Standin]:
    """A registry with TLS, whose certificate is of the test's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with standing(Standin(), context) as served:
        served.serve(image)
        yield served


def reading(standin: Standin, **settings: object) -> Registries:
    """Asks a stand-in with these settings."""
    return Registries(Settings({standin.address: RegistrySettings(**settings)}))  # type: ignore[arg-type]


def image_of(standin: Standin) -> Reference:
    return Reference.parse(f"{standin.address}/group/image:1")


def layer(registries: Registries, standin: Standin) -> str:
    source = registries.open(image_of(standin), AMD64)
    with source.open_blob(parse_manifest(source.manifest).layers[0]) as blob:
        return digest(blob.readall() or b"")


def led_to(address: str) -> Answer:
    return Answer(status=307, headers={"Location": address})


def test_no_login_goes_along_to_another_host(registry: Standin, other: Standin, image: Image, home: Path) -> None:
    """A blob that is elsewhere is fetched from there, without the login that the registry saw; on the registry itself a
    redirect keeps it."""
    (home / ".docker").mkdir(parents=True)
    (home / ".docker/config.json").write_text(json.dumps({"auths": {registry.address: {"auth": LOGIN}}}))
    asking = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="r"'})
    path = f"/v2/group/image/blobs/{image.layers[0]}"
    content = registry.answers[path]
    registry.answers[path] = led_to("/here")
    registry.answers["/here"] = led_to(f"http://{other.address}/there?signature=1")
    other.answers["/there?signature=1"] = content
    manifest = registry.answers.pop("/v2/group/image/manifests/1")
    assert isinstance(manifest, Answer)
    registry.answers["/v2/group/image/manifests/1"] = lambda asked: manifest if asked.authorization else asking
    with Registries() as registries:
        assert layer(registries, registry) == image.layers[0]
    assert [asked.authorization for asked in registry.asked if asked.path == "/here"] == [f"Basic {LOGIN}"]
    assert [asked.authorization for asked in other.asked] == [""]


@pytest.mark.parametrize("challenge", ['Bearer realm="http://{}/token",service="s"', 'Basic realm="r"'])
def test_another_host_that_asks_for_a_login(
    registry: Standin, other: Standin, image: Image, home: Path, challenge: str
) -> None:
    """It is not told the one of the registry that led to it, nor is its token server; the image is not given out."""
    (home / ".docker").mkdir(parents=True)
    (home / ".docker/config.json").write_text(json.dumps({"auths": {registry.address: {"auth": LOGIN}}}))
    registry.answers[f"/v2/group/image/blobs/{image.layers[0]}"] = led_to(f"http://{other.address}/there")
    asking = {"WWW-Authenticate": challenge.format(other.address)}
    other.answers = {"/there": Answer(b"{}", 401, asking), "/token": Answer(b'{"token": "t"}')}
    with Registries() as registries, pytest.raises(PermissionDenied, match="401"):
        layer(registries, registry)
    assert [(asked.path, asked.authorization) for asked in other.asked] == [("/there", "")]


def test_a_redirect_in_a_circle(registry: Standin) -> None:
    """It ends, and the error says where."""
    registry.answers["/v2/group/image/manifests/1"] = led_to("/v2/group/image/manifests/1")
    with Registries() as registries, pytest.raises(Unavailable, match="more than 5 redirects"):
        registries.find_digest(image_of(registry))
    assert len(registry.asked) == 5


@pytest.mark.parametrize(
    "place", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "http://[", "http://a:b/", "http://\xe9..é/"]
)
def test_a_redirect_to_what_is_no_registry(registry: Standin, place: str) -> None:
    """It is not followed."""
    registry.answers["/v2/group/image/manifests/1"] = led_to(place)
    with Registries() as registries, pytest.raises(ContractError):
        registries.find_digest(image_of(registry))


def test_a_certificate_of_nobody_we_know(secure: Standin) -> None:
    """It is refused, and the error says so."""
    with reading(secure, plain_http=False) as registries, pytest.raises(Unavailable, match="certificate"):
        registries.find_digest(image_of(secure))


def test_a_certificate_of_an_authority_that_is_named(secure: Standin, ca: str, image: Image) -> None:
    """For this registry."""
    with reading(secure, plain_http=False, ca=ca) as registries:
        assert layer(registries, secure) == image.layers[0]


def test_an_authority_that_is_renewed(secure: Standin, authority: trustme.CA, tmp_path: Path) -> None:
    """Counts from the next pass on: what runs for months reads the file again."""
    path = tmp_path / "renewed.pem"
    trustme.CA().cert_pem.write_to_path(path)
    with reading(secure, plain_http=False, ca=str(path)) as registries, pytest.raises(Unavailable, match="certificate"):
        registries.find_digest(image_of(secure))
    authority.cert_pem.write_to_path(path)
    with reading(secure, plain_http=False, ca=str(path)) as registries:
        registries.find_digest(image_of(secure))


def test_an_authority_counts_for_its_registry_only(secure: Standin, registry: Standin, ca: str) -> None:
    """Another registry with such a certificate is not believed."""
    settings = {registry.address: RegistrySettings(ca=ca), secure.address: RegistrySettings(plain_http=False)}
    with Registries(Settings(settings)) as registries:
        registries.find_digest(image_of(registry))
        with pytest.raises(Unavailable, match="certificate"):
            registries.find_digest(image_of(secure))


def test_from_tls_nothing_leads_to_plain_http(secure: Standin, other: Standin, ca: str, image: Image) -> None:
    """Neither a redirect nor a token server."""
    other.serve(image)
    secure.answers["/v2/group/image/manifests/1"] = led_to(f"http://{other.address}/v2/group/image/manifests/1")
    with reading(secure, plain_http=False, ca=ca) as registries:
        with pytest.raises(Unavailable, match=r"a redirect from https to .http:.* is not followed"):
            registries.find_digest(image_of(secure))
        realm = f'Bearer realm="http://{other.address}/token",service="s"'
        secure.answers["/v2/group/image/manifests/1"] = Answer(b"{}", 401, {"WWW-Authenticate": realm})
        with pytest.raises(DataLoss, match="token server that is not asked"):
            registries.find_digest(image_of(secure))
        secure.answers["/v2/group/image/manifests/1"] = Answer(
            b"{}", 401, {"WWW-Authenticate": 'Bearer realm="http://["'}
        )
        with pytest.raises(DataLoss, match="token server that is not asked"):
            registries.find_digest(image_of(secure))
    assert other.asked == []


@pytest.fixture
def proxy(image: Image) -> Iterator[Standin]:
    """A proxy, which is asked for whole addresses; behind it is `registry.invalid`."""
    with standing(Standin()) as served:
        inside = Standin()
        inside.serve(image)
        served.answers = {f"http://registry.invalid{path}": answer for path, answer in inside.answers.items()}
        yield served


BEHIND = Reference.parse("registry.invalid/group/image:1")


def test_a_proxy_of_a_registry(proxy: Standin, image: Image) -> None:
    """All of it goes by the proxy, whatever the environment says."""
    settings = RegistrySettings(proxy=f"http://{proxy.address}", plain_http=True)
    with Registries(Settings({"registry.invalid": settings})) as registries:
        assert digest(registries.open(BEHIND, AMD64).manifest) == image.manifest
    assert len(proxy.asked) == 2


def test_a_proxy_of_the_environment(
    proxy: Standin, registry: Standin, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY, but for NO_PROXY and for this machine's loopback."""
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    with Registries(plain=["registry.invalid"]) as registries:
        assert digest(registries.open(BEHIND, AMD64).manifest) == image.manifest
        before = len(proxy.asked)
        registries.find_digest(image_of(registry))
        monkeypatch.setenv("no_proxy", ".invalid")
        with pytest.raises(Unavailable):
            registries.find_digest(BEHIND)
    assert len(proxy.asked) == before


def test_a_proxy_before_tls(secure: Standin, ca: str) -> None:
    """The proxy is asked for a tunnel; where it refuses, nothing goes past it."""
    refused = list[str]()

    def refuse(asked: Asked) -> Answer:
        refused.append(asked.path)
        return Answer(status=403)

    with standing(Standin(answers={secure.address: refuse})) as proxy:
        registries = reading(secure, plain_http=False, ca=ca, proxy=f"http://{proxy.address}")
        with registries, pytest.raises(Unavailable):
            registries.find_digest(image_of(secure))
    assert refused == [secure.address]
    assert secure.asked == []
