"""PostgreSQL as a client sees it: sessions, catalogue, LSNs, client tools."""
