"""What both services are made of: the domain, the errors, and the adapters and plumbing that neither service owns alone."""

import os

# From 1.29 on, onnxruntime's Linux wheels send usage data (model names and hashes among them) to their vendor and write a database below the
# home directory, from the moment they are imported, unless this is set before. Here, because nothing of ours is imported earlier.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A product of numpy's BLAS gains nothing from a second thread where searches run side by side: with two threads a call, eight concurrent scans of
# 100,000 vectors took 38 ms of processor time each instead of 5.3 ms (threads that spin for work). Read when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
