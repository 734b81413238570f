"""The verbs, one file a family: what is typed, what is printed. The work is done by the other packages."""
