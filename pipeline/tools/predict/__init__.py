"""What a trained model says about videos from outside: files, folders of frames, a camera; as numbers or overlays."""
