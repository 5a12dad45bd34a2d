"""A report of runs as one page to look at, without a server."""
