"""Behind its guard a repository always answers in time, and what it did before is forgotten when it is well again."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cvmfsrepo.access import Access
from cvmfsrepo.breaker import State
from cvmfsrepo.digest import Digest
from cvmfsrepo.guarded import GuardedRepository, mount_of
from cvmfsrepo.layout import Layout
from cvmfsrepo.reasons import Reason
from cvmfsrepo.repository import Layer, Missing, Repository
from tests import mounting

SHORT, LONG = 0.1, 10.0
NAME = "unpacked.example.org"


def digest(word: str) -> Digest:
    return Digest.of(word.encode())


@dataclass(frozen=True)
class Held(Repository):
    """A repository that holds calls about some layers until they are let go."""

    holding: dict[Digest, threading.Event] = field(default_factory=dict, kw_only=True)
    asked: list[Digest] = field(default_factory=list, kw_only=True)

    def find_layer(self, digest: Digest) -> Layer | Missing:
        self.asked.append(digest)
        if digest in self.holding:
            assert self.holding[digest].wait(3 * LONG), "nobody let it go"
        return Layer(digest, self.layout.layerfs(digest))


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Held]:
    (tmp_path / ".layers").mkdir()
    repository = Held(NAME, Layout(tmp_path))
    yield repository
    for event in list(repository.holding.values()):
        event.set()


@pytest.fixture
def guarded(repository: Held) -> GuardedRepository:
    """Without its prober."""
    return GuardedRepository(repository, SHORT, LONG)


@contextmanager
def probing(repository: Repository, deadline: float = SHORT, interval: float = SHORT) -> Iterator[GuardedRepository]:
    guarded = GuardedRepository(repository, deadline, interval)
    guarded.start_probing()
    try:
        yield guarded
    finally:
        guarded.stop_probing()


def hold(repository: Held, *words: str) -> None:
    repository.holding.update({digest(word): threading.Event() for word in words})


def let_go(repository: Held) -> None:
    for layer in list(repository.holding):
        repository.holding.pop(layer).set()


def find(guarded: GuardedRepository, word: str) -> Layer | Missing:
    return guarded.call(lambda: guarded.repository.find_layer(digest(word)), digest(word))


def state(guarded: GuardedRepository) -> State:
    return guarded.health.state


def reason(found: Layer | Missing | None) -> Reason | None:
    return found.reason if isinstance(found, Missing) else None


def soon(holds: Callable[[], object], seconds: float = LONG) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(holds())


def all_at_once(guarded: GuardedRepository, words: list[str]) -> list[Layer | Missing]:
    """Calls about several layers at one time, and their answers."""
    answers = list[Layer | Missing]()
    callers = [threading.Thread(target=lambda word=word: answers.append(find(guarded, word))) for word in words]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return answers


def test_a_call_that_hangs_is_answered_at_the_deadline(repository: Held, guarded: GuardedRepository) -> None:
    """With `timeout`, and the repository is degraded; nothing is raised."""
    hold(repository, "a")
    began = time.monotonic()
    found = find(guarded, "a")
    assert SHORT <= time.monotonic() - began < LONG
    assert found == Missing(Reason.TIMEOUT, f"repository {NAME}: no answer within 0.1 s")
    assert state(guarded) is State.DEGRADED


def test_several_calls_share_what_is_left_of_a_deadline(repository: Held, guarded: GuardedRepository) -> None:
    """A moment to give up is kept, however late the call begins."""
    hold(repository, "a")
    began = time.monotonic()
    found = guarded.call(lambda: repository.find_layer(digest("a")), digest("a"), began + SHORT / 5)
    assert reason(found) is Reason.TIMEOUT
    assert time.monotonic() - began < SHORT


def test_a_layer_that_hangs_is_asked_for_once(repository: Held, guarded: GuardedRepository) -> None:
    """While a look at it hangs others about it are answered at once and take no thread; other layers are served."""
    hold(repository, "a")
    for _ in range(20):
        assert reason(find(guarded, "a")) is Reason.TIMEOUT
    assert reason(guarded.find_unreadable([digest("a")])) is Reason.TIMEOUT
    assert repository.asked == [digest("a")]
    assert isinstance(find(guarded, "b"), Layer)
    assert state(guarded) is State.HEALTHY
    let_go(repository)
    assert soon(lambda: isinstance(find(guarded, "a"), Layer))


def test_a_layer_whose_look_never_began_is_not_held_against_it(repository: Held) -> None:
    """More calls hang than there are threads: the rest never touch the repository, so when it is back each of them is
    answered, without a restart."""
    guarded = GuardedRepository(repository, SHORT, LONG)
    words = [f"{number}" for number in range(64)]
    hold(repository, *words)
    assert {reason(answer) for answer in all_at_once(guarded, words)} <= {Reason.TIMEOUT, Reason.BREAKER_OPEN}
    assert len(repository.asked) < len(words)
    let_go(repository)
    guarded._breaker.probed("")
    assert soon(lambda: all(isinstance(find(guarded, word), Layer) for word in words))


def test_an_answer_at_the_very_deadline_leaves_no_suspicion(repository: Held) -> None:
    """Whichever comes first, the end of the wait or the answer: afterwards the layer is served."""
    guarded = GuardedRepository(repository, LONG, LONG)
    for number in range(200):
        word = f"{number}"
        guarded.call(lambda: time.sleep(0.002), digest(word), time.monotonic() + 0.002)
        guarded._breaker.probed("")
        assert soon(lambda word=word: isinstance(find(guarded, word), Layer), 1.0), f"layer {number} is lost"  # type: ignore[misc]


def test_a_crowd_is_no_hang(repository: Held) -> None:
    """Calls that found no free thread in time say so, and say nothing against a repository that is busy answering."""
    guarded = GuardedRepository(repository, 0.3, LONG)

    def look(word: str) -> Layer | Missing:
        time.sleep(0.2)
        return repository.find_layer(digest(word))

    def slowly(word: str) -> Layer | Missing:
        return guarded.call(lambda: look(word), digest(word))

    answers = list[Layer | Missing]()
    callers = [threading.Thread(target=lambda word=f"{n}": answers.append(slowly(word))) for n in range(64)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    crowded = [answer for answer in answers if isinstance(answer, Missing) and "too many calls" in answer.detail]
    assert crowded
    assert state(guarded) is not State.OPEN


def test_hangs_about_several_layers_open_and_then_nothing_waits(repository: Held, guarded: GuardedRepository) -> None:
    """`breaker-open`, with since when and why; neither a call nor a look at ancestors touches the repository."""
    hold(repository, "a", "b", "c")
    for word in "abc":
        find(guarded, word)
    asked, began = len(repository.asked), time.monotonic()
    for number in range(1000):
        assert reason(find(guarded, f"{number}")) is Reason.BREAKER_OPEN
    assert reason(guarded.find_unreadable([digest("x")])) is Reason.BREAKER_OPEN
    assert time.monotonic() - began < 1000 * SHORT / 10
    assert len(repository.asked) == asked
    found = find(guarded, "x")
    assert isinstance(found, Missing)
    assert "has not answered for 0 s (no answer within 0.1 s); it is probed all the time" in found.detail


def test_errors_have_their_reason_and_are_tried_again(guarded: GuardedRepository) -> None:
    """An error of the file system degrades the repository; the next answer makes it healthy."""

    def fail() -> Missing:
        raise OSError(5, "Input/output error")

    for _ in range(10):
        assert reason(guarded.call(fail)) is Reason.IO_ERROR
    assert state(guarded) is State.DEGRADED
    assert isinstance(find(guarded, "a"), Layer)
    assert state(guarded) is State.HEALTHY


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Reason.ABSENT, State.HEALTHY),
        (Reason.MARKERS_UNAVAILABLE, State.HEALTHY),
        (Reason.UNMOUNTED, State.DEGRADED),
        (Reason.STALE, State.DEGRADED),
    ],
)
def test_what_an_answer_says_of_the_repository(guarded: GuardedRepository, why: Reason, expected: State) -> None:
    """That there is no such layer is an answer as good as any."""
    assert reason(guarded.call(lambda: Missing(why, "x"))) is why
    assert state(guarded) is expected


def test_ancestors_share_one_deadline(repository: Held, guarded: GuardedRepository) -> None:
    """All are looked at side by side; one that hangs is the answer, and the readable ones are noted."""
    words = [f"{number}" for number in range(10)]
    hold(repository, "3")
    began = time.monotonic()
    missing = guarded.find_unreadable(map(digest, words))
    assert time.monotonic() - began < 5 * SHORT
    assert reason(missing) is Reason.TIMEOUT
    assert guarded.find_unreadable(digest(word) for word in words if word != "3") is None
    assert len(repository.asked) == 10


def test_a_good_look_is_good_for_one_interval(repository: Held) -> None:
    """Within it no layer is looked at again, afterwards it is."""
    guarded = GuardedRepository(repository, LONG, 0.3)
    for _ in range(5):
        assert guarded.find_unreadable([digest("a"), digest("a")]) is None
    assert repository.asked == [digest("a")]
    time.sleep(0.35)
    assert guarded.find_unreadable([digest("a")]) is None
    assert repository.asked == [digest("a")] * 2


def test_what_was_seen_is_bounded(guarded: GuardedRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that sees ever new layers does not remember them all, also while many threads look."""
    monkeypatch.setattr("cvmfsrepo.guarded._MOST_SEEN", 100)
    guarded.interval = 0.0
    failures = list[BaseException]()

    def see(start: int) -> None:
        try:
            for number in range(start, start + 500):
                guarded.saw(digest(f"{number}"))
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=see, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(guarded._seen) <= 101


def test_work_that_nobody_waits_for_cannot_use_up_the_threads(repository: Held) -> None:
    """It hangs as long as it likes: calls still find a thread."""
    guarded, release = GuardedRepository(repository, SHORT, LONG), threading.Event()
    for _ in range(20):
        guarded.later(lambda: release.wait(3 * LONG))
    time.sleep(2 * SHORT)
    assert soon(lambda: isinstance(find(guarded, "a"), Layer), 2.0)
    release.set()


def test_work_that_nobody_waits_for_is_refused_silently(repository: Held) -> None:
    """Where too many threads hang it is not done, and its caller, who has his answer, gets no error."""
    guarded, release = GuardedRepository(repository, SHORT, LONG), threading.Event()
    guarded._access = Access(SHORT, workers=1, lost_limit=1)
    guarded.call(lambda: release.wait(3 * LONG) and None)
    guarded._breaker.probed("")
    guarded.later(lambda: None)
    release.set()


def test_the_prober_opens_before_anybody_asks(repository: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """And closes as soon as its probe comes back: within one interval."""
    release, scandir = threading.Event(), os.scandir

    def hanging(path: object) -> object:
        assert release.wait(3 * LONG)
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr("cvmfsrepo.guarded.os.scandir", hanging)
    with probing(repository) as guarded:
        assert soon(lambda: state(guarded) is State.OPEN)
        time.sleep(5 * SHORT)
        assert sum(thread.name == "probe" for thread in threading.enumerate()) == 1
        release.set()
        assert soon(lambda: state(guarded) is State.HEALTHY, 1.0)


def test_the_prober_sees_errors_and_their_end(tmp_path: Path) -> None:
    """A repository that is not there is degraded, and healthy when it comes."""
    with probing(Repository(NAME, Layout(tmp_path / "away"))) as guarded:
        assert soon(lambda: state(guarded) is State.DEGRADED)
        assert guarded.health.detail.endswith(".layers: No such file or directory")
        (tmp_path / "away" / ".layers").mkdir(parents=True)
        assert soon(lambda: state(guarded) is State.HEALTHY)


def test_stopped_probing_ends_its_thread(repository: Held) -> None:
    """Nothing is left that could touch the repository."""
    with probing(repository) as guarded:
        name = f"prober of {guarded.name}"
        assert any(thread.name == name for thread in threading.enumerate())
    assert soon(lambda: not any(thread.name == name for thread in threading.enumerate()))


@pytest.mark.root
def test_another_mount_clears_what_hung_on_the_last(repository: Held) -> None:
    """What hung may hang for ever: it says nothing of the mount that takes its place, also where it is given up later
    than that."""
    mounting.needs_root()
    hold(repository, "a", "b")
    with probing(repository, deadline=0.6) as guarded:
        assert reason(find(guarded, "a")) is Reason.TIMEOUT
        late = threading.Thread(target=find, args=(guarded, "b"))
        late.start()
        with mounting.mounted("none", str(repository.layout.root), repository.layout.root, ["bind"]):
            assert soon(lambda: guarded.mounts == 1, 2.0)
            late.join()
            repository.holding.clear()
            assert isinstance(find(guarded, "a"), Layer)
            assert isinstance(find(guarded, "b"), Layer)
            assert state(guarded) is State.HEALTHY
    for thread in threading.enumerate():
        assert thread is not late


TABLE = r"""21 1 0:20 / / rw - ext4 /dev/sda rw
30 21 0:30 / /cvmfs rw - autofs auto rw
31 30 0:31 / /cvmfs/a.example.org rw - fuse cvmfs2 rw
32 30 0:32 / /cvmfs/a.example rw - fuse cvmfs2 rw
33 21 0:33 / /mnt/a\040b rw - fuse cvmfs2 rw
34 30 0:34 / /cvmfs/a.example.org rw - fuse cvmfs2 rw
"""


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/cvmfs/a.example.org", "34"),
        ("/cvmfs/a.example.org/.layers", "34"),
        ("/cvmfs/a.example", "32"),
        ("/cvmfs/b", "30"),
        ("/mnt/a b/c", "33"),
        ("/mnt", "21"),
    ],
)
def test_the_mount_of_a_path(tmp_path: Path, path: str, number: str) -> None:
    """The deepest that holds it, and of several on one directory the last; names are compared whole."""
    (tmp_path / "table").write_text(TABLE)
    assert mount_of(Path(path), tmp_path / "table") == number


def test_the_revision_is_read_once_an_interval(tmp_path: Path) -> None:
    """By the first caller, then by the prober: no Prepare pays for it."""
    read = list[float]()

    @dataclass(frozen=True)
    class Counted(Repository):
        def find_revision(self) -> int | None:
            read.append(time.monotonic())
            return len(read)

    (tmp_path / ".layers").mkdir()
    with probing(Counted(NAME, Layout(tmp_path)), LONG, 0.3) as guarded:
        assert guarded.find_revision() == 1
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            guarded.find_revision()
        assert 2 <= len(read) <= 5
        assert guarded.find_revision() == len(read)
