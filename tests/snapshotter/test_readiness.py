"""The verdict on an image: what is served, what a pull would download, and what would help most."""

from cvmfsrepo.reasons import Reason
from snapshotter.readiness import EngineVerdict, Look, Saving, WantedLayer, judge

HERE = "unpacked.example.org"


def layers(*described: tuple[str, int, bool]) -> list[tuple[WantedLayer, tuple[Look, ...]]]:
    """(digest, bytes, whether the one repository serves it), base first."""
    looks = {True: Look(HERE, markers=0), False: Look(HERE, str(Reason.ABSENT), "is not published")}
    return [(WantedLayer(digest, size), (looks[served],)) for digest, size, served in described]


def test_an_image_of_served_layers_is_ready() -> None:
    """Nothing is downloaded, and nothing is to be published."""
    verdict = judge(layers(("a", 100, True), ("b", 10, True)))
    assert (verdict.ready, verdict.download_bytes, verdict.total_bytes) == (True, 0, 110)
    assert (verdict.first_missing, verdict.best) == (None, None)
    assert [layer.is_downloaded for layer in verdict.layers] == [False, False]


def test_everything_above_the_first_missing_layer_is_downloaded() -> None:
    """containerd fetches from there on, also what it finds served later; the layers below stay served."""
    verdict = judge(layers(("a", 100, True), ("b", 10, False), ("c", 1, True)))
    assert [layer.is_downloaded for layer in verdict.layers] == [False, True, True]
    assert [layer.served_by for layer in verdict.layers] == [HERE, "", HERE]
    assert (verdict.ready, verdict.download_bytes, verdict.first_missing) == (False, 11, 2)


def test_the_first_missing_layer_is_the_one_to_publish() -> None:
    """It alone saves its own bytes and those of the served layers above it, up to the next missing one; a larger
    layer above it saves nothing as long as it is missing."""
    verdict = judge(layers(("a", 5, False), ("b", 10, True), ("c", 1000, False)))
    assert verdict.best == Saving(1, "a", 15)


def test_a_missing_base_costs_the_whole_image() -> None:
    """So its publication saves all of it."""
    verdict = judge(layers(("a", 5, False), ("b", 1000, True)))
    assert verdict.download_bytes == verdict.total_bytes == 1005
    assert verdict.best == Saving(1, "a", 1005)


def test_a_layer_that_stands_twice_is_counted_once() -> None:
    """A blob is fetched once, and its publication serves it in both places."""
    verdict = judge(layers(("a", 7, False), ("b", 10, True), ("a", 7, False)))
    assert verdict.download_bytes == verdict.total_bytes == 17
    assert verdict.best == Saving(1, "a", 17)


def test_the_first_repository_that_serves_a_layer_is_named() -> None:
    """One that does not answer is no obstacle where another has the layer."""
    looks = (Look("a", str(Reason.TIMEOUT), "no answer"), Look("b"), Look("c"))
    verdict = judge([(WantedLayer("x", 1), looks)])
    assert verdict.ready
    assert verdict.layers[0].served_by == "b"


def test_what_may_be_there_is_not_to_be_published() -> None:
    """Nobody is sent to publish a layer of a repository that does not answer now."""
    away = (Look(HERE, str(Reason.BREAKER_OPEN), "does not answer"),)
    assert judge([(WantedLayer("a", 5), away), *layers(("b", 1, True))]).best is None
    assert judge([(WantedLayer("a", 5), away), *layers(("b", 1, False))]).best is None


def test_a_policy_refuses_only_a_pull_that_would_download() -> None:
    """An image that is ready is not touched by it."""
    assert not judge(layers(("a", 1, True)), refused=True).refused
    assert judge(layers(("a", 1, False)), refused=True).refused


def test_an_engine_that_does_not_ask_downloads_everything() -> None:
    """Though all layers are there."""
    verdict = judge(layers(("a", 1, True), ("b", 2, True)), engine=EngineVerdict("labels are off", ("labels are off",)))
    assert (verdict.ready, verdict.download_bytes) == (False, 3)
    assert verdict.first_missing is None
