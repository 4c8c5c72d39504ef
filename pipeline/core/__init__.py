"""What every room stands on: errors and files, parameters and tables, progress, devices; no video and no network."""
