"""Phone calls."""
