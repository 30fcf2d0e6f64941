-- Chunks that cannot be embedded, or that the vector store refuses, while it takes others. `held`: the projection leaves them out. A chunk that is
-- tried again is not held, and its row goes when the vector store has it; one that fails again is held again.
CREATE TABLE quarantine (
  key             INTEGER PRIMARY KEY AUTOINCREMENT,
  chunk_key       INTEGER NOT NULL UNIQUE REFERENCES chunk (key) ON DELETE CASCADE,
  project_key     INTEGER NOT NULL,
  held            INTEGER NOT NULL,
  stage           TEXT    NOT NULL,              -- 'embedding' or 'vector_store'
  reason          TEXT    NOT NULL,
  failures        INTEGER NOT NULL,
  quarantine_time INTEGER NOT NULL
);
CREATE INDEX quarantine_by_project ON quarantine (project_key, held, stage);

-- However a chunk comes to its end, with its document or by another version of it, it leaves the quarantine: if it comes back, it is tried anew.
CREATE TRIGGER quarantine_ends_with_the_chunk AFTER UPDATE OF live ON chunk WHEN old.live AND NOT new.live BEGIN
  DELETE FROM quarantine WHERE chunk_key = new.key;
END;

CREATE VIEW held_chunk AS SELECT chunk_key FROM quarantine WHERE held;
