"""From files to documents, lazily: walk → read → batch. Synchronous generators; the command runs them in a thread, a batch at a time."""
