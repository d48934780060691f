"""Stand-in vendors on the real wire protocols, with faults to switch on, and the customer's pocket."""
