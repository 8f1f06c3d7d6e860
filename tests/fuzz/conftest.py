"""A repository and a snapshotter as the tests of the node have them."""

from tests.snapshotter.conftest import config, repository, verbs

__all__ = ["config", "repository", "verbs"]
