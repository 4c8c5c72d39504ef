"""`dlkdd targets`: inspect, verify, compare, merge, export and publish soft-target stores."""
