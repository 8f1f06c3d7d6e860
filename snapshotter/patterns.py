"""Regular expressions of a filter: written for Go's RE2, run by Python's `re`.

The two differ, and that is settled before Python compiles anything:

* What only one of them has is refused: look-around, back references, possessive and atomic groups (Python);
  `\\p{…}`, `\\Q…\\E`, `\\z`, `\\C`, POSIX classes (RE2). What both have means what RE2 says: `$` without `(?m)`
  is the very end, `\\d \\w \\s \\b` know ASCII only, a repetition goes to 1000 at most. One difference stays:
  `(?i)` folds ASCII letters only.
* RE2 takes linear time, Python backtracks. So a group that may repeat holds neither alternatives nor a repetition of
  variable length, and a pattern at most 4 such repetitions. What is left to go wrong is a polynomial in the length of
  a label, not an exponential. Only root can send a filter: this guards against mistakes, not against attacks.
* To containerd's own snapshotters a pattern that does not compile is one that nothing matches; here it is refused.
"""

import re
from collections.abc import Iterator

from cvmfsrepo.errors import InvalidArgument

_LONGEST = 1000
_DEEPEST = 50
_MOST_REPEATS = 1000
_MOST_VARIABLE = 4

_TOKEN = re.compile(
    r"""(?P<escape>\\(?:x[0-9A-Fa-f]{2}|.))
      | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
      | (?P<flags>\(\?[ims-]+\))
      | (?P<open>\((?:\?(?:[ims-]*:|P<[A-Za-z_]\w*>))?(?!\?))
      | (?P<close>\))
      | (?P<repeat>(?:[*+?]|\{(?P<least>\d+)(?P<comma>,(?P<most>\d*))?\})\??)
      | (?P<either>\|)
      | (?P<end>\$)
      | (?P<char>[^\\\[(*+?])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_SHARED_ESCAPES = frozenset("adDsSwWbBAfnrtvx")
_CONFUSING = re.compile(r"(\\.)|([\[&~|])", re.DOTALL)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Raises InvalidArgument for what is no pattern, or none that can be run safely."""
    if len(pattern) > _LONGEST:
        raise _refusal(pattern, f"it is longer than {_LONGEST} characters")
    try:
        return re.compile(_Translation(pattern).text, re.ASCII)
    except (re.error, OverflowError) as error:
        raise _refusal(pattern, str(error)) from error


def _refusal(pattern: str, problem: str) -> InvalidArgument:
    return InvalidArgument("regular expression", pattern, problem, "ask for less, and filter the rest yourself")


class _Translation:
    """A pattern's tokens, checked one by one, and the same for Python."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.groups = [False]  # for each open group: does it hold alternatives or a variable repetition?
        self.last_group = False  # the same for what stands before the current token; False if that is no group
        self.repeatable = False
        self.variable = 0
        self.multiline = bool(re.search(r"\(\?[is]*m", pattern))
        self.text = "".join(self.translated(token) for token in self.tokens())
        if len(self.groups) != 1:
            raise _refusal(pattern, "a group is not closed")

    def tokens(self) -> Iterator[re.Match[str]]:
        """The pattern cut up without a gap."""
        at = 0
        while at < len(self.pattern):
            token = _TOKEN.match(self.pattern, at)
            if not token:
                raise _refusal(self.pattern, f"at character {at}: not a construct of both RE2 and Python")
            yield token
            at = token.end()

    def translated(self, token: re.Match[str]) -> str:
        """The token for Python. Raises InvalidArgument where the two would not mean the same."""
        text = token[0]
        match token.lastgroup:
            case "repeat":
                self.repeat(token)
                return text
            case "open":
                self.opened()
            case "close":
                self.closed()
                return text
            case "either":
                self.groups[-1] = True
            case "escape" if text[1].isalnum() and text[1] not in _SHARED_ESCAPES:
                raise _refusal(self.pattern, f"{text} is not an escape of both RE2 and Python")
            case "set":
                text = self.character_class(text)
            case "char" if text == "{":
                text = r"\{"
            case "end" if not self.multiline:
                text = r"\Z"
        self.last_group = False
        self.repeatable = token.lastgroup not in {"open", "either", "flags"}
        return text

    def character_class(self, text: str) -> str:
        """A character class without what Python reads, or will read, as more than characters."""
        if re.search(r"\[[:.=]|--", text[1:]):
            raise _refusal(self.pattern, f"{text} holds a POSIX class or two hyphens")
        for escape in re.findall(r"\\([A-Za-z0-9])", text):
            if escape not in _SHARED_ESCAPES - set("bBA"):
                raise _refusal(self.pattern, f"\\{escape} is not an escape of both RE2 and Python")
        return text[0] + _CONFUSING.sub(lambda found: found[1] or f"\\{found[2]}", text[1:])

    def opened(self) -> None:
        """A group begins."""
        self.groups.append(False)
        if len(self.groups) > _DEEPEST:
            raise _refusal(self.pattern, f"more than {_DEEPEST} groups inside one another")

    def closed(self) -> None:
        """A group ends; what it holds, the one around it holds too."""
        self.last_group = self.groups.pop()
        if not self.groups:
            raise _refusal(self.pattern, "a group is closed that is not open")
        self.groups[-1] = self.groups[-1] or self.last_group
        self.repeatable = True

    def repeat(self, token: re.Match[str]) -> None:
        """Refuses a repetition that could keep Python busy for ever."""
        least, comma, most = token["least"], token["comma"], token["most"]
        if not self.repeatable:
            raise _refusal(self.pattern, f"nothing for {token[0]} to repeat")
        if any(number and int(number) > _MOST_REPEATS for number in (least, most)):
            raise _refusal(self.pattern, f"{token[0]} repeats more than {_MOST_REPEATS} times")
        single = token[0][0] == "?" or ((most or least) in {"0", "1"} and not (comma and not most))
        if self.last_group and not single:
            raise _refusal(self.pattern, f"{token[0]} repeats a group of alternatives or repetitions")
        if least is None or (comma is not None and most != least):
            self.variable += 1
            self.groups[-1] = True
        if self.variable > _MOST_VARIABLE:
            raise _refusal(self.pattern, f"more than {_MOST_VARIABLE} repetitions of variable length")
        self.repeatable = False
