"""The command line: parsing and printing only; a file per command."""
