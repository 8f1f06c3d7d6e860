"""`python -m tests.fuzz.guided TARGET SECONDS [CORPUS]` looks for input that reaches new code (libFuzzer through
atheris), starting from the target's valid inputs and going on from what CORPUS holds.

atheris is in the extra `fuzz`: pip install -e '.[fuzz]'. An input that breaks something is written to the
working directory and printed; it becomes a test.
"""

import importlib
import sys
import tempfile
from pathlib import Path

LONGEST = 4096


def main(name: str, seconds: int, corpus: Path) -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["cvmfsrepo", "publisher", "snapshotter"]):
        target = importlib.import_module("tests.fuzz.targets").TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) > 3:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(sys.argv[1], int(sys.argv[2]), Path(directory))
