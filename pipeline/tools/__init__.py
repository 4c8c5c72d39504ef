"""What no stage imports: checks, the demo, exports, pictures for people, predictions, studies, soft-target tools."""
