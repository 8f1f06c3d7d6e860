"""Regular expressions written for Go and run by Python."""

import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfsrepo.errors import InvalidArgument
from snapshotter.patterns import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("", "", True),
        ("b", "abc", True),
        ("^b", "abc", False),
        ("c$", "abc", True),
        ("c$", "abc\n", False),
        ("(?m)c$", "abc\nd", True),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("(?i)ABC", "abc", True),
        ("(?i:A)bc", "abc", True),
        ("(?:ab){2}c", "ababc", True),
        ("(?P<x>a|b)c", "bc", True),
        ("(foo|bar)?baz", "barbaz", True),
        ("(foo|bar){1}baz", "barbaz", True),
        (r"\d+", "٣", False),
        (r"\w", "é", False),
        (r"\x41", "A", True),
        (r"\.\/\-\_", "./-_", True),
        ("a{,2}", "aa", False),
        ("a{,2}", "a{,2}", True),
        ("a{x", "a{x", True),
        ("[]a]", "]", True),
        ("[^]a]", "]", False),
        ("[[a]", "[", True),
        ("[a&&b]", "&", True),
        ("[a||b]", "|", True),
        (r"[\d\]]+x", "4]x", True),
        ("[a-c-]", "-", True),
        ("a.*?b.*c", "a__b__c", True),
        (r"\bkey\b", "ns/1/key", True),
    ],
)  # fmt: skip
def test_what_both_have_means_what_go_says(pattern: str, text: str, found: bool) -> None:
    """Constructs of both languages, among them those that Python alone would read otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (compile_pattern(pattern).search(text) is not None) is found


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "a)", "[", "[a", "*", "+a", "?", "a**", "a*+", "a++", "a?+", "a{2}{3}", "(|*)", "^*", "[b-a]", "(?L)",
        "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"(a)\1", "(?P<x>a)(?P=x)", "(?(1)a)", "(?>a)", "(?#c)", "(?x) a",
        r"\pL", r"\p{Greek}", r"\Qa\E", r"\z", r"\Z", r"\C", r"\u0041", r"\N{DIGIT ONE}", r"\x{41}", r"\xg", r"\0",
        "[[:alpha:]]", "[a--b]", r"[\b]", r"[\Z]", "a{1001}", "a{2,1}", "a{99999999999999999999}", "a(?i)b", "\\",
        "a" * 1001, "(" * 60 + ")" * 60,
    ],
)  # fmt: skip
def test_what_one_side_lacks_is_refused(pattern: str) -> None:
    """Nothing is run that Go would read differently, or not at all; the error names the pattern."""
    with pytest.raises(InvalidArgument, match=r"^regular expression "):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*$", "(a|a)*$", "(a|aa)+$", "((a+))+$", "(a?){30}a{30}", "(a+){2,}$", "(x(a|b)y)*",
        "a?a?a?a?a?aaaaa", ".*.*.*.*.*x", "(?:a{1,3}){1,30}$", "(a{0,5})*",
    ],
)  # fmt: skip
def test_what_could_run_for_ever_is_refused(pattern: str) -> None:
    """The shapes that make a backtracking matcher exponential never reach it."""
    with pytest.raises(InvalidArgument, match=r"repeats a group|variable length"):
        compile_pattern(pattern)


def test_usual_patterns_are_quick_on_the_longest_label() -> None:
    """What a person would write is answered at once for 4096 bytes that nearly match."""
    label = "k8s.io/" + "extract-" * 511
    started = time.monotonic()
    for pattern in ("^k8s.io/.*extract-.*xyz$", ".*extract-[0-9]+-.*", "(?i)EXTRACT-(a|b)$"):
        assert compile_pattern(pattern).search(label) is None
    assert time.monotonic() - started < 2


PIECES = ["a", "b", ".", "(", ")", "(?:", "|", "*", "+", "?", "{1,2}", "{3}", "[", "]", "[^a]", "\\", "^", "$", "-"]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=20).map("".join)))
def test_any_text_compiles_or_is_refused(pattern: str) -> None:
    """No other error, no warning, and what compiles ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            compiled = compile_pattern(pattern)
        except InvalidArgument:
            return
        compiled.search("ab" * 20 + "c")
