"""The student: soft targets loaded for one training, distillation losses, and the schedule of their weight."""
