"""Scores in dollars: metrics, baselines, comparison, charts, the report.

Imports the ground, products and prices without torch; not training.
"""
