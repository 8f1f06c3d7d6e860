"""The files of config/ say what is true."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from publisher.registry.settings import RegistrySettings, Settings, parse_settings
from snapshotter.config import Config, RepositoryConfig, load, parse
from snapshotter.policy import Policy
from tests.engines import containerd

CONFIG = Path(__file__).resolve().parents[1] / "config"


def test_every_default_is_the_real_one() -> None:
    """The file changes nothing: its values are those that hold without it."""
    written = load(CONFIG / "config.toml")
    assert msgspec.structs.replace(written, repository=None) == Config()
    assert written.served == Config().served


def test_every_key_is_explained() -> None:
    """No setting is left out, not even those of a table."""
    text = (CONFIG / "config.toml").read_text()
    for kind in (Config, RepositoryConfig, Policy):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"\b{field.encode_name}\b", text), field.encode_name


def test_the_examples_can_be_used() -> None:
    """The commented tables are a configuration when the signs are taken off."""
    lines = (CONFIG / "config.toml").read_text().splitlines()
    examples = [line[2:] for line in lines if re.match(r"# (\[\[|\w[\w-]* = )", line)]
    config = parse("\n".join(examples).encode(), CONFIG / "config.toml")
    assert len(config.repositories) == 2
    assert config.policy[0].miss == "wait"


@pytest.mark.parametrize("name", ["containerd-1.toml", "containerd-2.toml"])
def test_containerd_snippets_say_what_the_engines_are_told(name: str) -> None:
    """Socket and plugin are those of the defaults, and every setting for labels is one that a real engine runs with."""
    snippet = tomllib.loads((CONFIG / name).read_text())
    plugin = snippet["proxy_plugins"][containerd.PROXY]
    assert (plugin["type"], plugin["address"]) == ("snapshot", Config().address)
    engine = containerd.Containerd("2.1" if "2" in name else "1.7", "pause", containerd.Proxy(Path("/s"), Path("/r")))
    run_with = tomllib.loads(engine.configuration())
    engine.directory.rmdir()
    for path, value in _leaves(snippet["plugins"]):
        assert (path, value) in list(_leaves(run_with["plugins"])), path
    assert plugin.get("exports", {}).get("root", Config().root) == Config().root


def _leaves(table: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    if isinstance(table, dict):
        return [leaf for key, value in table.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(table, list):
        return [leaf for value in table for leaf in _leaves(value, path)]
    return [(path, table)]


def test_every_key_of_the_publisher_is_explained_with_its_default() -> None:
    """The file has no table in force, so it changes nothing; each key stands in it with the value that holds without,
    and its examples can be used when the signs are taken off."""
    path = CONFIG / "publisher.toml"
    text = path.read_text()
    assert parse_settings(path.read_bytes(), path) == Settings()
    keys, _, examples = text.partition("# Example")
    defaults = "\n".join(re.findall(r"^# ([a-z-]+ = \S+)$", keys, re.MULTILINE))
    assert set(tomllib.loads(defaults)) == {f.encode_name for f in msgspec.structs.fields(RegistrySettings)}
    written = parse_settings(f'[registries."x.example"]\n{defaults}'.encode(), path).of("x.example")
    assert written == RegistrySettings(plain_http=False)
    used = "\n".join(re.findall(r"^# ((?:\[|[a-z-]+ = ).*)$", examples, re.MULTILINE)).replace("ca = ", "# ca = ")
    assert parse_settings(used.encode(), path).of("docker.io").mirrors == ("harbor.example.org/hub",)
