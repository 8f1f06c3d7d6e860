"""The health of a repository follows from how its calls go, and from nothing else."""

import pytest

from cvmfsrepo.breaker import SLOW, Breaker, Health, State


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(threshold=3, clock=clock)


def state(breaker: Breaker) -> State:
    return breaker.health.state


def hang(breaker: Breaker, *layers: str) -> None:
    for layer in layers:
        breaker.hung("no answer", layer)


def test_healthy_at_first(breaker: Breaker, clock: Clock) -> None:
    """Nothing is known against it, and there is nothing to say."""
    assert breaker.health == Health(State.HEALTHY, clock.now, "")


def test_errors_degrade_and_never_open(breaker: Breaker) -> None:
    """Calls that fail at once cost nobody anything: they are tried as often as anybody asks."""
    for _ in range(100):
        breaker.failed("EIO")
    assert state(breaker) is State.DEGRADED
    assert breaker.health.detail == "EIO"
    breaker.answered()
    assert state(breaker) is State.HEALTHY
    assert breaker.health.detail == ""


def test_hangs_about_several_layers_open(breaker: Breaker) -> None:
    """Two hangs degrade, the third about yet another layer opens."""
    hang(breaker, "a", "b")
    assert state(breaker) is State.DEGRADED
    hang(breaker, "c")
    assert state(breaker) is State.OPEN


def test_one_layer_that_hangs_does_not_open(breaker: Breaker) -> None:
    """However often it is asked for: the fault is the layer's, and the others are served."""
    hang(breaker, *["a"] * 50)
    assert state(breaker) is State.DEGRADED


def test_hangs_about_no_layer_each_count(breaker: Breaker) -> None:
    """Calls that are about nothing in particular are about different things."""
    for _ in range(3):
        breaker.hung("no answer")
    assert state(breaker) is State.OPEN


def test_an_answer_in_between_starts_the_count_again(breaker: Breaker) -> None:
    """Only hangs in a row open."""
    for _ in range(10):
        hang(breaker, "a", "b")
        breaker.answered()
    assert state(breaker) is State.HEALTHY


@pytest.mark.parametrize(("seconds", "expected"), [(SLOW * 0.9, State.DEGRADED), (SLOW, State.OPEN)])
def test_an_error_that_takes_long_is_a_hang(breaker: Breaker, seconds: float, expected: State) -> None:
    """A client that gives up on a silent server after many seconds makes its callers wait as a dead one does."""
    for layer in "abc":
        breaker.failed("EIO", seconds, layer)
    assert state(breaker) is expected


def test_only_a_probe_closes(breaker: Breaker) -> None:
    """A straggler's answer or error is no proof that the next call will have one."""
    hang(breaker, "a", "b", "c")
    breaker.answered()
    breaker.failed("EIO")
    assert state(breaker) is State.OPEN
    breaker.probed("")
    assert state(breaker) is State.HEALTHY


def test_a_probe_with_a_problem_closes_to_degraded(breaker: Breaker) -> None:
    """It was answered: the next calls are, too, be it with errors."""
    hang(breaker, "a", "b", "c")
    breaker.probed(".layers: Input/output error")
    assert (state(breaker), breaker.health.detail) == (State.DEGRADED, ".layers: Input/output error")


def test_old_hangs_do_not_count_after_a_probe(breaker: Breaker) -> None:
    """After it was closed it takes as many hangs as before to open it."""
    hang(breaker, "a", "b", "c")
    breaker.probed("")
    hang(breaker, "a", "b")
    assert state(breaker) is State.DEGRADED


def test_a_probe_without_an_answer_opens(breaker: Breaker) -> None:
    """At once, before any Prepare pays for it."""
    breaker.open_now("no answer within 5 s")
    assert (state(breaker), breaker.health.detail) == (State.OPEN, "no answer within 5 s")


def test_since_is_when_the_state_began(breaker: Breaker, clock: Clock) -> None:
    """Later events in the same state keep the moment, a new state has its own."""
    clock.now = 110.0
    breaker.open_now("first")
    clock.now = 120.0
    breaker.open_now("second")
    hang(breaker, "a")
    assert breaker.health.since == 110.0
    clock.now = 130.0
    breaker.probed("")
    assert breaker.health.since == 130.0
