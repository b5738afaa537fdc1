"""Today's vision-language models from a local Hugging Face folder: one adapter, no remote code."""
