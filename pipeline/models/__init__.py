"""The networks by name, their pretrained weights, the model file, and a trained network's logits."""
