"""The story of two outages, told in the terminal and judged from the vendors' own journals."""
