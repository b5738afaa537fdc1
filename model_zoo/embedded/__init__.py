"""Tiny multimodal LLMs that this project trained itself and ships: see MODEL_CARD.md."""
