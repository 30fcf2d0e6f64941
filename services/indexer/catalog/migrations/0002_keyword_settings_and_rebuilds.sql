-- How keyword search reads the texts of a project. A project that was there before keeps what was the rule: English.
ALTER TABLE project ADD COLUMN keyword_language TEXT NOT NULL DEFAULT 'english';
ALTER TABLE project ADD COLUMN stemming INTEGER NOT NULL DEFAULT 1;
ALTER TABLE project ADD COLUMN stop_words INTEGER NOT NULL DEFAULT 1;
ALTER TABLE project ADD COLUMN more_stop_words TEXT NOT NULL DEFAULT '[]';

-- Collections of generations that are over, until they are gone from the vector store.
CREATE TABLE superseded_collection (
  name TEXT PRIMARY KEY
) WITHOUT ROWID;
