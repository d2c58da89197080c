"""Coverage-guided fuzzing of all readers of untrusted files; ``make fuzz`` runs it."""
