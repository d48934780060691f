"""The command line: one module a group of commands, and the rim they share."""
