"""ONNX files as networks: read, checked, brought into one form, translated to torch."""
