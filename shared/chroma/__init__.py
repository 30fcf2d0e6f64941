"""ChromaDB behind the port `shared.ports.VectorStore`: an adapter of our own on its documented v2 REST API.

ResilientVectorStore (resilient.py)   retry, circuit breaker and time limit around any vector store
  └── ChromaClient (client.py)        collections, batches, names and ids
        └── Transport (transport.py)  one HTTP call: pool, time limit, span, answer
              ├── status.py           the one table from failures to our errors
              └── wire.py             bodies and answers, pure
"""
