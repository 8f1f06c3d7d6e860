"""The index's file while it is being made by one thread and looked into by another."""

import sqlite3
from pathlib import Path

import pytest

from snapshotter.index.database import Database
from snapshotter.index.schema import SCHEMA


class _Slow(sqlite3.Connection):
    """A reader that is overtaken: the tables are made and committed after its first question about the version."""

    makers: list[sqlite3.Connection] = []  # noqa: RUF012 - filled by the test

    def execute(self, query: str, *given: object) -> sqlite3.Cursor:
        cursor = super().execute(query, *given)  # type: ignore[arg-type]
        if query == "PRAGMA application_id" and _Slow.makers:
            answer = cursor.fetchall()
            _Slow.makers.pop().executescript(SCHEMA)
            return super().execute("SELECT ?", answer[0])
        return cursor


def test_an_index_that_is_just_being_made_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup at that moment finds nothing; it does not take the half of what it sees for another program's file."""
    path = tmp_path / "index.sqlite"
    maker = sqlite3.connect(path, isolation_level=None)
    maker.execute("PRAGMA journal_mode = WAL")
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda *a, **k: connect(*a, **k, factory=_Slow))
    _Slow.makers.append(maker)
    database = Database(path)
    assert database.read("SELECT name FROM repositories") == []
    assert database.damage == ""
    assert _Slow.makers == []
    assert database.read("SELECT count(*) FROM repositories") == [(0,)]
    database.close()
    maker.close()
