"""The Keras network before it is converted: opened, rewritten, fine-tuned, exported."""
