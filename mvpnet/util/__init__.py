"""General helpers that do not depend on the rest of mvpnet."""
