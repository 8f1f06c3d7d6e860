"""What a webhook says: the forms of both registries, and bodies that somebody wrote to do harm."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.errors import ContractError, InvalidArgument, PermissionDenied
from publisher.listening.webhooks import Allowed, Notice, parse_webhook
from tests.publisher.listening.bodies import DIGEST, INDEX, cloud_event, envelope, event, harbor

HOST = "registry.example.org"
ALLOWED = Allowed.parse([f"https://{HOST}/group/*:v*", f"https://{HOST}/exact:1", "http://127.0.0.1:5000/*"])
NOW = 1_800_000_000.0


def read(body: bytes, registry: str = "") -> Notice:
    return parse_webhook(body, ALLOWED, NOW, registry)


def pushed(notice: Notice) -> list[str]:
    return [str(push.reference) for push in notice.pushes]


def test_both_forms_of_harbor() -> None:
    """The image by the name that Harbor gives it, and the time of the push."""
    told = read(harbor(f"{HOST}/group/image:v1", at=NOW - 60))
    assert (pushed(told), told.pushes[0].at) == ([f"{HOST}/group/image:v1"], NOW - 60)
    told = read(cloud_event(f"{HOST}/group/image:v1", "2027-01-15T07:59:00Z"))
    assert (pushed(told), told.pushes[0].at) == ([f"{HOST}/group/image:v1"], NOW - 60)


def test_an_envelope_of_the_registry() -> None:
    """Pushes of manifests and indexes by tag; blobs, pulls and what has no tag are none."""
    told = read(
        envelope(
            event(HOST, "group/a", "v1"), event(HOST, "group/b", "v2", INDEX), event(HOST, "group/c"),
            event(HOST, "group/d", "v1", "application/octet-stream"), event(HOST, "group/e", "v1", action="pull"),
        )
    )  # fmt: skip
    assert pushed(told) == [f"{HOST}/group/a:v1", f"{HOST}/group/b:v2"]
    assert [(passed.name, passed.reason) for passed in told.passed] == [(f"{HOST}/group/c", "has no tag")]


def test_other_events_lead_to_nothing() -> None:
    """A deletion says what could be done, and the button that tests a webhook in Harbor is no error."""
    told = read(harbor(f"{HOST}/group/image:v1", "DELETE_ARTIFACT"))
    assert (told.pushes, told.passed[0].name) == ((), f"{HOST}/group/image:v1")
    assert "was deleted" in told.passed[0].reason
    assert read(json.dumps({"type": "SCANNING_COMPLETED"}).encode()).pushes == ()
    by_digest = harbor(f"{HOST}/group/image:v1").replace(b"image:v1", f"image@{DIGEST}".encode())
    assert read(by_digest.replace(b'"v1"', f'"{DIGEST}"'.encode())).passed[0].reason == "has no tag"


@pytest.mark.parametrize(
    "name", [f"{HOST}/group/image:latest", f"{HOST}/other:v1", f"{HOST}/exact:2", "evil.example/group/image:v1"]
)
def test_what_is_not_allowed(name: str) -> None:
    """Harbor is told so; a registry would send it again for ever, and so it is passed over."""
    with pytest.raises(PermissionDenied, match="matches no pattern"):
        read(harbor(name))
    host, _, rest = name.partition("/")
    told = read(envelope(event(host, *rest.split(":")), event(HOST, "exact", "1")))
    assert (pushed(told), [passed.name for passed in told.passed]) == ([f"{HOST}/exact:1"], [name])


def test_the_name_of_the_registry_can_be_given() -> None:
    """For one that is called otherwise from here, or does not know its name."""
    assert pushed(read(harbor("harbor-core:8080/group/image:v1"), HOST)) == [f"{HOST}/group/image:v1"]
    assert pushed(read(envelope(event("127.0.0.1:5000", "group/image", "v1")), HOST)) == [f"{HOST}/group/image:v1"]


def test_a_registry_that_nobody_can_tell_from_a_group_of_docker_hub() -> None:
    """Harbor is told so, and the registry's is passed over: it is not Docker Hub that was pushed to."""
    hub = Allowed.parse(["https://docker.io/*"])
    with pytest.raises(InvalidArgument, match="--registry"):
        parse_webhook(harbor("harbor/group/image:v1"), hub, NOW)
    (passed,) = parse_webhook(envelope(event("registry", "group/image", "v1")), hub, NOW).passed
    assert "give --registry HOST:PORT" in passed.reason
    assert pushed(parse_webhook(envelope(event("registry", "a/b", "v1")), hub, NOW, "docker.io")) == [
        "docker.io/a/b:v1"
    ]


@pytest.mark.parametrize(
    "name",
    [
        f"{HOST}/group/../../etc:v1", f"{HOST}/group/a b:v1", f"{HOST}/group/$(id):v1", f"{HOST}/group/a;id:v1",
        f"{HOST}/GROUP/image:v1", f"{HOST}/group/image\n:v1", f"{HOST}/group/{'a' * 300}:v1", f"{HOST}//image:v1",
        f"{HOST}/group/image:v1/../..", f"{HOST}/group/image:-v1", "/group/image:v1", f"{HOST}\0/group/image:v1",
        f"user@{HOST}/group/image:v1", f"http://{HOST}/group/image:v1",
    ],
)  # fmt: skip
def test_names_that_are_none(name: str) -> None:
    """Are refused, or passed over, before they get anywhere."""
    with pytest.raises(ContractError):
        read(harbor(name))
    host, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    told = read(envelope(event(host, repository, tag or "v1")))
    assert (told.pushes, len(told.passed)) == ((), 1)


def test_a_digest_is_not_let_in_behind_a_tag() -> None:
    """Else whoever may post could have any old manifest shown under a name that is allowed."""
    with pytest.raises(PermissionDenied):
        read(harbor(f"{HOST}/group/image:v1").replace(b'image:v1"', f'image:v1@{DIGEST}"'.encode()))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"events": {}}', b'{"events": 1}', b'{"type": 1}', b"[" * 100_000,
        b'{"type": "PUSH_ARTIFACT"}', b'{"type": "PUSH_ARTIFACT", "event_data": {"resources": [1]}}', b'{"x": 1}',
    ],
)  # fmt: skip
def test_what_is_no_notification(body: bytes) -> None:
    """Is refused with a reason."""
    with pytest.raises(InvalidArgument, match="webhook"):
        read(body)


def test_an_odd_event_keeps_no_other_from_being_heard() -> None:
    """In the same envelope."""
    told = read(envelope(1, {"action": 5}, event(HOST, "exact", "1")))
    assert (pushed(told), len(told.passed)) == ([f"{HOST}/exact:1"], 2)


@pytest.mark.parametrize("at", [NOW + 3600, NOW - 90 * 86400, -1e300, 1e300])
def test_a_clock_that_goes_wrong(at: float) -> None:
    """A time at which nobody can have pushed is now."""
    assert read(harbor(f"{HOST}/exact:1", at=at)).pushes[0].at == NOW
    assert read(cloud_event(f"{HOST}/exact:1", "9999-99-99")).pushes[0].at == NOW


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["events", "type", "event_data", "data", "resources", "target", "repository", "tag", "action"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(_JSON)
def test_any_body_is_an_answer_or_an_error_of_ours(document: object) -> None:
    """And leads to nothing that is not allowed."""
    try:
        told = read(json.dumps(document).encode())
    except (InvalidArgument, PermissionDenied):
        return
    assert all(ALLOWED.wants(push.reference) for push in told.pushes)
