"""What is measured, and the generators of docs/bench.md and the tables of docs/results.md."""
