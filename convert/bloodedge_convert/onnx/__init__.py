"""Making ONNX networks."""
