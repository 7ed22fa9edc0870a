"""How the published tables are made.

Jobs run trainings, tables and figures are written from their logs, weights are published.
"""
