"""The golden set: passages, questions and judgements that come with the project, for `kb quality`, and the part of it that the search canary asks."""
