"""Small tools that know nothing of mvpnet."""
