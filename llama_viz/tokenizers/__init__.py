"""The kinds of tokenizers, one module each; llama_viz.tokenizer tells them apart."""
