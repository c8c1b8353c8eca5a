"""Kubernetes: a fake API server over real HTTP, and what is tested against it."""
