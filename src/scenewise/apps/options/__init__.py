"""The options of each command, one file a command; nothing here imports PyTorch.

``--help`` and wrong arguments are answered before the command itself is loaded.
"""
