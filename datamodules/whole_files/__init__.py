"""Files that are there whole or not at all: written, or downloaded. Knows of no data set and no model."""
