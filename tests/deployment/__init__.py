"""Tests that hold images and manifests against the code that runs in them. No cluster, no builder and no network is needed."""
