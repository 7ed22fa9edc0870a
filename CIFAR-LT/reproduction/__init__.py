"""How the published tables are made: jobs run trainings, tables and figures are written from their logs, weights are published."""
