"""Closed conversations in SQL."""
