"""The tables of the index, and what is asked of them often."""

APPLICATION_ID = 0x43_56_49_58  # CVIX
SCHEMA_VERSION = 1

SCHEMA = f"""
BEGIN EXCLUSIVE;
CREATE TABLE repositories (
    name TEXT PRIMARY KEY,
    root TEXT NOT NULL,                     -- where it was read
    revision INTEGER,
    complete INTEGER NOT NULL,
    updated INTEGER NOT NULL                -- nanoseconds since 1970, of the last complete reading
) STRICT;
CREATE TABLE images (                       -- the entries of .metadata, malformed ones too
    id INTEGER PRIMARY KEY,
    repository TEXT NOT NULL,
    path TEXT NOT NULL,
    stamp TEXT NOT NULL,
    reference TEXT NOT NULL,
    name TEXT NOT NULL,
    config TEXT,                            -- 64 hex digits, as all digests; NULL where the entry is malformed
    manifest TEXT,
    platform TEXT NOT NULL,
    problem TEXT NOT NULL,
    UNIQUE (repository, path)
) STRICT;
CREATE INDEX images_name ON images(name);
CREATE INDEX images_config ON images(config);
CREATE TABLE image_layers (
    image INTEGER NOT NULL,
    position INTEGER NOT NULL,
    layer TEXT NOT NULL,
    chain TEXT,                             -- NULL as long as a diff id up to here is not known
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_layer ON image_layers(layer);
CREATE INDEX image_layers_chain ON image_layers(chain) WHERE chain IS NOT NULL;
CREATE TABLE layers (
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    diff_id TEXT,
    size INTEGER,
    tar_size INTEGER,
    markers INTEGER,
    problem TEXT NOT NULL,
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX layers_digest ON layers(digest);
CREATE INDEX layers_diff_id ON layers(diff_id) WHERE diff_id IS NOT NULL;
CREATE TABLE ledger (                       -- what was ever seen, and when first; name "" for layers
    repository TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    revision INTEGER,
    seen INTEGER NOT NULL,
    PRIMARY KEY (repository, name, digest)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""

IMAGE = (
    "SELECT i.id, i.reference, i.repository, i.config, i.manifest, i.platform, l.revision, l.seen, i.problem, i.name"
    " FROM images i JOIN ledger l ON (l.repository, l.name, l.digest) = (i.repository, i.reference, i.config) WHERE "
)
LAYER = (
    "SELECT y.digest, y.diff_id, y.size, y.tar_size, y.markers, y.repository, l.revision, l.seen"
    " FROM layers y JOIN ledger l ON (l.repository, l.name, l.digest) = (y.repository, '', y.digest) WHERE "
)
BY_CHAIN = (
    "SELECT DISTINCT i.repository, il.layer FROM image_layers il JOIN images i ON i.id = il.image WHERE il.chain = ?"
)
REFERRED = (
    "SELECT 1 FROM image_layers il JOIN images i ON i.id = il.image"
    " WHERE il.layer = layers.digest AND i.repository = layers.repository"
)

PUT_IMAGE = (
    "INSERT INTO images (repository, path, stamp, reference, name, config, manifest, platform, problem)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, path) DO UPDATE SET stamp = excluded.stamp,"
    " reference = excluded.reference, name = excluded.name, config = excluded.config, manifest = excluded.manifest,"
    " platform = excluded.platform, problem = excluded.problem RETURNING id"
)
PUT_LAYER = (
    "INSERT INTO layers VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, digest) DO UPDATE SET"
    " diff_id = coalesce(excluded.diff_id, diff_id), size = coalesce(excluded.size, size),"
    " tar_size = excluded.tar_size, markers = excluded.markers, problem = excluded.problem"
)
