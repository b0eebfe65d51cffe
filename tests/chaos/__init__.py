"""Chaos: faults of all kinds while records flow, and a check that nothing shows of them.

``python -m tests.chaos`` runs the schedules and prints a table.
"""
