"""How do we speak to it? One adapter a provider, behind one contract; knows nothing of the router."""
