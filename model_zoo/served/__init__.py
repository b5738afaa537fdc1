"""Models behind an OpenAI-compatible server, which can only be scored: vLLM, SGLang, `transformers serve`, others."""
