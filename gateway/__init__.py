"""infer-gateway's core: what every request goes through, whatever protocol it came in by. (P)"""

__version__ = "0.1.0"
