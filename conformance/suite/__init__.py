"""The conformance suite's machinery: cases, the client they speak through, the runner and its reports.

A black box over TCP: nothing of the gateway is imported here, so that whoever reads a report can trust it.
"""
