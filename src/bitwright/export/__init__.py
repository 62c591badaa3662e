"""What leaves a run: standard ONNX, packed tensors, the verification, the report."""
