"""The stories, the tokenizer and the loop with which the embedded models are trained."""
