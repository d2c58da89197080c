"""Losses, scores, schedule, and the task that Lightning trains."""
