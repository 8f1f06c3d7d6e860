"""The filter grammar: what containerd sends, what a person may type, and what is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.errors import InvalidArgument
from snapshotter.filters import Filter, Operator, parse_filters, quote

REF = "containerd.io/snapshot.ref"
CHAIN = "sha256:" + "ab" * 32


class Kind(Enum):
    """Stands in for the node's own."""

    ACTIVE = 2
    COMMITTED = 3

    @property
    def label(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Info:
    """As much of a snapshot as a filter sees."""

    name: str = "n"
    parent: str = ""
    kind: Kind = Kind.COMMITTED
    labels: Mapping[str, str] = field(default_factory=dict)


def matches(text: str, info: Info) -> bool:
    """One filter against one snapshot."""
    return parse_filters([text]).matches(info)


def test_no_filter_and_an_empty_filter_pass_everything() -> None:
    """List without filters lists all; so does an empty text among others."""
    for texts in ([], [""], ["name==x", ""]):
        assert parse_filters(texts).matches(Info())


def test_the_filter_of_containerds_remote_path() -> None:
    """What containerd asks after AlreadyExists: the label's name and the parent quoted, the target bare."""
    text = f'labels."{REF}"=={CHAIN},parent==""'
    assert matches(text, Info(labels={REF: CHAIN}))
    assert not matches(text, Info(labels={REF: CHAIN}, parent="p"))
    assert not matches(text, Info(labels={REF: CHAIN + "0"}))
    assert not matches(text, Info())


def test_equalities_serve_an_index() -> None:
    """The values that every match must have are there to be looked up; a second alternative makes them unsure."""
    text = f'labels."{REF}"=={CHAIN},parent=="p",name!=x,kind~=c'
    assert parse_filters([text]).equalities() == {f"labels.{REF}": CHAIN, "parent": "p"}
    assert parse_filters([text, "name==y"]).equalities() == {}
    assert parse_filters([]).equalities() == {}
    assert parse_filters(["labels.x"]).equalities() == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name", True),
        ("parent", True),
        ("kind", True),
        ("labels.a", True),
        ("labels.b", False),
        ("labels", False),
        ("size", False),
        ("name==ns/1/key", True),
        ("name==ns/1/ke", False),
        ("name!=ns/1/ke", True),
        ("parent==", None),
        ('parent==""', True),
        ("kind==active", True),
        ("kind!=active", False),
        ("kind==ACTIVE", False),
        ("size==1", False),
        ("size!=1", True),
        ("labels.a==1", True),
        ("labels.b!=1", True),
        ('labels.b!=""', False),
        ('labels.b==""', False),
        ("labels.x.y-z_0==dotted", True),
        ('labels."x.y-z_0"==dotted', True),
        ('labels."x"."y-z_0"==dotted', True),
        ("name.anything==ns/1/key", True),
        ("labels.a==1,kind==active", True),
        ("labels.a==1,kind==view", False),
        (' name == "ns/1/key", kind== active', True),
        ("name==ns/1/key ,kind", None),
        ("name==ns/1/key ", None),
        ("name ,kind", None),
        ("name~=^ns/.*key$", True),
        ("name~=/ns/", True),
        (r'name~=/\/1\/k/', True),
        ("name~=|s/1/k|", True),
        ("labels.b~=^$", True),
        ("name==/ns/1/key/", None),
        ("name==|ns/1/key|", None),
        ("labels.|a|", None),
        ("name==`ns/1/key`", False),
    ],
)  # fmt: skip
def test_operators_fields_and_quotes(text: str, expected: bool | None) -> None:
    """Each form against one snapshot: passes, does not pass, or (None) is refused, as containerd has it."""
    info = Info("ns/1/key", "", Kind.ACTIVE, {"a": "1", "x.y-z_0": "dotted"})
    if expected is None:
        with pytest.raises(InvalidArgument):
            parse_filters([text])
    else:
        assert matches(text, info) is expected


@pytest.mark.parametrize(
    "text",
    [
        ",", ".", "==", "==x", "name,", "name==a,", "labels.", ".labels", "name=x", "name===x", "name=!x", "name@=x",
        "name==,kind", "name== ", "name==a b", "na me", "name==.x", "name==!x", "?name", 'labels."a', 'name=="a"b',
        'name=="a\nb"', 'name=="\\q"', 'name=="\\', 'name=="\\x4"', 'name=="\\400"', 'name=="\\ud800"',
        'name=="\\U00110000"', "name=='a'x y", 'name=="\\\'"', "name==a\0", "name==\ufffd",
        "name==" + chr(0xDFFF), "\n",
    ],
)  # fmt: skip
def test_bad_syntax_is_refused_with_its_place(text: str) -> None:
    """The error names the filter, where reading it ended, and what a filter looks like."""
    with pytest.raises(InvalidArgument, match=r"^filter .*: at character \d+: .*; write field"):
        parse_filters([text])


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        (r"\a\b\f\n\r\t\v\\", "\a\b\f\n\r\t\v\\"),
        (r"\x41\101\u0041\U00000041", "AAAA"),
        (r"\"", '"'),
        (r"\xc3\xa9", "é"),
        (r"\303\251", "é"),
        (r"\xff", "\udcff"),
        ("é, =!.", "é, =!."),
    ],
)
def test_go_strings(spelled: str, meant: str) -> None:
    """Go's escapes: characters, octal and hexadecimal bytes (which may make up UTF-8, or not), code points."""
    (selectors,) = parse_filters([f'name=="{spelled}"']).alternatives
    assert selectors[0].value == meant


@given(name=st.text(), label=st.text(), other=st.text())
def test_quoting_goes_round(name: str, label: str, other: str) -> None:
    """Whatever a name or a label holds can be quoted, is read back, and matches that name and no other."""
    text = f"name=={quote(name)},labels.{quote(label)}=={quote(other)}"
    assert matches(text, Info(name=name, labels={label: other}))
    assert not matches(text, Info(name=name + "x", labels={label: other}))
    assert not matches(text, Info(name=name, labels={label: other + "x"}))


GRAMMARLIKE = st.lists(
    st.sampled_from(["name", "labels", ".", ",", "==", "!=", "~=", '"', "/", "|", "\\", "x", "(", ")", "[", "]", "*",
                     "+", "?", "{2,}", "^", "$", " ", "\\x41", "\\\\", "a", "-", "&&", "[:alpha:]", "\n"])
).map("".join)  # fmt: skip


@given(st.one_of(st.text(st.characters()), GRAMMARLIKE, GRAMMARLIKE.map(lambda text: f"name~={quote(text)}")))
def test_nothing_but_a_filter_or_invalid_argument(text: str) -> None:
    """Arbitrary text, and text made of the grammar's own pieces, is a filter that can be asked or is refused."""
    try:
        parsed = parse_filters([text])
    except InvalidArgument:
        return
    assert isinstance(parsed, Filter)
    info = Info(name="name x", labels={"x": "aa"})
    result = parsed.matches(info)
    for key, value in parsed.equalities().items():
        actual = {"name": info.name, "labels.x": "aa", "parent": "", "kind": "committed"}.get(key)
        assert not result or key.split(".")[0] in {"name", "parent", "kind"} or actual == value


def test_a_long_filter_is_read_in_linear_time() -> None:
    """A filter of a megabyte, as gRPC would let pass, is no trouble."""
    text = ",".join(["name==" + "x" * 100] * 10_000)
    assert len(parse_filters([text]).alternatives[0]) == 10_000


def test_selectors_are_values() -> None:
    """The parsed form compares and shows: two spellings of one filter are equal."""
    assert parse_filters(['name == "a"']) == parse_filters(["name==a"])
    assert parse_filters(["name!=a"]).alternatives[0][0].operator is Operator.NOT_EQUAL
