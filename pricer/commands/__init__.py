"""The `pricer` command: a module for each subcommand, with what only it uses.

Imports everything; nothing imports it.
"""
