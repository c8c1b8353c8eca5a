"""``infer-gateway conformance record``: exchanges with a live engine, kept for tests with every secret left out."""
