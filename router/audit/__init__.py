"""The online auditor: the invariants, looked at on a live store."""
