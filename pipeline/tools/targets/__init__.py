"""`dlkdd targets`: inspect, verify, compare, merge, import, export and publish soft-target stores."""
