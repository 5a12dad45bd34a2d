"""Layouts of data sets: the authors' release, TEdBench, PIE-Bench, and tables of one's own."""
