"""A trained model as an ordinary Hugging Face folder."""
