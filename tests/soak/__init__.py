"""Soak: many records and keys, with a worker killed again and again, and with nothing at all.

``python -m tests.soak`` runs both and prints a table.
"""
