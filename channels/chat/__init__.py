"""Web chat and the agents' console."""
