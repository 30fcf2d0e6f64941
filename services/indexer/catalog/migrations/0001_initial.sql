-- Times are microseconds since 1970 UTC. Sequences are gapless within a project; 0 means nothing yet.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value NOT NULL
) WITHOUT ROWID;

-- A deleted project stays as its own tombstone in the project list's feed until it is compacted away; its id may be taken again.
CREATE TABLE project (
  key               INTEGER PRIMARY KEY AUTOINCREMENT,
  id                TEXT    NOT NULL,
  display_name      TEXT    NOT NULL,
  description       TEXT    NOT NULL,
  labels            TEXT    NOT NULL,
  embedding_model   TEXT    NOT NULL,
  max_tokens        INTEGER NOT NULL,
  overlap_tokens    INTEGER NOT NULL,
  generation        INTEGER NOT NULL,
  epoch             TEXT    NOT NULL,
  head              INTEGER NOT NULL DEFAULT 0,  -- sequence of the last committed change
  floor             INTEGER NOT NULL DEFAULT 0,  -- tombstones up to here are compacted away
  embedded_sequence INTEGER NOT NULL DEFAULT 0,  -- every change up to here has its vectors in `embedding`
  vector_sequence   INTEGER NOT NULL DEFAULT 0,  -- every change up to here is in the vector store
  rebuild_target    INTEGER NOT NULL DEFAULT 0,  -- a project in state 'rebuilding' is active again when vector_sequence is here
  document_count    INTEGER NOT NULL DEFAULT 0,
  chunk_count       INTEGER NOT NULL DEFAULT 0,
  state             TEXT    NOT NULL,
  revision          INTEGER NOT NULL DEFAULT 1,  -- the etag
  list_sequence     INTEGER NOT NULL,            -- sequence of the last change in the project list's feed
  deleted           INTEGER NOT NULL DEFAULT 0,
  purged            INTEGER NOT NULL DEFAULT 0,  -- a deleted project whose documents and collection are gone
  create_time       INTEGER NOT NULL,
  update_time       INTEGER NOT NULL
);
CREATE UNIQUE INDEX project_by_id ON project (id) WHERE deleted = 0;
CREATE UNIQUE INDEX project_by_list_sequence ON project (list_sequence);

-- The log-compacted feed: each row carries the sequence of its last change; a deleted document stays as its tombstone.
CREATE TABLE document (
  key          INTEGER PRIMARY KEY,
  project_key  INTEGER NOT NULL,
  id           TEXT    NOT NULL,
  sequence     INTEGER NOT NULL,
  deleted      INTEGER NOT NULL DEFAULT 0,
  title        TEXT    NOT NULL,
  metadata     BLOB    NOT NULL,
  content_hash TEXT    NOT NULL,
  chunk_count  INTEGER NOT NULL,
  create_time  INTEGER NOT NULL,
  update_time  INTEGER NOT NULL,
  traceparent  TEXT    NOT NULL,
  tracestate   TEXT    NOT NULL,
  text         TEXT    NOT NULL                  -- last, so that reading the columns before it does not read its pages
);
CREATE UNIQUE INDEX document_by_id ON document (project_key, id);
CREATE UNIQUE INDEX document_by_sequence ON document (project_key, sequence);

-- The same for chunks, as the vector store needs them: a chunk that is no longer live stays until it is deleted from the vector store.
-- The text of a chunk is text[start_offset:end_offset] of its document, in code points.
CREATE TABLE chunk (
  key          INTEGER PRIMARY KEY AUTOINCREMENT,
  project_key  INTEGER NOT NULL,
  id           TEXT    NOT NULL,
  document_key INTEGER NOT NULL,
  sequence     INTEGER NOT NULL,                 -- of the change that made it live, or ended it
  live         INTEGER NOT NULL,
  ordinal      INTEGER NOT NULL,
  start_offset INTEGER NOT NULL,
  end_offset   INTEGER NOT NULL
);
CREATE UNIQUE INDEX chunk_by_id ON chunk (project_key, id);
CREATE INDEX chunk_by_sequence ON chunk (project_key, sequence, key);
CREATE INDEX chunk_by_document ON chunk (document_key, ordinal);

-- Vectors, so that a lost vector store is rebuilt without embedding anything again. Little-endian float32.
CREATE TABLE embedding (
  chunk_key INTEGER PRIMARY KEY REFERENCES chunk (key) ON DELETE CASCADE,
  vector    BLOB NOT NULL
);

-- Answers of writes that carried a request id, for as long as a repeated call is answered with them.
CREATE TABLE request (
  scope       TEXT    NOT NULL,                  -- id of the project, or '' for project calls
  request_id  TEXT    NOT NULL,
  fingerprint BLOB    NOT NULL,
  response    BLOB    NOT NULL,
  create_time INTEGER NOT NULL,
  PRIMARY KEY (scope, request_id)
) WITHOUT ROWID;
CREATE INDEX request_by_time ON request (create_time);
