"""Kubernetes manifests (kustomize), and what makes and checks them."""
