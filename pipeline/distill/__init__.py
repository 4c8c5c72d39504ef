"""Distillation: the store of teacher logits, the teacher that fills it, the losses of the student that uses it."""
