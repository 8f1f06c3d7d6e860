"""Who says what an image is, and what happens when nobody does."""

import time
from pathlib import Path

import pytest

from cvmfsrepo.digest import Digest
from cvmfsrepo.errors import InvalidArgument, NotFound, Unavailable
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.layout import Layout
from cvmfsrepo.oci import Reference
from cvmfsrepo.repository import Repository
from snapshotter.cli.resolving import resolve
from tests.cli.imagecommands import HERE, NAME, image, repository
from tests.publisher.stub_registry import stub_registry

pytestmark = pytest.mark.root
AMD64 = "linux/amd64"


def opened(root: Path, name: str = HERE) -> GuardedRepository:
    return GuardedRepository(Repository(name, Layout(root)), 2.0)


def test_a_repository_knows_manifest_digest_and_config(tmp_path: Path) -> None:
    """As they were published, byte for byte."""
    published = image(tmp_path / "layout")
    found = resolve(NAME, [opened(repository(tmp_path / "r", published))], AMD64, "repository")
    assert found.digest == Digest.parse(published.manifest)
    assert found.config == published.blob(published.config).read_bytes()
    assert tuple(map(str, found.diff_ids)) == published.diff_ids
    assert (found.platform, found.notes) == (AMD64, ())


def test_docker_before_a_reference_changes_nothing(tmp_path: Path) -> None:
    """It is how other tools write it."""
    served = [opened(repository(tmp_path / "r", image(tmp_path / "layout")))]
    assert resolve(f"docker://{NAME}", served, AMD64, "repository").name == NAME


@pytest.mark.slow
def test_a_registry_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    """After so many seconds; then the repository's manifest is taken."""
    published = image(tmp_path / "layout")
    with stub_registry(published) as registry:
        registry.behaviour.hold_after = 1
        name = registry.source.removeprefix("docker://")
        served = [opened(repository(tmp_path / "r", published, name=name))]
        began = time.monotonic()
        found = resolve(name, served, AMD64, seconds=0.5)
        assert time.monotonic() - began < 5
        assert "was not told about within 0.5 s" in found.notes[0]
        with pytest.raises(Unavailable):
            resolve(name, served, AMD64, "registry", seconds=0.5)


def test_a_damaged_manifest_is_passed_over_and_said(tmp_path: Path) -> None:
    """Another repository may have a whole one; if none has, it cannot be told."""
    published = image(tmp_path / "layout")
    bad, good = (repository(tmp_path / name, published) for name in ("bad", "good"))
    Layout(bad).manifest_json(Reference.parse(NAME)).write_bytes(b"{")
    found = resolve(NAME, [opened(bad, "bad"), opened(good, "good")], AMD64, "repository")
    assert found.origin == "the repository good"
    assert "bad" in found.notes[0]
    with pytest.raises(Unavailable):
        resolve(NAME, [opened(bad, "bad")], AMD64, "repository")


def test_absent_and_away_are_different_errors(tmp_path: Path) -> None:
    """NotFound only where every repository answered."""
    served = opened(repository(tmp_path / "r", image(tmp_path / "layout")))
    with pytest.raises(NotFound):
        resolve("registry.example.org/no/such:1", [served], AMD64, "repository")
    with pytest.raises(Unavailable):
        resolve("registry.example.org/no/such:1", [served, opened(tmp_path / "away")], AMD64, "repository")
    with pytest.raises(InvalidArgument):
        resolve("No Reference", [served], AMD64)
