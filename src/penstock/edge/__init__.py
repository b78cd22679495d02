"""The edge: who a client is, which networks may connect, and how much one client may ask for."""
