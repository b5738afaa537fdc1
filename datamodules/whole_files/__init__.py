"""Files that are there whole or not at all: written, or downloaded. And the command lines that get them.

Knows of no data set and no model.
"""
