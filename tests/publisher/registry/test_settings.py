"""What an operator writes about registries is checked whole, with the file and the key in the error."""

from pathlib import Path

import pytest
import trustme

from cvmfsrepo.errors import InvalidArgument
from publisher.registry.settings import RegistrySettings, Settings, load_settings, parse_settings

FILE = Path("/etc/x.toml")


def test_every_key(tmp_path: Path) -> None:
    """As the file of the project has them."""
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    text = f"""
        [registries."docker.io"]
        mirrors = ["mirror.example.org:5000", "harbor.example.org/hub/of"]
        ca = "{authority}"
        proxy = "http://user:word@proxy.example.org:3128"
        plain-http = false
        requests-per-second = 2.5
        [registries."127.0.0.1:5000"]
        """
    settings = parse_settings(text.encode(), FILE)
    assert settings.of("docker.io") == RegistrySettings(
        mirrors=("mirror.example.org:5000", "harbor.example.org/hub/of"), ca=str(authority),
        proxy="http://user:word@proxy.example.org:3128", plain_http=False, requests_per_second=2.5,
    )  # fmt: skip
    assert settings.of("127.0.0.1:5000") == settings.of("registry.example") == RegistrySettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x =", "is not TOML"),
        ("\udcff", "is not TOML"),
        ("registry = 1", "unknown key 'registry': known is registries"),
        ("registries = 1", "registries is no table"),
        ("registries.x = 1", "registries.'x': Expected `object`"),
        ("[registries.x.example]", "unknown field `example`"),
        ('[registries."x.example"]\nmirror = []', "registries.'x.example'.*unknown field `mirror`"),
        ('[registries."x.example"]\nmirrors = "y.example"', r"\$.mirrors"),
        ('[registries."x.example"]\nmirrors = ["https://y.example"]', "mirrors: 'https://y.example' is no HOST"),
        ('[registries."x.example"]\nmirrors = ["Y"]', "mirrors: 'Y' is no HOST"),
        ('[registries."https://x.example"]', "the name 'https://x.example' is no HOST"),
        ('[registries."x.example/y"]', "the name 'x.example/y' is no HOST"),
        ('[registries."x.example"]\nproxy = "proxy:3128"', "proxy 'proxy:3128' is no http://HOST:PORT"),
        ('[registries."x.example"]\nproxy = "http://"', "proxy"),
        ('[registries."x.example"]\nproxy = "http://[proxy:3128"', "proxy"),
        ('[registries."x.example"]\nrequests-per-second = -1', "requests-per-second -1.0 is not from 0"),
        ('[registries."x.example"]\nrequests-per-second = inf', "registries.'x.example'"),
        ('[registries."x.example"]\nplain-http = "no"', r"\$.plain-http"),
        ('[registries."x.example"]\nca = "/nowhere/ca.pem"', "ca '/nowhere/ca.pem' cannot be used: No such file"),
        ('[registries."x.example"]\nca = "/etc/hostname"', "ca '/etc/hostname' cannot be used"),
    ],
)  # fmt: skip
def test_what_can_never_work(text: str, words: str) -> None:
    """The error names the file, the registry and the key."""
    with pytest.raises(InvalidArgument, match=words) as raised:
        parse_settings(text.encode(errors="surrogateescape"), FILE)
    assert str(FILE) in str(raised.value)


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    """The usual one need not."""
    with pytest.raises(InvalidArgument, match="is not there"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        load_settings(tmp_path)
    (tmp_path / "empty.toml").touch()
    assert load_settings(tmp_path / "empty.toml") == Settings()
