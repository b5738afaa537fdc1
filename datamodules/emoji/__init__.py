"""The embedded data: scenes rendered from packaged emoji art, and questions about them."""
