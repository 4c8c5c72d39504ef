"""For the eye: the preview of all enhancers on a contact sheet, and the frames of a store as video files."""
