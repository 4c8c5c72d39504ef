"""`dlkdd check`: everything that can fail, looked at before it does; problems and warnings, each with a remedy."""
