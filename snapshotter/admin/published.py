"""Whether a repository holds an image: what the index says, or else the repositories themselves.

The index knows since when, and the repositories know sooner. They need no daemon and no privilege, so that a user's
pipeline can ask too.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

from cvmfsrepo.errors import ContractError, NotFound, Unavailable
from cvmfsrepo.guarded import GuardedRepository
from cvmfsrepo.oci import Reference
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Image, Missing
from snapshotter.admin.asking import asked, guarded_repositories
from snapshotter.admin.values import ImageFacts
from snapshotter.config import Config


class Published:
    """Looks for images as often as one likes: calls that hang are not piled up."""

    def __init__(self, config: Config, repositories: list[GuardedRepository]) -> None:
        self._config, self._repositories = config, repositories

    def find(self, reference: str) -> ImageFacts | None:
        """The image, or None where every repository says that it has none. Unavailable where one does not answer and no
        other has it; InvalidArgument where the name is none, DataLoss where its manifest is damaged."""
        parsed = Reference.parse(reference)  # whatever keeps the index from answering, the repositories may
        with contextlib.suppress(ContractError), asked(self._config) as node:
            return node.get_image(reference)
        silent = None
        for repository in self._repositories:
            answer = repository.call(partial(_find, repository, parsed))
            if isinstance(answer, Image):
                return _facts(answer, repository.name)
            if answer.reason is not Reason.ABSENT:
                silent = silent or answer
        if silent:
            raise Unavailable("image", reference, f"cannot be looked for now ({silent.reason}: {silent.detail})")
        return None


@contextlib.contextmanager
def published(config: Config) -> Iterator[Published]:
    """The repositories are probed meanwhile, so that one that hangs is asked again when it answers."""
    repositories = guarded_repositories(config)
    for repository in repositories:
        repository.start_probing()
    try:
        yield Published(config, repositories)
    finally:
        for repository in repositories:
            repository.stop_probing()


def _find(guarded: GuardedRepository, reference: Reference) -> Image | Missing:
    try:
        return guarded.repository.get_image(reference)
    except NotFound:
        return guarded.repository.why_missing(f"image {reference}")


def _facts(image: Image, repository: str) -> ImageFacts:
    layers = tuple(str(layer.digest) for layer in image.manifest.layers)
    return ImageFacts(str(image.reference), repository, str(image.manifest.config.digest), layers=layers)
