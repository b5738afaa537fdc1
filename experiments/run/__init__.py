"""One run, from its configuration to the prompt artefact and its table."""
