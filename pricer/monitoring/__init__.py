"""Monitoring: whether what a service prices now is still like what its model was judged on.

Reads the service's log or a predictions file; knows no model and imports no torch. May import the
ground, products, evidence, prices, judging and serving.
"""
