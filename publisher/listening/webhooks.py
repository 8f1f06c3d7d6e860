"""What a registry says happened -> the images that are to be published. Pure.

Two kinds of bodies are known: Harbor's (its default form and CloudEvents), one event a body, and those of the registry
of CNCF Distribution, an envelope of events. Whoever may post may write anything into them: names are parsed as
references, and none counts beyond what is allowed here. The registry sends a refused envelope again for ever and
nothing after it, so of an envelope only a form that is none is refused; what it names in vain is passed over.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import msgspec

from cvmfsrepo.errors import ContractError, InvalidArgument, PermissionDenied
from cvmfsrepo.oci import INDEX_TYPES, MANIFEST_TYPES, Reference
from publisher.wishes.wish import Wish

_OLDEST = 30 * 86400.0
"""Seconds: an older push is one whose clock is wrong."""
_PUSHED = ("PUSH_ARTIFACT", "harbor.artifact.pushed")
_DELETED = ("DELETE_ARTIFACT", "harbor.artifact.deleted")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which images may be published, as patterns in the form of wishes."""

    wishes: tuple[Wish, ...]

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Self:
        return cls(tuple(map(Wish.parse, patterns)))

    def wants(self, reference: Reference) -> bool:
        """Only by tag: with a digest a stranger could have any old manifest shown under a name."""
        return (
            reference.tag is not None
            and reference.digest is None
            and any(
                wish.registry == reference.registry
                and wish.wants_repository(reference.repository)
                and wish.wants_tag(reference.tag)
                for wish in self.wishes
            )
        )

    @property
    def plain(self) -> frozenset[str]:
        """The registries that speak HTTP without TLS."""
        return frozenset(wish.registry for wish in self.wishes if wish.plain)


@dataclass(frozen=True, slots=True)
class Push:
    """An image that was pushed, at a time in seconds since 1970."""

    reference: Reference
    at: float


@dataclass(frozen=True, slots=True)
class Passed:
    """Something that leads to no publication, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """What a body says."""

    pushes: tuple[Push, ...] = ()
    passed: tuple[Passed, ...] = ()


class _Resource(msgspec.Struct, frozen=True):
    tag: str = ""
    resource_url: str = ""


class _Repository(msgspec.Struct, frozen=True):
    repo_full_name: str = ""


class _Data(msgspec.Struct, frozen=True):
    resources: tuple[_Resource, ...] = ()
    repository: _Repository = _Repository()


class _Body(msgspec.Struct, frozen=True):
    """Harbor's (`event_data`), a CloudEvent of Harbor (`data`), or an envelope of the registry (`events`)."""

    type: str = ""
    occur_at: float = 0
    time: str = ""
    event_data: _Data | None = None
    data: _Data | None = None
    events: tuple[msgspec.Raw, ...] | None = None


class _Target(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str = ""
    repository: str = ""
    tag: str = ""


class _Request(msgspec.Struct, frozen=True):
    host: str = ""


class _Event(msgspec.Struct, frozen=True):
    action: str = ""
    timestamp: str = ""
    target: _Target = _Target()
    request: _Request = _Request()


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def parse_webhook(content: bytes, allowed: Allowed, now: float, registry: str = "") -> Notice:
    """`registry` is the name to be used in place of the one that the body says. InvalidArgument for what is no such
    body, and PermissionDenied for a push to Harbor of nothing that is allowed."""
    try:
        body = _decode_body(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument("webhook", content[:80], f"does not parse: {error}") from None
    if body.events is not None:
        return _notice(list(_of_envelope(body.events, allowed, now, registry)))
    if not body.type:
        raise InvalidArgument("webhook", content[:80], "is neither Harbor's nor a registry's notification")
    return _of_harbor(body, body.event_data or body.data or _Data(), allowed, now, registry)


def _of_harbor(body: _Body, data: _Data, allowed: Allowed, now: float, registry: str) -> Notice:
    names = [resource.resource_url for resource in data.resources]
    if body.type in _DELETED:
        return Notice((), tuple(Passed(name, "was deleted: `remove` withdraws what is published") for name in names))
    if body.type not in _PUSHED:
        return Notice((), (Passed(body.type, "is no push"),))
    if not data.resources:
        raise InvalidArgument("webhook", body.type, "names no resources")
    at, found = _time_of(body.occur_at or body.time, now), list[Push | Passed]()
    for resource in data.resources:
        if not resource.tag or resource.tag.startswith("sha256:"):
            found.append(Passed(resource.resource_url, "has no tag"))
            continue
        name = resource.resource_url
        if registry:
            name = f"{registry}/{data.repository.repo_full_name}:{resource.tag}"
        found.append(_allowed(name, allowed, at))
    notice = _notice(found)
    if not notice.pushes and any(passed.reason == _FORBIDDEN for passed in notice.passed):
        raise PermissionDenied("image", notice.passed[0].name, _FORBIDDEN, "allow it with --allow")
    return notice


_FORBIDDEN = "matches no pattern that is allowed"


def _of_envelope(events: Sequence[msgspec.Raw], allowed: Allowed, now: float, registry: str) -> Iterator[Push | Passed]:
    for raw in events:
        try:
            event = _decode_event(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            yield Passed("event", f"does not parse: {error}")
            continue
        target = event.target
        if event.action != "push" or target.media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
            continue
        name = f"{registry or event.request.host}/{target.repository}"
        if not target.tag:
            yield Passed(name, "has no tag")
            continue
        try:
            yield _allowed(f"{name}:{target.tag}", allowed, _time_of(event.timestamp, now))
        except ContractError as error:
            yield Passed(name, str(error))


def _allowed(name: str, allowed: Allowed, at: float) -> Push | Passed:
    """InvalidArgument for what is no reference with its registry."""
    reference = Reference.parse(name)
    if not name.startswith(f"{reference.registry}/"):  # it would be taken for an image of Docker Hub
        raise InvalidArgument("image", name, "has a registry without dot or port", "give --registry HOST:PORT")
    return Push(reference, at) if allowed.wants(reference) else Passed(str(reference), _FORBIDDEN)


def is_registry(name: str) -> bool:
    """Whether a name is taken for a registry's where it stands before an image."""
    try:
        return Reference.parse(f"{name}/image:tag").registry == name
    except InvalidArgument:
        return False


def _notice(found: Sequence[Push | Passed]) -> Notice:
    return Notice(
        tuple(one for one in found if isinstance(one, Push)), tuple(one for one in found if isinstance(one, Passed))
    )


def _time_of(said: float | str, now: float) -> float:
    """Now, where nobody could have pushed then."""
    try:
        at = datetime.fromisoformat(said).astimezone(UTC).timestamp() if isinstance(said, str) else said
    except (ValueError, OverflowError):
        return now
    return at if now - _OLDEST <= at <= now else now
