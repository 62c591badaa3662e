"""Mathematics on tensors: tensors in, tensors out."""
