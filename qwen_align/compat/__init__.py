"""All that touches private names of TRL, transformers and vLLM; tests/compat fails when a version moves one of them."""
