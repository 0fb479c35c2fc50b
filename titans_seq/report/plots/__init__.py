"""Pictures of predictions and scores, as PNG files: a module a subject, and what they share in `drawing`."""
