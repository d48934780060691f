"""Everything kept in Redis, and the scripts that change it."""
