-- A catalog of schema version 2, as SQLite's shell dumps it: a German project with a document of two chunks and one tombstone, after a rebuild.

PRAGMA page_size=4096;

BEGIN TRANSACTION;

DROP TABLE IF EXISTS chunk;
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
INSERT INTO chunk VALUES(1,1,'guide#0000000000000000',1,1,1,0,0,16);
INSERT INTO chunk VALUES(2,1,'guide#0000000000000001',1,1,1,1,18,35);
CREATE INDEX chunk_by_document ON chunk (document_key, ordinal);
CREATE UNIQUE INDEX chunk_by_id ON chunk (project_key, id);
CREATE INDEX chunk_by_sequence ON chunk (project_key, sequence, key);

DROP TABLE IF EXISTS document;
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
INSERT INTO document VALUES(1,1,'guide',1,0,'The guide',X'7B226C616E67223A22656E222C2274616773223A5B2261222C2262225D7D','a08d83af2b9552ccebc22bc2be88a0fb',2,1795448090474241,1795448090474241,'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01','','First paragraph.

Second paragraph.');
INSERT INTO document VALUES(2,1,'gone',3,1,'',X'7B7D','',0,1795448090474241,1795448090475023,'','','');
CREATE UNIQUE INDEX document_by_id ON document (project_key, id);
CREATE UNIQUE INDEX document_by_sequence ON document (project_key, sequence);

DROP TABLE IF EXISTS embedding;
CREATE TABLE embedding (
  chunk_key INTEGER PRIMARY KEY REFERENCES chunk (key) ON DELETE CASCADE,
  vector    BLOB NOT NULL
);
INSERT INTO embedding VALUES(1,X'0000803F00000000');
INSERT INTO embedding VALUES(2,X'000000000000803F');

DROP TABLE IF EXISTS meta;
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES('epoch','2d8fbcda33dae3c0');
INSERT INTO meta VALUES('last_generation',2);
INSERT INTO meta VALUES('list_floor',0);
INSERT INTO meta VALUES('list_head',3);
INSERT INTO meta VALUES('probed',0);

DROP TABLE IF EXISTS project;
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
, keyword_language TEXT NOT NULL DEFAULT 'english', stemming INTEGER NOT NULL DEFAULT 1, stop_words INTEGER NOT NULL DEFAULT 1, more_stop_words TEXT NOT NULL DEFAULT '[]');
INSERT INTO project VALUES(1,'library','Library','Books','{"team":"search"}','all-MiniLM-L6-v2',256,32,2,'adf346c78950b387',3,0,3,3,3,1,2,'active',1,3,0,0,1795448090472112,1795448090472112,'german',0,1,'["bzw"]');
CREATE UNIQUE INDEX project_by_id ON project (id) WHERE deleted = 0;
CREATE UNIQUE INDEX project_by_list_sequence ON project (list_sequence);

DROP TABLE IF EXISTS request;
CREATE TABLE request (
  scope       TEXT    NOT NULL,                  -- id of the project, or '' for project calls
  request_id  TEXT    NOT NULL,
  fingerprint BLOB    NOT NULL,
  response    BLOB    NOT NULL,
  create_time INTEGER NOT NULL,
  PRIMARY KEY (scope, request_id)
) WITHOUT ROWID;
CREATE INDEX request_by_time ON request (create_time);

DROP TABLE IF EXISTS superseded_collection;
CREATE TABLE superseded_collection (
  name TEXT PRIMARY KEY
) WITHOUT ROWID;
INSERT INTO superseded_collection VALUES('kb_library_g1_adf346c7');

DELETE FROM main.sqlite_sequence WHERE name='chunk';
INSERT INTO main.sqlite_sequence VALUES ('chunk', 3);
DELETE FROM main.sqlite_sequence WHERE name='project';
INSERT INTO main.sqlite_sequence VALUES ('project', 1);

pragma user_version=2;

COMMIT TRANSACTION;
