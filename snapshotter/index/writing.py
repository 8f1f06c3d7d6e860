"""What the indexer of one repository writes. Each method is a transaction: whatever ends a reading, what was put stays.

All of them raise Damaged and Unwritable.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from cvmfsrepo.digest import Digest, chain_id
from snapshotter.index.database import Database, Transaction, Value
from snapshotter.index.schema import PUT_IMAGE, PUT_LAYER, REFERRED
from snapshotter.index.values import ImageFacts, LayerFacts


class Writer:
    """The rows of one repository."""

    def __init__(self, database: Database, repository: str) -> None:
        self._database, self._name = database, repository
        self._generation = database.generation

    def _transaction(self) -> AbstractContextManager[Transaction]:
        return self._database.transaction(self._generation)

    def get_stamps(self) -> dict[str, str]:
        """The stamp of each entry that is known, by its path."""
        with self._transaction() as transaction:
            return dict(transaction.rows("SELECT path, stamp FROM images WHERE repository = ?", self._name))

    def read_at(self) -> tuple[str, int | None] | None:
        """Where the repository was last read completely, and in which revision; None where it was not."""
        query = "SELECT root, revision FROM repositories WHERE name = ? AND complete"
        with self._transaction() as transaction:
            rows = transaction.rows(query, self._name)
            return (rows[0][0], rows[0][1]) if rows else None

    def begin(self, root: Path, revision: int | None) -> None:
        """A reading begins, in this revision."""
        with self._transaction() as transaction:
            transaction.rows(
                "INSERT INTO repositories VALUES (?, ?, ?, 0, 0) ON CONFLICT (name)"
                " DO UPDATE SET root = excluded.root, revision = excluded.revision, complete = 0",
                self._name, str(root), revision,
            )  # fmt: skip

    def end(self) -> None:
        """The reading is complete."""
        with self._transaction() as transaction:
            query = "UPDATE repositories SET complete = 1, updated = ? WHERE name = ?"
            transaction.rows(query, time.time_ns(), self._name)

    def missing_layers(self, layers: Sequence[Digest]) -> list[Digest]:
        """Those, each once, of which nothing is known."""
        known = "SELECT 1 FROM layers WHERE repository = ? AND digest = ?"
        with self._transaction() as transaction:
            return [x for x in dict.fromkeys(layers) if not transaction.rows(known, self._name, x.hex)]

    def doubtful_layers(self) -> list[Digest]:
        """Those whose diff id is not known or whose documents are damaged."""
        query = "SELECT digest FROM layers WHERE repository = ? AND (diff_id IS NULL OR problem != '')"
        with self._transaction() as transaction:
            return [Digest(digest) for (digest,) in transaction.rows(query, self._name)]

    def find_platform(self, config: Digest) -> str | None:
        """The platform of an image whose config was read before, under another name."""
        where = "repository = ? AND config = ? AND platform != '' AND problem = ''"
        with self._transaction() as transaction:
            rows = transaction.rows(f"SELECT platform FROM images WHERE {where} LIMIT 1", self._name, config.hex)
            return rows[0][0] if rows else None

    def put_image(self, revision: int | None, image: ImageFacts, layers: Sequence[LayerFacts] = ()) -> None:
        """One entry with the layers that are new with it."""
        now = time.time_ns()
        with self._transaction() as transaction:
            for layer in layers:
                self._put_layer(transaction, revision, layer, now)
            problem = image.problem or self._fill_diff_ids(transaction, image)
            ((number,),) = transaction.rows(
                PUT_IMAGE, self._name, image.path, image.stamp, image.reference, image.name, _hex(image.config),
                _hex(image.manifest), image.platform, problem,
            )  # fmt: skip
            transaction.rows("DELETE FROM image_layers WHERE image = ?", number)
            stack: list[tuple[Value, ...]] = [(number, at, layer.hex) for at, (layer, _) in enumerate(image.layers)]
            transaction.run_for("INSERT INTO image_layers VALUES (?, ?, ?, NULL)", stack)
            if image.config:
                self._note_seen(transaction, revision, image.reference, image.config, now)
            if not problem:
                self._chain_up(transaction, number)

    def put_layers(self, revision: int | None, layers: Sequence[LayerFacts]) -> None:
        """Layers that were looked at again, and the chains that this completes."""
        incomplete = (
            "SELECT DISTINCT i.id FROM images i JOIN image_layers il ON il.image = i.id"
            " WHERE i.repository = ? AND i.problem = '' AND il.chain IS NULL"
        )
        now = time.time_ns()
        with self._transaction() as transaction:
            for layer in layers:
                self._put_layer(transaction, revision, layer, now)
            for (number,) in transaction.rows(incomplete, self._name):
                self._chain_up(transaction, number)

    def drop_images(self, paths: Sequence[str]) -> None:
        """Entries that are not published any more, and the layers that none of the others has. What was seen when
        stays known."""
        drop = "DELETE FROM images WHERE repository = ? AND path = ? RETURNING id"
        with self._transaction() as transaction:
            for path in paths:
                for row in transaction.rows(drop, self._name, path):
                    transaction.rows("DELETE FROM image_layers WHERE image = ?", *row)
            transaction.rows(f"DELETE FROM layers WHERE repository = ? AND NOT EXISTS ({REFERRED})", self._name)

    def _put_layer(self, transaction: Transaction, revision: int | None, layer: LayerFacts, now: int) -> None:
        transaction.rows(
            PUT_LAYER, self._name, layer.digest.hex, _hex(layer.diff_id), layer.size, layer.tar_size, layer.markers,
            layer.problem,
        )  # fmt: skip
        self._note_seen(transaction, revision, "", layer.digest, now)

    def _note_seen(self, transaction: Transaction, revision: int | None, name: str, digest: Digest, now: int) -> None:
        query = "INSERT OR IGNORE INTO ledger VALUES (?, ?, ?, ?, ?)"
        transaction.rows(query, self._name, name, digest.hex, revision, now)

    def _fill_diff_ids(self, transaction: Transaction, image: ImageFacts) -> str:
        """Takes from the image's config what the layers do not say themselves; answers what contradicts it, or ""."""
        where = "WHERE repository = ? AND digest = ?"
        for (layer, _), diff_id in zip(image.layers, image.diff_ids, strict=False):
            for (known,) in transaction.rows(f"SELECT diff_id FROM layers {where}", self._name, layer.hex):
                if known is None:
                    transaction.rows(f"UPDATE layers SET diff_id = ? {where}", diff_id.hex, self._name, layer.hex)
                elif known != diff_id.hex:
                    return f"layer {layer}: the image's config has another diff id than what stands beside the layer"
        return ""

    def _chain_up(self, transaction: Transaction, image: int) -> None:
        """Writes the chain ids of an image's layers, up to the first whose diff id is not known."""
        rows = transaction.rows(
            "SELECT il.position, y.diff_id FROM image_layers il LEFT JOIN layers y"
            " ON y.repository = ? AND y.digest = il.layer WHERE il.image = ? ORDER BY il.position", self._name, image,
        )  # fmt: skip
        chain, chains = None, list[tuple[Value, ...]]()
        for position, diff_id in rows:
            if diff_id is None:
                break
            chain = chain_id([chain, Digest(diff_id)] if chain else [Digest(diff_id)])
            chains.append((chain.hex, image, position))
        transaction.run_for("UPDATE image_layers SET chain = ? WHERE image = ? AND position = ?", chains)


def _hex(digest: Digest | None) -> str | None:
    return digest.hex if digest else None
