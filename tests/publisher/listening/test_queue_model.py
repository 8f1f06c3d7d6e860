"""The queue against a model of it: whatever happens in whatever order, kills among it, no push that was accepted is
forgotten before an attempt that began after it has ended well."""

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cvmfsrepo.errors import InvalidArgument, Unavailable
from publisher.listening.queue import Job, Queue, read_jobs
from tests.examples import examples

_names = st.sampled_from(["r.example/a:1", "r.example/b:1", "r.example/c:1"])


class QueueMachine(RuleBasedStateMachine):
    """`owed` are the images that wait, `hopeless` those that were given up; `late` tells of a push of what is worked
    on."""

    def __init__(self) -> None:
        super().__init__()
        self.root, self.stack = Path(tempfile.mkdtemp(prefix="queue-")), ExitStack()
        self.owed, self.hopeless, self.late = set[str](), set[str](), False
        self.job: Job | None = None
        self.now = time.time()
        self.queue = self.stack.enter_context(Queue.opened(self.root))

    @rule(name=_names)
    def push(self, name: str) -> None:
        self.now += 1
        self.queue.put(name, self.now, now=self.now)
        self.owed.add(name)
        self.hopeless.discard(name)
        self.late = self.late or (self.job is not None and self.job.reference == name)

    @precondition(lambda self: self.job is None)
    @rule()
    def take(self) -> None:
        self.now += 1e6
        self.job, self.late = next(iter(self.queue.take(now=self.now)), None), False
        assert (self.job is None) == (not self.owed)
        assert self.job is None or self.job.reference in self.owed

    @precondition(lambda self: self.job is not None)
    @rule()
    def done(self) -> None:
        assert self.job
        self.queue.done(self.job)
        if not self.late:
            self.owed.discard(self.job.reference)
        self.job = None

    @precondition(lambda self: self.job is not None)
    @rule(hopeless=st.booleans())
    def fail(self, hopeless: bool) -> None:
        assert self.job
        name, error = self.job.reference, InvalidArgument if hopeless else Unavailable
        self.queue.failed(self.job, error("image", name, "fails"), hopeless, now=self.now)
        if hopeless and not self.late:
            self.owed.discard(name)
            self.hopeless.add(name)
        self.job = None

    @rule()
    def begun_and_killed(self) -> None:
        """What ends the process again and again waits like what fails."""
        if self.job is None:
            self.take()
        self.killed_and_started()

    @rule()
    def killed_and_started(self) -> None:
        self.stack.close()
        self.job, self.queue = None, self.stack.enter_context(Queue.opened(self.root))

    @invariant()
    def nothing_is_lost(self) -> None:
        kept = read_jobs(self.root)
        assert {job.reference for job in kept if not job.given_up} == self.owed
        assert {job.reference for job in kept if job.given_up} == self.hopeless
        assert kept == self.queue.jobs()

    def teardown(self) -> None:
        self.stack.close()
        shutil.rmtree(self.root)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=examples(40), stateful_step_count=25, deadline=None)
