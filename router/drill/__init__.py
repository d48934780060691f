"""A rehearsed outage that touches no customer: the settings' own policy, stand-in vendors, invented people."""
