"""One run, from its configuration to the prompt artefact and its table; and what is done with a finished prompt."""
