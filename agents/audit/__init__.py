"""Auditing a deployment: what its topics hold is counted anew and reconciled with its accounts.

Nothing that the worker counted is taken for granted. The records are read with another client and
decoded once more, so that dead letters, filtered records and duplicates are known independently;
dead letters and scored events are read from their topics. What the records alone cannot tell, how
many came late and how many windows they make, is compared between the account and those topics.

The decoder is the worker's own and the settings are the present file's: an audit proves that no
record was lost, not that the decoder is right, and a stream whose settings changed since its first
record does not balance.
"""

from __future__ import annotations

from agents.audit.auditor import audit
from agents.audit.report import Audit, Finding, Reconciled

__all__ = ["Audit", "Finding", "Reconciled", "audit"]
