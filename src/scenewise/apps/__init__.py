"""The command ``scenewise``: one module or folder for each of its subcommands."""
