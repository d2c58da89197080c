"""The verbs of the command ``scenewise``, one module each."""
