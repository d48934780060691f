"""Who says it, where, now? The use cases, the protocol in Redis, the loops and the faces."""
